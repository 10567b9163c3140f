"""Finds the fastest engine for a plan at several row counts, among those whose numbers equal eager torch's.

Each engine is built from the plan's graph, run on random rows, dropped if its outputs differ from eager torch's, and
timed in turns with the others. Other row counts use the choice for the nearest one. Steps that are expected to end too
late, judging by the time of earlier steps, are left out.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from layergraph.execution.eager_plan import EagerPlan
from layergraph.execution.engines.engine import EAGER, Engine, UnfitError
from layergraph.execution.engines.exported_graph import ExportedGraph, exported_graph
from layergraph.execution.engines.table import DEFAULT_ENGINES, ENGINES, LATE_ENGINES
from layergraph.execution.samples import Sampler
from layergraph.execution.tuning.agreement import LOOSE_TOLERANCE, TOLERANCE, difference
from layergraph.execution.tuning.edge_cases import unusual_rows
from layergraph.execution.tuning.engine_folder import write_engines
from layergraph.execution.tuning.result import Choice, Tuned, Tuning
from layergraph.execution.tuning.time_budget import Allowance, NoTimeError
from layergraph.execution.tuning.timing import lower_quartiles
from layergraph.execution.tuning.variant_names import ONE_THREAD, SPLIT_ROWS, has_file, parts
from layergraph.execution.tuning.variants import Variants

logger = logging.getLogger(__name__)

#: If cores are shared, several threads must be this many times as fast as one to be chosen.
_WORTH_THREADS = 1.25
#: If engines are kept, one that can't be written must be this many times as fast as the others to be chosen.
_WORTH_BUILDING = 1.25
#: Row counts that are timed by default.
ROWS = (1, 2, 8, 32)
#: More row counts at which outputs are compared: a graph must not have the row counts of its trace as constants.
_CHECKED_ROWS = (1, 3, 5)
#: Maximum time of an engine's call, as a fraction of eager torch's, to be chosen over it.
_WORTH = 0.95
#: Maximum time of one call, as a fraction of the total. Row counts that take eager torch longer aren't compared, and
#: engines are timed without it there.
_MOST_OF_THE_TIME = 0.05
#: Maximum time of eager torch for all compared rows, as a fraction of the total; at least two row counts are compared.
_COMPARING = 0.15
#: Fraction of the time that is reserved for timing, and not spent on building engines.
_RESERVED_FOR_TIMING = 0.25
#: Total rows that are computed while a graph is traced, and for unusual inputs.
_RECORDED_ROWS = 15
#: Minimum number of calls that timing takes.
_LEAST_CALLS = 3


def tune(
    plan: EagerPlan,
    *,
    engines: Sequence[str] = DEFAULT_ENGINES,
    rows: Sequence[int] = ROWS,
    seconds: float = 10.0,
    threads: int = 0,
    shared: bool = False,
    pin: bool = False,
    known: Sequence[Choice] = (),
    stopped: Callable[[], bool] = lambda: False,
    busy: Callable[[], bool] = lambda: False,
    trying: Callable[[str], None] = lambda name: None,
    folder: Path | None = None,
) -> Tuning:
    """Finds the fastest engine for each of `rows`, within `seconds`.

    Raises ValueError for an unknown engine, and OSError if `folder` can't be written.

    engines   built in this order, while time is left; LATE_ENGINES after the variants of the others
    seconds   of wall clock; a step that takes longer than expected may end later
    threads   number of threads per engine; 0 for torch's number
    shared    whether other work uses the same cores, as in a server: engines' threads don't spin between calls, and one
              thread is preferred if several are only slightly faster
    pin       use the first engine whose outputs equal eager torch's, regardless of its speed and of `seconds`
    known     an earlier result: only its engines are built, and nothing is timed
    stopped   called between steps; once it returns True, no more engines are built or timed
    busy      called before each step, which waits until it returns False; waiting doesn't count as time
    trying    called with the name of each engine before it is built, in case that it crashes
    folder    where the chosen engines are written (see `engine_folder`), unless tuning was stopped, or eager torch was
              chosen for lack of time to build others
    """
    unknown = [name for name in engines if name not in ENGINES and name != EAGER]
    if unknown:
        raise ValueError(f"unknown engine '{unknown[0]}', expected one of {', '.join((EAGER, *ENGINES))}")
    allowance = Allowance(math.inf if pin else seconds, stopped, busy)
    reserved = 0.0 if pin or known else seconds * _RESERVED_FOR_TIMING
    if known:
        engines = list(dict.fromkeys(choice.engine for choice in known))
    engines = [name for name in engines if name != EAGER]
    try:
        bench = _Bench(plan, rows if plan.batched else (1,), seconds, allowance, shared=shared)
        threads = threads or torch.get_num_threads()
        variants = Variants(ENGINES, bench.source, threads, batched=plan.batched)
    except Exception as reason:
        # Layers may raise anything for rows or lengths that don't fit; the model is then served by eager torch.
        return Tuning((), dict.fromkeys(engines, _short(reason)), late=isinstance(reason, NoTimeError))
    builder = _Builder(bench, variants, allowance, reserved, trying)
    try:
        if known:
            builder.build(engines)
            return Tuning(tuple(_renewed(choice, builder.fit.get(choice.engine)) for choice in known), builder.dropped)
        if pin:
            builder.build_first(engines)
        else:
            for group in ([n for n in engines if n not in LATE_ENGINES], [n for n in engines if n in LATE_ENGINES]):
                builder.build(group)
                builder.build_others(group)
        if pin and builder.fit:
            choices = [Choice(rows[0], name, {}, tuned) for name, tuned in builder.fit.items()]
        else:
            if folder is None:
                # Before timing, so that memory is free.
                variants.release()
            choices = bench.choices(list(builder.fit.values()), 1.0 if folder is None else _WORTH_BUILDING)
        hurried = builder.late and all(choice.tuned is None for choice in choices)
        if folder is not None and choices and not hurried and not stopped():
            write_engines(folder, choices, variants, *bench.example)
    finally:
        variants.release()
    return Tuning(tuple(choices), builder.dropped, late=builder.late)


class _Builder:
    """Builds and checks engines while time is left."""

    def __init__(
        self, bench: _Bench, variants: Variants, allowance: Allowance, reserved: float, trying: Callable[[str], None]
    ) -> None:
        """`reserved` are the seconds that must be left; for `trying` see `tune`."""
        self._bench = bench
        self._variants = variants
        self._allowance = allowance
        self._reserved = reserved
        self._trying = trying
        #: The engines whose outputs equal eager torch's, and for each of the others the reason.
        self.fit: dict[str, Tuned] = {}
        self.dropped: dict[str, str] = {}
        #: Whether there was no time left for any.
        self.late = False

    def build(self, engines: Sequence[str]) -> None:
        """Builds engines or variants of them."""
        for name in engines:
            self._build(name)

    def build_first(self, engines: Sequence[str]) -> None:
        """Builds engines until one is fit."""
        for name in engines:
            self._build(name)
            if self.fit:
                break

    def build_others(self, engines: Sequence[str]) -> None:
        """Builds the variants of engines that are fit."""
        for name in engines:
            if name in self.fit:
                self.build(list(self._variants.others(name, self._bench.row_seconds(name))))

    def _build(self, name: str) -> None:
        self._trying(name)
        try:
            self._allowance.require(self._bench.expected_seconds(name), self._reserved)
            tuned = self._bench.built(name, partial(self._variants.make, name))
            self.fit[name] = replace(tuned, finite=not self._variants.keeps_not_finite(name))
        except Exception as reason:
            # Engines may raise anything, and no failure may prevent a model from being served.
            self.dropped[name] = _short(reason)
            self.late |= isinstance(reason, NoTimeError)
            logger.debug("engine %s dropped", name, exc_info=True)


class _Bench:
    """A plan's random inputs and the outputs of eager torch. Raises NoTimeError if computing them takes too long."""

    def __init__(
        self, plan: EagerPlan, rows: Sequence[int], seconds: float, allowance: Allowance, *, shared: bool
    ) -> None:
        self._plan = plan
        self._shared = shared
        self._allowance = allowance
        #: Seconds per row of each engine, by its fastest call so far.
        self._rows_seconds: dict[str, float] = {}
        self._sampler = Sampler(plan.input_specs, plan.run_eagerly)
        one = self._sampler.rows(1)
        self._row = lower_quartiles({EAGER: lambda: plan.run_eagerly(one)}, 0.0)[EAGER]
        self._rows, self._most = rows, seconds * _MOST_OF_THE_TIME
        compared = [count for count in rows if count == 1 or count * self._row < self._most]
        lengths = (False, True) if self._sampler.open_axes else (False,)
        checked = self._affordable(sorted({*_CHECKED_ROWS, *compared}), seconds / len(lengths))
        self._compared = {count for count in compared if count in checked}
        allowance.require(self._row * (sum(checked) * len(lengths) + _RECORDED_ROWS))
        self._cases = [self._sampler.rows(count, other=other) for count in checked for other in lengths]
        began = time.monotonic()
        self._expected = [plan.run_eagerly(case) for case in self._cases]
        self._tolerances = [TOLERANCE] * len(self._cases)
        self._add_unusual_cases()
        self._comparing = time.monotonic() - began
        self._longest_build = self._row * _RECORDED_ROWS + self._comparing
        #: Seconds for each engine so far: for building and comparing, for comparing alone.
        self._built_seconds: dict[str, float] = {}
        self._compared_seconds: dict[str, float] = {}

    def _affordable(self, counts: Sequence[int], seconds: float) -> list[int]:
        """The row counts at which outputs are compared: at least two, as a graph may have one of them as a constant."""
        taken: list[int] = []
        for count in counts:
            if len(taken) > 1 and (sum(taken) + count) * self._row > seconds * _COMPARING:
                break
            taken.append(count)
        return taken

    def expected_seconds(self, name: str) -> float:
        """Expected seconds for building and comparing an engine: those of the slowest so far.

        For a variant, those of the engine, whose graph it has; split rows are computed by an engine that is built.
        """
        engine, suffix = parts(name)
        before = self._compared_seconds if suffix in SPLIT_ROWS else self._built_seconds
        return before.get(engine, self._longest_build)

    def _add_unusual_cases(self) -> None:
        for case in unusual_rows(self._sampler):
            try:
                expected = self._plan.run_eagerly(case)
            except Exception:
                logger.debug("the model refuses unusual inputs", exc_info=True)
                continue
            self._cases.append(case)
            self._expected.append(expected)
            # In sums of equal numbers, rounding errors add up instead of cancelling.
            self._tolerances.append(LOOSE_TOLERANCE)

    @property
    def example(self) -> tuple[Sequence[Any], Sequence[Any]]:
        """Inputs that were compared, of several rows, and the outputs of eager torch."""
        several = min((i for i, case in enumerate(self._cases) if case and len(case[0]) > 1), default=0)
        return self._cases[several], self._expected[several]

    def source(self, threads: int, *, joined: bool) -> ExportedGraph:
        """What engines are built from, with calls of shared layers merged if `joined`."""
        return exported_graph(self._plan, self._sampler, threads, joined=joined, shared=self._shared)

    def row_seconds(self, name: str) -> float:
        """Seconds per row of an engine that was built, by its fastest call."""
        return self._rows_seconds[name]

    def built(self, name: str, make: Callable[[], Engine]) -> Tuned:
        """Builds an engine and checks its outputs. Raises UnfitError, NoTimeError, or the engine's own errors."""
        began = time.monotonic()
        try:
            engine = make()
            compared = time.monotonic()
            for case, expected, tolerance in zip(self._cases, self._expected, self._tolerances, strict=True):
                self._allowance.require(0.0)
                started = time.perf_counter()
                outputs = engine(case)
                row = (time.perf_counter() - started) / len(case[0])
                self._rows_seconds[name] = min(row, self._rows_seconds.get(name, row))
                off = difference(outputs[: len(expected)], expected)
                if not off <= tolerance:
                    raise UnfitError(f"its outputs differ from eager torch's by {off:.2g} for {case[0].shape[0]} rows")
                if not all(outputs[len(expected) :]):
                    raise UnfitError("it refuses data that eager torch accepts")
            self._compared_seconds[name] = time.monotonic() - compared
            return Tuned(name, engine)
        finally:
            self._built_seconds[name] = time.monotonic() - began
            self._longest_build = max(self._longest_build, self._built_seconds[name])

    def choices(self, fit: Sequence[Tuned], worth_building: float) -> list[Choice]:
        """The fastest engine for each row count that can be timed in the time left (see `_best`)."""
        found: list[Choice] = []
        # If time doesn't suffice for all engines, those that were fastest for fewer rows are timed.
        before = self._rows_seconds
        for place, rows in enumerate(self._rows):
            self._allowance.wait()
            eager = rows in self._compared
            if not eager and not (found and found[-1].tuned):
                break
            # A single row can't be split.
            tried = [tuned for tuned in fit if rows > 1 or not tuned.name.endswith(SPLIT_ROWS)]
            tried.sort(key=lambda tuned: before[tuned.name])
            timed = self._in_time(tried, rows, eager=eager)
            if len(timed) < len(tried):
                names = ", ".join(tuned.name for tuned in tried if tuned not in timed)
                logger.info("no time left to time %s for %d rows", names, rows)
            if not self._allowance.left or (tried and not timed):
                break
            seconds = self._allowance.left / (len(self._rows) - place)
            inputs = self._sampler.rows(rows, seed=1)
            calls: dict[str, Callable[[], Any]] = {EAGER: partial(self._plan.run_eagerly, inputs)} if eager else {}
            calls |= {tuned.name: partial(tuned.run, inputs) for tuned in timed}
            times = lower_quartiles(calls, seconds, spinning=not self._shared)
            before = {name: seconds * rows for name, seconds in self._rows_seconds.items()} | times
            best = _best(timed, {EAGER: math.inf, **times}, _WORTH_THREADS if self._shared else 1.0, worth_building)
            milliseconds = {name: value * 1000 for name, value in times.items()}
            found.append(Choice(rows, best.name if best else EAGER, milliseconds, best))
        return found

    def _in_time(self, fit: Sequence[Tuned], rows: int, *, eager: bool) -> list[Tuned]:
        """The first of these engines for which time is left to call each of them, and eager torch, repeatedly."""
        needed = _LEAST_CALLS * rows * self._row if eager else 0.0
        timed = []
        for tuned in fit:
            if not eager and rows * self._rows_seconds[tuned.name] > self._most:
                break
            needed += _LEAST_CALLS * rows * self._rows_seconds[tuned.name]
            if needed > self._allowance.left:
                break
            timed.append(tuned)
        return timed


