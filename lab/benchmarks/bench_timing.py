"""How the benchmarks time a call."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def p50(call: Callable[[], Any], seconds: float) -> float:
    """Median milliseconds of calls made for so many seconds, after three that don't count."""
    for _ in range(3):
        call()
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return 1000 * sorted(times)[len(times) // 2]
