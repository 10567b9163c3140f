"""Checks a model against `golden.npz` beside its file: inputs with the outputs that Keras computed for them.

The file has arrays `input/NAME` and `output/NAME` with the model's names (or all inputs, or all outputs, in the model's
order with any names), and two numbers: outputs may differ by `atol` + `rtol` x |expected|. deploy/make_golden.py writes
it with Keras.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layergraph.archive.files import open_regular
from layergraph.archive.keras_zip import KerasZip
from layergraph.archive.limits import MIB, LoadLimits
from layergraph.errors import CorruptFileError, DataError, GraphError, ModelFileError

if TYPE_CHECKING:
    from layergraph.models.model import Model

Arrays = Mapping[str, np.ndarray[Any, Any]]

RTOL, ATOL = 1e-4, 1e-5
#: Rows of a golden file created here, and the length of axes that the model leaves open.
ROWS, LENGTH = 2, 8
#: Maximum size of one array in bytes.
_MOST_BYTES = 256 * MIB
_KINDS = "biuf"


class GoldenMismatchError(ModelFileError):
    """A model's outputs differ from its golden file's; `problems` has a text for each output."""


@dataclass(frozen=True, slots=True)
class Golden:
    """Inputs and the expected outputs of a model, with tolerances."""

    inputs: Arrays
    outputs: Arrays
    rtol: float = RTOL
    atol: float = ATOL

    def within(self, rtol: float | None, atol: float | None) -> Golden:
        """The same with other tolerances; None keeps a tolerance."""
        return replace(self, rtol=self.rtol if rtol is None else rtol, atol=self.atol if atol is None else atol)


def golden_path(model_file: Path) -> Path:
    """Path of a model's golden file: `golden.npz` in a version folder, else `NAME.golden.npz` beside the model file."""
    in_version = model_file.parent.name.isdecimal()
    return model_file.with_name("golden.npz" if in_version else f"{model_file.stem}.golden.npz")


def check_golden(model: Model, path: Path, rtol: float | None = None, atol: float | None = None) -> None:
    """Compares the model's outputs with the golden file at `path`. `rtol` and `atol` override the file's tolerances.

    Raises GoldenMismatchError if an output differs by more than the tolerances, CorruptFileError for a file that is
    damaged or of another model.
    """
    golden = read_golden(path).within(rtol, atol)
    compare(model, path, golden, lambda inputs, outputs: model.plan(tuple(outputs)).run(inputs))


def golden_inputs(model: Model, path: Path) -> Arrays:
    """The inputs of a golden file by the model's names. Raises CorruptFileError for a file that is damaged."""
    return named(read_golden(path).inputs, model.input_names)


def compare(model: Model, path: Path, golden: Golden, run: Callable[[Arrays, Arrays], Arrays]) -> float:
    """Compares the outputs of `run` for the golden inputs with the golden outputs; returns the largest difference."""
    try:
        inputs = named(golden.inputs, model.input_names)
        outputs = named(golden.outputs, model.output_names)
        results = run(inputs, outputs)
    except (DataError, GraphError) as wrong:
        raise CorruptFileError(path, f"is not for this model: {wrong}") from wrong
    problems = [text for name, want in outputs.items() if (text := _difference(name, results[name], want, golden))]
    if problems:
        raise GoldenMismatchError(path, problems)
    pairs = [(results[name].astype(np.float64), want.astype(np.float64)) for name, want in outputs.items()]
    return max(float(np.nanmax(np.abs(a - b), initial=0.0)) for a, b in pairs)


def named(arrays: Arrays, names: Sequence[str]) -> Arrays:
    """The arrays by the model's names. Keras has no names for some outputs; complete arrays are matched by order."""
    if len(arrays) == len(names) and arrays.keys() != set(names):
        return dict(zip(names, arrays.values(), strict=True))
    return arrays


