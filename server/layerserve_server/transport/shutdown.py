"""Shutdown of a transport: runs once, within the shortest grace period of all requests to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Time between two checks of a condition, in seconds.
CHECK_SECONDS = 0.01


class Shutdown:
    """Runs the steps of a shutdown once. Later calls wait for them and may shorten the grace period."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._over = float("inf")
        self._done = False

    def run(self, grace: float, steps: Callable[[], None]) -> None:
        """Runs the steps, or waits until they have run. A `wait` in them ends within `grace` seconds from now."""
        self._over = min(self._over, time.monotonic() + grace)
        with self._lock:
            if not self._done:
                self._done = True
                steps()

    def wait(self, condition: Callable[[], bool], longer: float = 0.0) -> bool:
        """Waits until a condition holds or the grace period is over by `longer` seconds. Returns whether it holds."""
        while not (holds := condition()) and time.monotonic() < self._over + longer:
            time.sleep(CHECK_SECONDS)
        return holds


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Waits until a condition holds, for `seconds` at most."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(CHECK_SECONDS)
