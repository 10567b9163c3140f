"""Lower precision for a model, if its outputs stay within the tolerances of the proof beside its file.

int8 is calibrated with `calibration.npz` beside the file: inputs as they will come, as arrays `input/NAME` or NAME with
the model's names, or all inputs in the model's order with any names. Without it, with the inputs of the proof.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from layergraph.errors import CorruptFileError, DataError
from layergraph.execution.arrays import check_fit
from layergraph.execution.tuning import precision as tuning
from layergraph.golden import Arrays, compare, golden_path, named, read_arrays, read_golden
from layergraph.models.model import Model

#: Maximum number of rows that int8 is calibrated with.
MAX_ROWS = 512


def calibration_path(model_file: Path) -> Path:
    """Path of a model's calibration file, in a version folder `calibration.npz`, else `NAME.calibration.npz`."""
    return model_file.with_name(golden_path(model_file).name.removesuffix("golden.npz") + "calibration.npz")


def read_calibration(model: Model, path: Path) -> Arrays:
    """The inputs in a calibration file, by the model's names, up to MAX_ROWS rows.

    Raises CorruptFileError for a file that is damaged or of another model, UnsafeFileError as `read_golden`.
    """
    arrays = {name.removeprefix("input/"): array for name, array in read_arrays(path).items()}
    inputs = named(arrays, model.input_names)
    found = {}
    for spec in model.input_specs:
        if spec.name not in inputs:
            raise CorruptFileError(path, f"has no array 'input/{spec.name[:80]}', got {_listed(inputs)}")
        array = inputs[spec.name]
        try:
            check_fit(f"array 'input/{spec.name[:80]}'", array.shape, spec.shape)
        except DataError as wrong:
            raise CorruptFileError(path, f"is not for this model: {wrong}") from wrong
        if not array.size:
            raise CorruptFileError(path, f"array 'input/{spec.name[:80]}' is empty, expected rows of inputs")
        found[spec.name] = array[:MAX_ROWS] if spec.shape[:1] == (None,) else array
    if len({len(array) for array in found.values()}) > 1:
        raise CorruptFileError(path, f"has {_listed(found)}, expected the same number of rows in all")
    return found


def reduce_precision(
    model: Model,
    path: Path,
    precision: str,
    threads: int = 0,
    *,
    shared: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
    calibration: Path | None = None,
    workshop: tuning.Workshop | None = None,
) -> None:
    """Computes the model in `precision` (int8, bfloat16, float16) if its outputs stay within the golden tolerances.

    `rtol` and `atol` override the tolerances of the golden file at `path`. int8 is calibrated with the file
    `calibration`, or with the golden inputs; its graphs are made, and kept, by `workshop`. Raises the errors of
    `check_golden`, `read_calibration` and `tuning.precision.reduce_precision`.
    """
    golden = read_golden(path).within(rtol, atol)
    known: Arrays = {name: array[:MAX_ROWS] for name, array in named(golden.inputs, model.input_names).items()}
    if precision == "int8" and calibration is not None and os.path.lexists(calibration):
        known = read_calibration(model, calibration)

    def off(run: Callable[[Arrays], Arrays]) -> float:
        return compare(model, path, golden, lambda inputs, _: run(inputs))

    plan = model.plan()
    plan.use(tuning.reduce_precision(plan, precision, off, known, threads, shared=shared, workshop=workshop))


def _listed(arrays: Arrays) -> str:
    return ", ".join(f"'{name[:80]}' {array.shape}" for name, array in sorted(arrays.items())[:20]) or "none"
