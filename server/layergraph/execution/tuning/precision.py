"""Engines of lower precision for a plan, if their outputs stay near known ones.

For int8 the graph is exported once and quantized by ONNX Runtime's tools, with the ranges of the calibration rows. ONNX
Runtime and OpenVINO both run the result. For each number of rows the fastest engine within the tolerances is used;
float32 is one of them.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import torch

from layergraph.errors import DataError
from layergraph.execution.arrays import as_tensor
from layergraph.execution.eager_plan import EagerPlan
from layergraph.execution.engines.engine import Array, Engine, UnfitError
from layergraph.execution.engines.exported_graph import ExportedGraph, exported_graph
from layergraph.execution.engines.graph_files import GraphFiles
from layergraph.execution.engines.low_precision import FLOAT32, INT8, PRECISIONS
from layergraph.execution.engines.onnx import quantization
from layergraph.execution.engines.onnx.runtime import exported, input_names
from layergraph.execution.samples import Sampler
from layergraph.execution.tuning.result import Choice, Tuned, Tuning, choices_from_json, choices_to_json
from layergraph.execution.tuning.timing import lower_quartiles
from layergraph.functional.strings import Strings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layergraph.functional.tensor import TensorSpec

logger = logging.getLogger(__name__)

#: Compares the outputs of the function that it gets with known ones; returns the largest difference, or raises.
Compare: TypeAlias = Callable[[Callable[[Mapping[str, Array]], Mapping[str, Array]]], float]

#: Row counts for which int8 engines are timed, and the time for each, in seconds.
_ROWS = (1, 8, 32)
_SECONDS = 1.0
#: Maximum expected duration of a call that is timed, in seconds.
_MOST_SECONDS = 0.5
#: File with the engines that were chosen, in the folder of the graphs.
_NOTE = "engines.json"


class Workshop(Protocol):
    """Where a plan's graphs are quantized, and kept if they are needed again."""

    def graphs(self, calibration: Sequence[Array], write: Callable[[Path], None]) -> AbstractContextManager[Path]:
        """The folder of quantized graphs that are calibrated with these arrays. What is written to it is kept, too.

        `write` writes to a folder what `onnx.quantization.quantize` reads there.
        """


class TemporaryWorkshop:
    """Quantizes in this process, and keeps nothing."""

    @contextmanager
    def graphs(self, calibration: Sequence[Array], write: Callable[[Path], None]) -> Iterator[Path]:
        """See Workshop. Raises UnfitError, and as `write` does."""
        with tempfile.TemporaryDirectory(prefix="layergraph-int8-") as folder:
            write(Path(folder))
            try:
                quantization.quantize(Path(folder))
            except ImportError as missing:
                raise UnfitError("the packages 'onnxruntime' and 'onnx' aren't installed") from missing
            except quantization.NothingToQuantizeError as reason:
                raise UnfitError(str(reason)) from reason
            yield Path(folder)


def reduce_precision(
    plan: EagerPlan,
    precision: str,
    compare: Compare,
    calibration: Mapping[str, Array],
    threads: int = 0,
    *,
    shared: bool = False,
    workshop: Workshop | None = None,
) -> Tuning:
    """Returns a tuning whose engines compute in `precision`: for int8 the fastest for each row count, else one.

    `calibration` has inputs by name, whose ranges of values int8 is made for. Raises what `compare` raises if no
    engine passes; UnfitError if there is no such engine; NoSamplesError or CannotTraceError for a plan that only torch
    can run; DataError if `calibration` isn't for this plan.
    """
    threads = threads or torch.get_num_threads()
    if precision == "int8":
        return _int8(plan, compare, calibration, threads, shared=shared, workshop=workshop or TemporaryWorkshop())
    source = _source(plan, threads, shared=shared)
    try:
        engine = PRECISIONS[precision](source)
    finally:
        source.release()
    off = compare(partial(_run, plan, engine))
    return Tuning((Choice(1, precision, {}, Tuned(precision, engine, exact=False), off),), {})


def _int8(
    plan: EagerPlan,
    compare: Compare,
    calibration: Mapping[str, Array],
    threads: int,
    *,
    shared: bool,
    workshop: Workshop,
) -> Tuning:
    given = [_calibrating(calibration, spec) for spec in plan.input_specs]
    with workshop.graphs(given, partial(_write, plan, given, threads, shared=shared)) as folder:
        graphs = GraphFiles(folder, tuple(spec.dtype for spec in plan.input_specs), threads, shared)
        choices = _recall(folder / _NOTE)
        fit, reasons = _passing(plan, graphs, compare, dict.fromkeys(choice.engine for choice in choices) or INT8)
        if not fit:
            # That it isn't installed is of less interest than by how much another's outputs differ.
            raise min(reasons.values(), key=lambda reason: isinstance(reason, UnfitError))
        if not choices:
            fit |= _passing(plan, graphs, compare, FLOAT32)[0]
            choices = _fastest(plan, given, {name: tuned.run for name, (tuned, _) in fit.items()})
            (folder / _NOTE).write_text(json.dumps(choices_to_json(choices)))
    chosen = [choice for choice in choices if choice.engine in fit]
    if all(choice.engine in FLOAT32 for choice in chosen):
        # Tuning has more engines of float32 to choose from.
        raise UnfitError(_slower(chosen[0]))
    dropped = {name: str(reason).splitlines()[0][:200] for name, reason in reasons.items()}
    return Tuning(tuple(Choice(c.rows, c.engine, c.milliseconds, *fit[c.engine]) for c in chosen), dropped)


