"""Exports of models: files of several formats, compared with the model before they get their names."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from layergraph.archive import open_archive
from layergraph.archive.replacing import sync
from layergraph.errors import ConfigError, ExportError, unknown_name
from layergraph.execution.plan import Plan
from layergraph.exporting.cases import Cases, differences, find_cases, input_axes, output_axes
from layergraph.exporting.formats import Comparison, onnx_exporter, torch_exporter, write_compared
from layergraph.exporting.onnx_file import DEFAULT_OPSET, check_opset, file_inputs, file_outputs
from layergraph.exporting.tolerances import default_tolerances
from layergraph.functional.strings import Strings
from layergraph.functional.tensor import TensorSpec
from layergraph.models.reading import read_model
from layergraph.training.trainer import Trainer

Array: TypeAlias = "np.ndarray[Any, Any]"

#: Folders of exports in progress.
_unfinished: set[Path] = set()

#: Formats by the suffixes of their files.
FORMATS: Mapping[str, str] = {".keras": "keras", ".h5": "h5", ".onnx": "onnx", ".pt2": "torch"}
#: Formats of keras.Model.export that don't exist here.
_KERAS_FORMATS = ("tf_saved_model", "openvino", "litert")


@dataclass(frozen=True, slots=True)
class ExportedTensor:
    """An input or output: name, shape with names of open axes, dtype; of an output also how far it may be, and is.

    difference   largest difference, relative to the output's largest value
    tolerance    largest difference that is accepted
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    difference: float | None = None
    tolerance: float | None = None

    def text(self) -> str:
        """The tensor as a line."""
        shape = ", ".join(map(str, self.shape)) + ("," if len(self.shape) == 1 else "")
        off = "" if self.difference is None else f", largest difference {self.difference:.2g}"
        return f"{self.name}: ({shape}) {self.dtype}{off}"


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the files, their size, and how far the numbers are from the model's.

    files        paths; a second one has the weights of an ONNX model above 2 GB
    opset        of ONNX, None for other formats
    compared     how many inputs were compared, 0 if none can be drawn at random
    tolerance    the largest of the outputs' tolerances
    conditions   on lengths, which the file has and the model doesn't
    rounded      on how many more inputs differences are larger and due to rounding: the model is as far from float64.
                 They are in `outputs` only if none was compared
    """

    files: tuple[str, ...]
    format: str
    bytes: int
    opset: int | None
    inputs: tuple[ExportedTensor, ...]
    outputs: tuple[ExportedTensor, ...]
    compared: int
    tolerance: float
    conditions: tuple[str, ...] = ()
    rounded: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return asdict(self)

    def text(self) -> str:
        """The report as text."""
        opset = "" if self.opset is None else f", opset {self.opset}"
        lines = [f"wrote {' and '.join(self.files)}: format {self.format}{opset}, {self.bytes:,} bytes"]
        lines += [f"  input {tensor.text()}" for tensor in self.inputs]
        lines += [f"  output {tensor.text()}" for tensor in self.outputs]
        if self.compared:
            tolerances = sorted({tensor.tolerance for tensor in self.outputs if tensor.tolerance is not None})
            accepted = " or ".join(f"{one:g}" for one in tolerances)
            lines.append(f"  compared on {self.compared} inputs, tolerance {accepted} of the largest value")
        elif not self.rounded:
            lines.append("  not compared: no random inputs were found that the model accepts")
        if self.rounded:
            more = " more" if self.compared else ""
            lines.append(f"  on {self.rounded}{more} inputs, larger differences are due to rounding")
        lines += [f"  only for lengths with {condition}" for condition in self.conditions]
        return "\n".join(lines)


def export_model(
    model: Trainer,
    plan: Plan,
    path: Path,
    format: str | None = None,
    *,
    opset: int | None = None,
    tolerance: float | None = None,
    overwrite: bool = True,
    examples: Sequence[Mapping[str, Array]] = (),
) -> Exported:
    """Exports a model, of which `plan` computes all outputs. See `Model.export`."""
    kind = check_arguments(path, format, opset=opset, tolerance=tolerance, overwrite=overwrite)
    tolerances = default_tolerances(plan) if tolerance is None else [tolerance] * len(plan.output_specs)
    cases = _cases(plan, kind, examples)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    _unfinished.add(folder)
    try:
        written = folder / path.name
        if kind in ("onnx", "torch"):
            exporter = onnx_exporter(opset or DEFAULT_OPSET, model.name) if kind == "onnx" else torch_exporter()
            try:
                comparison = write_compared(exporter, plan, cases, written, tolerances)
            except ExportError as wrong:
                raise ExportError(f"model '{model.name}' can't be exported as {kind}: {wrong}") from wrong
        else:
            comparison = Comparison(_saved(model, written, kind, cases, tolerances), len(cases.compared))
        files = _moved(folder, path, overwrite=overwrite)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _unfinished.discard(folder)
    compared = cases.compared
    named = kind == "onnx"
    inputs = file_inputs(plan) if named else plan.input_specs
    outputs = file_outputs(plan) if named else plan.output_specs
    return Exported(
        tuple(map(str, files)),
        kind,
        sum(file.stat().st_size for file in files),
        (opset or DEFAULT_OPSET) if kind == "onnx" else None,
        _tensors(inputs, input_axes(inputs)),
        _tensors(outputs, output_axes(plan, compared), comparison.differences, tolerances),
        comparison.cases,
        max(tolerances, default=0.0),
        tuple(comparison.conditions),
        comparison.explained,
    )


def remove_unfinished() -> bool:
    """Removes the files of exports in progress, for a process that ends at once. Returns whether there are any."""
    for folder in list(_unfinished):
        shutil.rmtree(folder, ignore_errors=True)
    return bool(_unfinished)


def check_arguments(
    path: Path, format: str | None, *, opset: int | None, tolerance: float | None, overwrite: bool
) -> str:
    """The format of an export with these arguments. Raises ConfigError, FileExistsError, or OSError for the folder."""
    kind = _format(path, format)
    if opset is not None and kind != "onnx":
        raise ConfigError(f"export: got opset {opset} for format '{kind}', expected one for 'onnx' only")
    if opset is not None:
        check_opset(opset)
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise ConfigError(f"export: got tolerance {tolerance}, expected a number of at least 0")
    if path.is_dir():
        raise IsADirectoryError(f"'{path}' is a folder, expected a path for a file")
    if not overwrite and path.exists():
        raise FileExistsError(f"'{path}' exists; expected a new path, or permission to replace the file")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder '{path.parent}' doesn't exist")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"the folder '{path.parent}' can't be written to")
    return kind


def _format(path: Path, format: str | None) -> str:
    if format in _KERAS_FORMATS:
        raise ConfigError(f"export: format '{format}' isn't supported, expected one of {', '.join(FORMATS.values())}")
    kind = FORMATS.get(path.suffix) if format is None else format
    if kind is None:
        endings = " or ".join(FORMATS)
        raise ConfigError(f"export: got path '{path.name}', expected one that ends in {endings}, or a format")
    kind = FORMATS.get(f".{kind}", kind)
    if kind not in FORMATS.values():
        raise ConfigError(f"export: {unknown_name('format', kind, FORMATS.values())}")
    return kind


def _cases(plan: Plan, kind: str, examples: Sequence[Mapping[str, Array]]) -> Cases:
    """Inputs to compare; none for formats of Keras, if no random ones are accepted."""
    try:
        return find_cases(plan, examples)
    except ExportError:
        if kind in ("onnx", "torch") and not any(spec.dtype == Strings.dtype for spec in plan.input_specs):
            raise
        return Cases(((), ()), ())


def _saved(model: Trainer, path: Path, kind: str, cases: Cases, tolerances: Sequence[float]) -> list[float]:
    """Saves the model in a format of Keras, and returns the differences of the outputs; none if there are no cases."""
    suffix = next(suffix for suffix, name in FORMATS.items() if name == kind)
    saved = path.with_suffix(suffix)
    model.save(saved)
    if not cases.compared:
        saved.rename(path)
        return []
    with open_archive(saved) as archive:
        again = Plan(read_model(archive, compile=False))
    results = [again.run_eagerly(case.inputs) for case in cases.compared]
    found = differences(cases.compared, results)
    if not all(off <= most for off, most in zip(found, tolerances, strict=True)):
        raise ExportError(f"model '{model.name}' can't be exported as {kind}: outputs differ by {max(found):.2g}")
    saved.rename(path)
    return found


def _moved(folder: Path, path: Path, *, overwrite: bool) -> list[Path]:
    """Moves the files of `folder` beside `path`, and returns their paths. The model comes last: it names the others."""
    names = sorted((file.name for file in folder.iterdir()), key=lambda name: name == path.name)
    targets = [path.with_name(name) for name in names]
    if not overwrite and (present := [str(target) for target in targets if target.exists()]):
        raise FileExistsError(f"'{present[0]}' exists; expected a new path, or permission to replace the file")
    for name in names:
        sync(folder / name)
    for name, target in zip(names, targets, strict=True):
        os.replace(folder / name, target)
    sync(path.parent)
    return targets[::-1]


def _tensors(
    specs: Sequence[TensorSpec],
    axes: Sequence[Mapping[int, str]],
    differences: Sequence[float] = (),
    tolerances: Sequence[float] = (),
) -> tuple[ExportedTensor, ...]:
    unknown = [None] * len(specs)
    columns = zip(specs, axes, differences or unknown, tolerances or unknown, strict=True)
    return tuple(
        ExportedTensor(s.name, tuple(named.get(a) or n or 0 for a, n in enumerate(s.shape)), s.dtype, off, most)
        for s, named, off, most in columns
    )
