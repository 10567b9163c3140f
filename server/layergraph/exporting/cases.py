"""Inputs on which an exported file is compared with the plan: several numbers of rows, and lengths of open axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from layergraph.errors import ExportError, LayerGraphError
from layergraph.execution.samples import NoSamplesError, Sampler

if TYPE_CHECKING:
    from layergraph.execution.plan import Plan
    from layergraph.functional.tensor import TensorSpec

Array: TypeAlias = "np.ndarray[Any, Any]"

#: Numbers of rows and lengths of open axes that are tried, in addition to those that are recorded.
ROWS = (1, 3)
LENGTHS = (4, 9, 1)
#: Number of axes of images: rows, height, width and channels.
_IMAGE_AXES = 4
#: Name of the rows' axis.
BATCH = "batch"


@dataclass(frozen=True, slots=True)
class Case:
    """Inputs in the order of the plan's, and its outputs for them."""

    inputs: Sequence[Array]
    outputs: Sequence[Array]


@dataclass(frozen=True, slots=True)
class Cases:
    """Two inputs to record, which differ in every length that may change, and all cases to compare.

    conditions   on lengths, for files: number of axes that outputs have, where it depends on lengths
    """

    recorded: tuple[Sequence[Array], Sequence[Array]]
    compared: Sequence[Case]
    conditions: Sequence[str] = ()


def find_cases(plan: Plan, examples: Sequence[Mapping[str, Array]] = ()) -> Cases:
    """Draws random inputs that the plan accepts; `examples` are more inputs to compare.

    Raises ExportError if no random inputs are accepted, DataError for examples that don't fit.
    """
    # NumPy lacks bfloat16; plans cast.
    specs = [replace(spec, dtype="float32") if spec.dtype == "bfloat16" else spec for spec in plan.input_specs]
    try:
        sampler = Sampler(specs, plan.run_eagerly)
    except NoSamplesError as reason:
        raise ExportError(str(reason)) from None
    recorded = (sampler.rows(2), sampler.rows(3, other=True))
    drawn = [sampler.of(shapes, (place,)) for place, shapes in enumerate(_shapes(specs, recorded))]
    if any(array.ndim == _IMAGE_AXES for array in recorded[0]):
        drawn.append(_like_pixels(recorded[0]))
    compared = [case for arrays in (*recorded, *drawn) if (case := _accepted(plan, arrays)) is not None]
    for example in examples:
        plan.run(example)
        arrays = [example[spec.name] for spec in plan.input_specs]
        compared.append(Case(arrays, plan.run_eagerly(arrays)))
    conditions = list(dict.fromkeys(condition for case in compared for condition in _unmet(plan, case)))
    return Cases(recorded, [case for case in compared if not any(_unmet(plan, case))], conditions)


def _unmet(plan: Plan, case: Case) -> Iterator[str]:
    """What doesn't hold for a case: one-hot vectors, for example, lose an axis of length 1, as in Keras."""
    for spec, array in zip(plan.output_specs, case.outputs, strict=True):
        if array.ndim != len(spec.shape):
            yield f"{len(spec.shape)} axes in output '{spec.name}'"


def _shapes(specs: Sequence[TensorSpec], recorded: Sequence[Sequence[Array]]) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of all inputs: with the recorded lengths, with few others, and with a different one for each axis."""
    if not any(None in spec.shape for spec in specs):
        return
    first, second = (_open_length(specs, arrays) for arrays in recorded)
    for rows in ROWS:
        for length in (second, *LENGTHS, first) if first else (0,):
            yield [tuple(_filled(spec.shape, rows, length, 0)) for spec in specs]
    for base in (LENGTHS[0], first) if first else ():
        place, shapes = 0, []
        for spec in specs:
            shapes.append(tuple(_filled(spec.shape, ROWS[1], base, place)))
            place += spec.shape[1:].count(None)
        yield shapes


def _like_pixels(arrays: Sequence[Array]) -> list[Array]:
    """Images with floats from 0 to 255: some models amplify rounding for any others."""
    rng = np.random.default_rng(0)
    return [
        np.asarray(rng.uniform(0, 255, array.shape), array.dtype)
        if array.ndim == _IMAGE_AXES and array.dtype.kind == "f"
        else array
        for array in arrays
    ]


def _open_length(specs: Sequence[TensorSpec], arrays: Sequence[Array]) -> int:
    """The length of the axes that the model leaves open, other than the rows; 0 if there are none."""
    pairs = zip(specs, arrays, strict=True)
    lengths = [n for s, a in pairs for n, size in zip(a.shape[1:], s.shape[1:], strict=True) if size is None]
    return next(iter(lengths), 0)


def _filled(shape: Sequence[int | None], rows: int, length: int, place: int) -> Iterator[int]:
    for axis, size in enumerate(shape):
        if size is not None:
            yield size
        elif axis == 0:
            yield rows
        else:
            yield length + place
            place += 1


def _accepted(plan: Plan, arrays: Sequence[Array]) -> Case | None:
    """The case of these inputs; None if the plan refuses them, or computes with empty tensors, which are undefined."""
    empty: list[str] = []
    try:
        outputs = plan.run_eagerly(arrays, empty)
    except LayerGraphError:
        return None
    return None if empty else Case(arrays, outputs)


def input_axes(specs: Sequence[TensorSpec]) -> list[dict[int, str]]:
    """For each input, the names of its open axes: `batch` for the rows, NAME_AXIS for others."""
    return [
        {axis: BATCH if axis == 0 else f"{spec.name}_{axis}" for axis, size in enumerate(spec.shape) if size is None}
        for spec in specs
    ]


def output_axes(plan: Plan, cases: Sequence[Case]) -> list[dict[int, str]]:
    """For each output, the names of its open axes. An axis that is always as long as an input's has that one's name."""
    named = input_axes(plan.input_specs)
    known: dict[tuple[int, ...], str] = {}
    for place, axes in enumerate(named):
        for axis, name in axes.items():
            known.setdefault(tuple(case.inputs[place].shape[axis] for case in cases), name)
    return [
        {
            axis: known.get(tuple(case.outputs[place].shape[axis] for case in cases), f"{spec.name}_{axis}")
            for axis, size in enumerate(spec.shape)
            if size is None
        }
        for place, spec in enumerate(plan.output_specs)
    ]


def differences(cases: Sequence[Case], results: Sequence[Sequence[Array]]) -> list[float]:
    """For each output, the largest `relative_distance` in any case; infinite, too, if its dtype differs."""
    columns = zip(
        *(
            [
                relative_distance(there, want) if there.dtype == want.dtype else np.inf
                for there, want in zip(got, case.outputs, strict=True)
            ]
            for case, got in zip(cases, results, strict=True)
        ),
        strict=True,
    )
    return [max(column) for column in columns]


def relative_distance(got: Array, want: Array) -> float:
    """The largest difference relative to the largest value that is wanted.

    It is infinite if the shape differs, or if a value is NaN or infinite on one side only.
    """
    if got.shape != want.shape:
        return np.inf
    # Complex numbers have no order, but a size.
    wide: Any = np.complex128 if want.dtype.kind == "c" else np.float64
    got, want = got.astype(wide), want.astype(wide)
    finite = np.isfinite(want)
    if not np.array_equal(got[~finite], want[~finite], equal_nan=True):
        return np.inf
    off = float(np.abs(got[finite] - want[finite]).max(initial=0.0))
    largest = float(np.abs(want[finite]).max(initial=0.0))
    return np.inf if np.isnan(off) else off / (largest or 1.0)