def _slower(choice: Choice) -> str:
    """Why int8 isn't used although it has passed."""
    best = min((value for name, value in choice.milliseconds.items() if name in INT8), default=math.nan)
    return f"int8 takes {best:.3g} ms for {choice.rows} row, float32 {choice.milliseconds[choice.engine]:.3g} ms"


def _calibrating(calibration: Mapping[str, Array], spec: TensorSpec) -> Array:
    if spec.dtype in (Strings.dtype, "bfloat16"):
        raise UnfitError(f"input '{spec.name}' is of dtype {spec.dtype}, which int8 engines don't support")
    if spec.name not in calibration:
        raise DataError(f"input '{spec.name}' is missing; got {sorted(calibration)}")
    array: Array = as_tensor(calibration[spec.name], spec).numpy()
    return array


def _source(plan: EagerPlan, threads: int, *, shared: bool) -> ExportedGraph:
    sampler = Sampler(plan.input_specs, plan.run_eagerly)
    return exported_graph(plan, sampler, threads, joined=plan.batched, shared=shared)


def _run(plan: EagerPlan, engine: Engine, inputs: Mapping[str, Array]) -> dict[str, Array]:
    arrays = [as_tensor(inputs[spec.name], spec).numpy() for spec in plan.input_specs]
    return dict(zip((spec.name for spec in plan.output_specs), engine(arrays), strict=False))


def _write(plan: EagerPlan, given: Sequence[Array], threads: int, folder: Path, *, shared: bool) -> None:
    """Writes what is quantized: the graph, and the arrays of each call, of which one of `plan.batched` has one row."""
    source = _source(plan, threads, shared=shared)
    try:
        (folder / quantization.WIDE).write_bytes(exported(source))
    finally:
        source.release()
    calls = [array[:, None] if plan.batched else array[None] for array in given]
    arrays: dict[str, Any] = dict(zip(input_names(len(calls)), calls, strict=True))
    np.savez(folder / quantization.ROWS, **arrays)


def _passing(
    plan: EagerPlan, graphs: GraphFiles, compare: Compare, names: Iterable[str]
) -> tuple[dict[str, tuple[Tuned, float]], dict[str, Exception]]:
    """The engines that `compare` accepts, with their differences, and why the others were dropped."""
    fit: dict[str, tuple[Tuned, float]] = {}
    reasons: dict[str, Exception] = {}
    for name in names:
        opened, file = (INT8 | FLOAT32)[name]
        try:
            engine = opened(graphs, file)
            fit[name] = Tuned(name, engine, exact=name in FLOAT32), compare(partial(_run, plan, engine))
        except Exception as reason:
            # Engines may raise anything.
            reasons[name] = reason
            if not isinstance(reason, UnfitError):
                logger.info("engine %s isn't used: %s", name, str(reason)[:300])
    return fit, reasons


def _fastest(plan: EagerPlan, given: Sequence[Array], engines: Mapping[str, Engine]) -> list[Choice]:
    """For each row count the fastest engine, and the milliseconds of all of them."""
    found: list[Choice] = []
    fastest = 0.0
    for rows in _ROWS if plan.batched else (1,):
        if fastest * rows > _MOST_SECONDS:
            break
        arrays = [np.resize(array, (rows, *array.shape[1:])) for array in given] if plan.batched else given
        seconds = lower_quartiles({name: partial(engine, arrays) for name, engine in engines.items()}, _SECONDS)
        best = min(seconds, key=lambda name: seconds[name])
        fastest = seconds[best] / rows
        found.append(Choice(rows, best, {name: value * 1000 for name, value in seconds.items()}))
    return found


def _recall(note: Path) -> list[Choice]:
    """The choices that were made before; none if they are damaged, or of an engine that there isn't."""
    try:
        found = list(choices_from_json(json.loads(note.read_bytes())))
        return found if all(choice.engine in INT8 | FLOAT32 and choice.rows > 0 for choice in found) else []
    except (OSError, ValueError, LookupError, TypeError):
        return []