def _renewed(choice: Choice, tuned: Tuned | None) -> Choice:
    return replace(choice, engine=tuned.name if tuned else EAGER, tuned=tuned)


def _best(
    timed: Sequence[Tuned], times: Mapping[str, float], worth_threads: float, worth_building: float
) -> Tuned | None:
    """The fastest engine, or a single-threaded one that takes less than `worth_threads` times as long.

    If it can't be written to a file, one that can, if that takes less than `worth_building` times as long. None stands
    for eager torch.
    """
    best = _fastest(timed, times, worth_threads)
    if best is not None and not has_file(best.name):
        other = _fastest([tuned for tuned in timed if has_file(tuned.name)], times, worth_threads)
        if times[other.name if other else EAGER] < times[best.name] * worth_building:
            return other
    return best


def _fastest(timed: Sequence[Tuned], times: Mapping[str, float], worth_threads: float) -> Tuned | None:
    best = min(timed, key=lambda tuned: times[tuned.name], default=None)
    if best is not None and times[best.name] > times[EAGER] * _WORTH:
        best = None
    fastest = times[best.name if best else EAGER]
    single = [tuned for tuned in timed if tuned.name.endswith(ONE_THREAD)]
    return next((tuned for tuned in single if times[tuned.name] < fastest * worth_threads), best)


def _short(reason: Exception) -> str:
    # The first line may contain nothing but a position in an engine's source.
    text = " ".join(str(reason).split())
    return text[:200] if text else type(reason).__name__
