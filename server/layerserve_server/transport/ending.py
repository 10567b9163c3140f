"""The end of a transport: once, however often it is asked for, and as soon as any who ask want it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Time between two looks, in seconds.
LOOK_SECONDS = 0.01


class Ending:
    """Runs the steps of an end once. Later calls wait for them, and may shorten the grace."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._over = float("inf")
        self._done = False

    def run(self, grace: float, steps: Callable[[], None]) -> None:
        """Runs the steps, or waits until they have run; `wait` in them lasts `grace` seconds from now at most."""
        self._over = min(self._over, time.monotonic() + grace)
        with self._lock:
            if not self._done:
                self._done = True
                steps()

    def wait(self, condition: Callable[[], bool]) -> bool:
        """Waits until a condition holds or the grace is over; gives whether it holds."""
        while not (holds := condition()) and time.monotonic() < self._over:
            time.sleep(LOOK_SECONDS)
        return holds


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Waits until a condition holds, for so many seconds."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(LOOK_SECONDS)
