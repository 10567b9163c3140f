"""The formats that aren't Keras's, each with what writes, reads and tries it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from layergraph.errors import ExportError
from layergraph.execution.arrays import as_tensor, to_numpy
from layergraph.exporting import onnx_file, torch_file
from layergraph.exporting.calls import Calls, blamed, check_exportable, described, reason_of
from layergraph.exporting.cases import Case, Cases, differences
from layergraph.exporting.rounding import rounding_explains
from layergraph.exporting.torch_file import RefusedLengthsError
from layergraph.functional.runtime_assertions import recording

if TYPE_CHECKING:
    from layergraph.execution.plan import Plan

Array: TypeAlias = "np.ndarray[Any, Any]"

#: Where rounding decides all cases, those count that differ by at most this many times the tolerance: a wrong operation
#: would show.
_STILL_CLOSE = 100.0

#: Computes outputs for inputs in the plan's order.
Run: TypeAlias = Callable[[Sequence[Array]], Sequence[Array]]


@dataclass(frozen=True)
class Exporter:
    """How to write a plan as a file of a format, and to read it again.

    try_out   records calls, and returns their outputs for recorded inputs; only to find a layer at fault
    """

    write: Callable[[Plan, Calls, Cases, Path], None]
    reader: Callable[[Plan, Path], Run]
    try_out: Callable[[Plan, Calls, Cases, Sequence[Array]], Sequence[Array]]


def onnx_exporter(opset: int, name: str) -> Exporter:
    """Writes ONNX files with an opset and a name for the graph. Raises ConfigError for an opset that doesn't exist."""
    onnx_file.check_opset(opset)
    return Exporter(
        partial(onnx_file.write, opset=opset, name=name), onnx_file.reader, partial(onnx_file.try_out, opset=opset)
    )


def torch_exporter() -> Exporter:
    """Writes `.pt2` files."""
    return Exporter(torch_file.write, torch_file.reader, torch_file.try_out)


@dataclass(frozen=True)
class Comparison:
    """The outputs' differences (see `cases.differences`) in a number of cases that rounding alone doesn't decide.

    explained    in how many other cases rounding explains differences of more than the tolerance. If `cases` is 0, the
                 differences are those of the `explained` cases
    conditions   on lengths, which the model doesn't have
    """

    differences: Sequence[float]
    cases: int
    explained: int = 0
    conditions: Sequence[str] = ()


def write_compared(exporter: Exporter, plan: Plan, cases: Cases, path: Path, tolerances: Sequence[float]) -> Comparison:
    """Writes the plan as a file, and compares it with the plan.

    Raises ExportError, with the layer if one is at fault: for an operation that the format lacks, and if an output
    differs by more than its tolerance.
    """
    check_exportable(plan)
    calls = Calls.of(plan)
    try:
        exporter.write(plan, calls, cases, path)
        run = exporter.reader(plan, path)
        compared, results, conditions = _results(run, cases)
    except ExportError:
        raise
    except Exception as wrong:
        # Exporters and other runtimes may raise anything.
        culprit = _culprit(exporter, plan, calls, cases, max(tolerances, default=0.0))
        raise ExportError(culprit or reason_of(wrong)) from wrong
    kept, explained = _decided(plan, calls, compared, results, tolerances)
    found = [max(column) for column in zip(*(kept or explained), strict=True)]
    if not kept:
        return Comparison(found, 0, len(explained), [*cases.conditions, *conditions])
    problems = [
        f"output '{spec.name}' {_said(off)}, expected at most {most:g}"
        for spec, off, most in zip(plan.output_specs, found, tolerances, strict=True)
        if not off <= most
    ]
    if problems:
        culprit = _culprit(exporter, plan, calls, cases, max(tolerances, default=0.0))
        raise ExportError("; ".join([*problems[:5], *([f"from {culprit}"] if culprit else [])]))
    return Comparison(found, len(kept), len(explained), [*cases.conditions, *conditions])


def _said(off: float) -> str:
    if off == np.inf:
        return "has another shape or dtype, or other NaNs, for some rows or lengths: an infinite difference"
    return f"differs by {off:.2g} of its largest value"


def _results(run: Run, cases: Cases) -> tuple[list[Case], list[Sequence[Array]], list[str]]:
    """The cases that a file computes, its outputs, and the conditions by which it refuses others."""
    compared, results, conditions = list[Case](), list[Sequence[Array]](), list[str]()
    for case in cases.compared:
        try:
            results.append(run(case.inputs))
            compared.append(case)
        except RefusedLengthsError as refused:
            conditions.append(str(refused))
    return compared, results, list(dict.fromkeys(conditions))


def _decided(
    plan: Plan, calls: Calls, cases: Sequence[Case], results: Sequence[Sequence[Array]], tolerances: Sequence[float]
) -> tuple[list[list[float]], list[list[float]]]:
    """The differences of the cases that rounding alone doesn't decide, and of those where it explains them.

    Raises ExportError if rounding decides all of them, and none is close.
    """
    if not cases:
        raise ExportError("no inputs can be compared: the model computes with tensors without elements")
    kept, explained = [], []
    for case, got in zip(cases, results, strict=True):
        offs = differences([case], [got])
        within = all(off <= most for off, most in zip(offs, tolerances, strict=True))
        if within or not rounding_explains(plan, calls, case, got, tolerances):
            kept.append(offs)
        else:
            explained.append(offs)
    if kept:
        return kept, explained
    close = [
        offs
        for offs in explained
        if all(off <= _STILL_CLOSE * most for off, most in zip(offs, tolerances, strict=True))
    ]
    if not close:
        raise ExportError("the outputs depend on the last digits of inputs and weights, so they can't be compared")
    return kept, close


def _culprit(exporter: Exporter, plan: Plan, calls: Calls, cases: Cases, tolerance: float) -> str:
    """The layer that can't be exported alone with those before it, and why; empty if there is none."""

    def compare(part: Calls) -> None:
        for arrays in cases.recorded:
            got = exporter.try_out(plan, part, cases, arrays)
            tensors = [as_tensor(array, spec) for array, spec in zip(arrays, plan.input_specs, strict=True)]
            with torch.no_grad(), recording():
                want = [to_numpy(value) for value in part.program(lambda weight: weight.value)(tensors)]
            off = max(differences([Case(arrays, want)], [got]), default=0.0)
            if not off <= tolerance:
                raise ExportError(f"its output {_said(off)}")

    found = blamed(calls, compare)
    return "" if found is None else f"{described(found[0])}: {reason_of(found[1])}"
