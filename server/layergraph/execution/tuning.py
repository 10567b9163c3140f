"""Which engine carries a plan out fastest, for how many rows: measured, and held to eager torch's numbers.

Each engine is built from the plan's graph, run on random rows beside eager torch, dropped if it differs, and timed in
turns with the others. What is chosen for some row counts goes for those nearest to them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from layergraph.errors import LayerGraphError
from layergraph.execution.agreement import LOOSE_TOLERANCE, TOLERANCE, difference
from layergraph.execution.choice import Choice, Tuned, Tuning
from layergraph.execution.engines.reduced import PRECISIONS
from layergraph.execution.engines.source import Array, Engine, Source, UnfitError
from layergraph.execution.engines.table import DEFAULT_ENGINES, EAGER, ENGINES
from layergraph.execution.samples import NoSamplesError, Sampler

if TYPE_CHECKING:
    from layergraph.execution.plan import Plan

logger = logging.getLogger(__name__)

#: Row counts that are timed.
ROWS = (1, 8, 32)
#: More row counts at which numbers are compared: graphs must not have learnt those by heart that they were made with.
_CHECKED_ROWS = (1, 3, 5)
#: An engine must take at most this part of eager torch's time to be chosen over it.
_WORTH = 0.95
#: Row counts whose one call would take more than this part of the time are left out.
_MOST_OF_THE_TIME = 0.05
#: Turns that are timed at the most, for one row count, and calls of an engine in each.
_MOST_TURNS = 500
_CALLS_A_TURN = 4
#: After so many turns, timing ends once it has taken so many seconds: fast calls are timed for longer than other work
#: on the machine lasts at a time.
_ENOUGH_TURNS = 50
_ENOUGH_SECONDS = 0.15


def tune(
    plan: Plan,
    *,
    engines: Sequence[str] = DEFAULT_ENGINES,
    rows: Sequence[int] = ROWS,
    seconds: float = 10.0,
    threads: int = 0,
    pin: bool = False,
    known: Sequence[Choice] = (),
    stopped: Callable[[], bool] = lambda: False,
) -> Tuning:
    """Finds the fastest engine for each of `rows`, in about `seconds`. Raises ValueError for an unknown engine.

    engines   built in this order until half of the time is over
    threads   how many each engine may use, 0 for torch's number
    pin       use the first engine that gives eager torch's numbers, whatever its time
    known     what was found out earlier: only those engines are built, and nothing is timed
    stopped   asked between steps; once it says so, no further engine is built and nothing more is timed
    """
    unknown = [name for name in engines if name not in ENGINES and name != EAGER]
    if unknown:
        raise ValueError(f"engine '{unknown[0]}' isn't known: expected one of {', '.join((EAGER, *ENGINES))}")
    until = time.monotonic() + seconds / 2
    if known:
        engines = list(dict.fromkeys(choice.engine for choice in known))
    engines = [name for name in engines if name != EAGER]
    dropped: dict[str, str] = {}
    try:
        bench = _Bench(plan, rows if plan.batched else (1,), seconds)
        source = bench.source(threads or torch.get_num_threads())
    except (NoSamplesError, LayerGraphError, MemoryError, TypeError, RuntimeError) as reason:
        return Tuning((), dict.fromkeys(engines, _short(reason)))
    fit: dict[str, Tuned] = {}
    for name in engines:
        if (time.monotonic() > until and not pin) or stopped():
            dropped[name] = "there was no time left to build it"
            continue
        try:
            fit[name] = bench.built(name, source)
        except Exception as reason:
            # Engines raise what they like; none of it may keep a model from being served.
            dropped[name] = _short(reason)
            logger.debug("engine %s is dropped", name, exc_info=True)
        if pin and fit:
            return Tuning(tuple(Choice(count, name, {}, fit[name]) for count in rows[:1]), dropped)
    if known:
        return Tuning(tuple(_renewed(choice, fit.get(choice.engine)) for choice in known), dropped)
    left = 0.0 if stopped() else max(until - time.monotonic(), 0.0) + seconds / 2
    return Tuning(tuple(bench.choices(list(fit.values()), left)), dropped)


def reduce_precision(
    plan: Plan,
    precision: str,
    proof: Callable[[Callable[[Mapping[str, Array]], Mapping[str, Array]]], float],
    threads: int = 0,
) -> Tuning:
    """A tuning with one engine that computes in `precision`, for all row counts.

    `proof` holds what it is given to known outputs, and gives the largest difference. Raises what it raises, UnfitError
    where there is no such engine, and NoSamplesError, CannotTraceError for a plan that only torch runs.
    """
    bench = _Bench(plan, (1,), 1.0)
    engine = PRECISIONS[precision](bench.source(threads or torch.get_num_threads()))

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        arrays = [inputs[spec.name] for spec in plan.input_specs]
        return dict(zip((spec.name for spec in plan.output_specs), engine(arrays), strict=False))

    off = proof(run)
    tuned = Tuned(precision, engine, only_finite=True, exact=False)
    return Tuning((Choice(1, precision, {}, tuned, off),), {})


class _Bench:
    """A plan's random inputs and what eager torch makes of them."""

    def __init__(self, plan: Plan, rows: Sequence[int], seconds: float) -> None:
        self._plan = plan
        self._sampler = Sampler(plan.input_specs, plan.run_eagerly)
        one = self._sampler.rows(1)
        row = _quick({EAGER: lambda: plan.run_eagerly(one)}, 0.0)[EAGER]
        self._rows = [count for count in rows if count == 1 or count * row < seconds * _MOST_OF_THE_TIME]
        checked = {*_CHECKED_ROWS, *self._rows}
        lengths = (False, True) if self._sampler.open_axes else (False,)
        self._cases = [self._sampler.rows(count, other=other) for count in sorted(checked) for other in lengths]
        self._expected = [plan.run_eagerly(case) for case in self._cases]
        self._tolerances = [TOLERANCE] * len(self._cases)
        self._add_flat_cases()

    def _add_flat_cases(self) -> None:
        """Rows of one number: what is divided by how much numbers differ is NaN inside, which engines may not see."""
        for value in (0, 1):
            case = [np.full_like(array, value) for array in self._cases[0]]
            try:
                expected = self._plan.run_eagerly(case)
            except LayerGraphError:
                continue
            self._cases.append(case)
            self._expected.append(expected)
            # Rounding goes the same way in each of a sum's numbers.
            self._tolerances.append(LOOSE_TOLERANCE)

    def source(self, threads: int) -> Source:
        """What engines are made from."""
        program = self._plan.inference_program(packed=False, joined=self._plan.batched)
        first, second = (self._sampler.rows(count, other=count == 3) for count in (2, 3))
        return Source(program, first, second, threads, batched=self._plan.batched)

    def built(self, name: str, source: Source) -> Tuned:
        """An engine that has shown eager torch's numbers. Raises UnfitError, or what the engine raises."""
        engine = ENGINES[name](source)
        for case, expected, tolerance in zip(self._cases, self._expected, self._tolerances, strict=True):
            outputs = engine(case)
            off = difference(outputs[: len(expected)], expected)
            if not off <= tolerance:
                raise UnfitError(f"its numbers differ by {off:.2g} for {case[0].shape[0]} rows")
            if not all(outputs[len(expected) :]):
                raise UnfitError("it refuses data that eager torch takes")
        return Tuned(name, engine, only_finite=not self._takes_anything(engine))

    def _takes_anything(self, engine: Engine) -> bool:
        """Whether NaN and infinities give what they give with eager torch."""
        case = [array.copy() for array in self._cases[0]]
        floating = [array for array in case if array.dtype.kind == "f"]
        for value in (np.nan, np.inf, -np.inf):
            for array in floating:
                array.reshape(-1)[::2] = value
            try:
                expected = self._plan.run_eagerly(case)
                if not difference(engine(case)[: len(expected)], expected) <= TOLERANCE:
                    return False
            except Exception:
                return False
        return True

    def choices(self, fit: Sequence[Tuned], seconds: float) -> list[Choice]:
        """The fastest engine for each row count."""
        found = []
        for rows in self._rows:
            inputs = self._sampler.rows(rows, seed=1)
            calls: dict[str, Callable[[], Any]] = {EAGER: partial(self._plan.run_eagerly, inputs)}
            calls |= {tuned.name: partial(tuned.run, inputs) for tuned in fit}
            times = _quick(calls, seconds / len(self._rows))
            best = min(fit, key=lambda tuned: times[tuned.name], default=None)
            if best is not None and times[best.name] > times[EAGER] * _WORTH:
                best = None
            milliseconds = {name: value * 1000 for name, value in times.items()}
            found.append(Choice(rows, best.name if best else EAGER, milliseconds, best))
        return found


def _renewed(choice: Choice, tuned: Tuned | None) -> Choice:
    return replace(choice, engine=tuned.name if tuned else EAGER, tuned=tuned)


def _quick(calls: Mapping[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Seconds of a call of each: the lower quartile, in turns, so that what else the machine does matters little.

    A turn is several calls, the first of which isn't timed: an engine's threads go on waiting busily for a while, and
    would slow down whichever comes next.
    """
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    began = time.monotonic()
    until = began + seconds
    for turn in range(_MOST_TURNS):
        for name, call in calls.items():
            call()
            for _ in range(_CALLS_A_TURN):
                before = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - before)
                if time.monotonic() > until:
                    break
        if time.monotonic() > until or (turn >= _ENOUGH_TURNS and time.monotonic() > began + _ENOUGH_SECONDS):
            break
    return {name: float(np.quantile(values, 0.25)) for name, values in times.items()}


def _short(reason: Exception) -> str:
    lines = str(reason).strip().splitlines()
    return lines[0][:200] if lines else type(reason).__name__
