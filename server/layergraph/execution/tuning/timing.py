"""Timing of several functions in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

#: Maximum number of timed turns per row count, and calls of an engine in each turn.
_MOST_TURNS = 500
_CALLS_A_TURN = 4
#: Duration of a call in seconds above which threads that are still spinning don't matter.
_SLOW = 0.05
#: Timing ends after this many turns if it has also taken this many seconds, so that fast calls are timed for longer
#: than other work disturbs the machine at a time.
_ENOUGH_TURNS = 50
_ENOUGH_SECONDS = 0.15
#: Seconds for which ONNX Runtime's threads spin after a call, unless cores are shared; and how many turns as long as
#: that are enough.
_SPINNING = 0.025
_ENOUGH_LONG_TURNS = 5


def lower_quartiles(
    calls: Mapping[str, Callable[[], Any]], seconds: float, *, spinning: bool = False
) -> dict[str, float]:
    """Seconds per call of each function: the lower quartile of calls in turns, so that other load has little effect.

    A turn is several calls, the first of which isn't timed: the previous engine's threads still spin for a while, and
    would slow down the next one. With `spinning` they do so for longer than many calls take, so that turns are longer.
    Slow functions are called once per turn, so that all are called equally often.
    """
    began = time.monotonic()
    until = began + seconds
    settling, timing = (_SPINNING, _SPINNING / 2) if spinning else (0.0, 0.0)
    enough_turns, enough_seconds = (_ENOUGH_LONG_TURNS, 0.0) if spinning else (_ENOUGH_TURNS, _ENOUGH_SECONDS)
    slow = {name: _seconds(call) > _SLOW for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(_MOST_TURNS):
        for name, call in calls.items():
            if turn and time.monotonic() > until:
                break
            if not slow[name]:
                _repeat(call, 1, time.monotonic() + settling, until)
            found = _repeat(call, 1 if slow[name] else _CALLS_A_TURN, time.monotonic() + timing, until)
            times[name].extend(found)
        now = time.monotonic()
        if now > until or (turn >= enough_turns and now > began + enough_seconds):
            break
    return {name: float(np.quantile(values, 0.25)) for name, values in times.items()}


def _repeat(call: Callable[[], Any], count: int, end: float, until: float) -> list[float]:
    """Seconds of at least `count` calls, and of more until `end`; of one at least if it is later than `until`."""
    found: list[float] = []
    while not found or ((len(found) < count or time.monotonic() < end) and time.monotonic() <= until):
        found.append(_seconds(call))
    return found


def _seconds(call: Callable[[], Any]) -> float:
    before = time.perf_counter()
    call()
    return time.perf_counter() - before