def _difference(name: str, got: np.ndarray[Any, Any], want: np.ndarray[Any, Any], golden: Golden) -> str:
    """How an output differs from the expected one; an empty text if it doesn't."""
    if got.shape != want.shape:
        return f"output '{name[:80]}' has shape {got.shape}, expected {want.shape}"
    if np.allclose(got, want, golden.rtol, golden.atol, equal_nan=True):
        return ""
    wide_got, wide_want = got.astype(np.float64), want.astype(np.float64)
    with np.errstate(invalid="ignore"):
        excess = np.abs(wide_got - wide_want) - golden.rtol * np.abs(wide_want)
    # A NaN on one side only counts as the largest difference.
    excess[np.isnan(excess)] = np.inf
    excess[np.isnan(wide_got) & np.isnan(wide_want)] = -np.inf
    at = np.unravel_index(int(np.argmax(excess)), excess.shape)
    wrong = int((excess > golden.atol).sum())
    return (
        f"output '{name[:80]}' differs by {abs(wide_got[at] - wide_want[at]):.3g} at {tuple(map(int, at))}: "
        f"{wide_got[at]:.6g}, expected {wide_want[at]:.6g} ({wrong} of {got.size} values are out of "
        f"rtol={golden.rtol:g}, atol={golden.atol:g})"
    )


def make_golden(model: Model, seed: int = 0) -> Golden:
    """Computes the outputs for random inputs, with which later versions of layergraph can be compared.

    Raises GraphError for text inputs, which can't be random.
    """
    random = np.random.default_rng(seed)
    inputs = {}
    for spec in model.input_specs:
        shape = [size or (ROWS if axis == 0 else LENGTH) for axis, size in enumerate(spec.shape)]
        if spec.dtype.startswith(("int", "uint", "bool")):
            # 0 and 1 are valid indices of any table.
            inputs[spec.name] = random.integers(0, 2, shape).astype(spec.dtype)
        elif spec.dtype == "string":
            raise GraphError(f"input '{spec.name}' takes text; make a golden.npz with your own texts")
        else:
            wide = spec.dtype if spec.dtype in ("float16", "float32", "float64") else "float32"
            inputs[spec.name] = random.standard_normal(shape).astype(wide)
    return Golden(inputs, model.plan().run(inputs))


def write_golden(golden: Golden, path: Path) -> None:
    """Writes a golden file. Raises OSError if it can't be written."""
    arrays: dict[str, Any] = {f"input/{name}": array for name, array in golden.inputs.items()}
    arrays |= {f"output/{name}": array for name, array in golden.outputs.items()}
    with path.open("wb") as file:
        np.savez(file, rtol=np.array(golden.rtol), atol=np.array(golden.atol), **arrays)


def read_golden(path: Path) -> Golden:
    """Reads a golden file without trusting its content. Raises CorruptFileError or UnsafeFileError."""
    arrays = read_arrays(path)
    inputs = {name.removeprefix("input/"): a for name, a in arrays.items() if name.startswith("input/")}
    outputs = {name.removeprefix("output/"): a for name, a in arrays.items() if name.startswith("output/")}
    if not outputs:
        raise CorruptFileError(path, "has no array 'output/NAME'; expected inputs and outputs of the model")
    tolerances = [_tolerance(arrays, "rtol", RTOL, path), _tolerance(arrays, "atol", ATOL, path)]
    return Golden(inputs, outputs, *tolerances)


def read_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of numbers in an `.npz` file, by name. Raises CorruptFileError or UnsafeFileError."""
    with open_regular(path) as file:
        members = KerasZip(file, path, LoadLimits())
        return {name.removesuffix(".npy"): _array(members, name, path) for name in members.names}


def _tolerance(arrays: Arrays, name: str, default: float, path: Path) -> float:
    value = arrays.get(name)
    if value is None:
        return default
    number = float(value.reshape(-1)[0]) if value.size == 1 else math.nan
    if not 0 <= number < math.inf:
        raise CorruptFileError(path, f"'{name}' is {number}, expected one number of at least 0")
    return number


def _array(members: KerasZip, name: str, path: Path) -> np.ndarray[Any, Any]:
    data = members.read(name, _MOST_BYTES)
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
    except (ValueError, TypeError, KeyError) as wrong:
        raise CorruptFileError(path, f"'{name[:80]}' is no array: {str(wrong)[:100]}") from None
    values = memoryview(data)[stream.tell() :]
    if dtype.kind not in _KINDS or math.prod(shape) * dtype.itemsize != len(values):
        raise CorruptFileError(path, f"'{name[:80]}' is no array of numbers that is {len(values)} bytes long")
    return np.frombuffer(values, dtype).reshape(shape, order="F" if fortran else "C")
