"""Shutdown of a process or a transport: runs once, in bounded time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

#: Time between two checks of a condition, in seconds.
CHECK_SECONDS = 0.01
#: Time of a process to end after the grace period of its calls, in seconds. Deployments give it two more.
END_SECONDS = 8.0
#: Part of it that is kept for what follows the calls, in seconds.
KEPT_SECONDS = 2.0
#: Time for a step to end that has nothing to wait for, in seconds.
STEP_SECONDS = 2.0
#: Time for a step that begins when no time is left, in seconds.
LEAST_SECONDS = 0.1


class Shutdown:
    """Runs the steps of a shutdown once. Later calls wait for them and may shorten the grace period."""

    def __init__(self, end_seconds: float = END_SECONDS) -> None:
        """`end_seconds` is the time for all steps together after the grace period."""
        self._lock = threading.Lock()
        self._over = float("inf")
        self._end_seconds = end_seconds
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

    def begin(self, what: str, do: Callable[[], object]) -> threading.Thread:
        """Begins a step in a thread, to be ended by `end`. `what` describes it in the log."""

        def step() -> None:
            try:
                do()
            except Exception:
                logger.exception("the server stops, but not %s", what)

        thread = threading.Thread(target=step, name=what, daemon=True)
        thread.start()
        return thread

    def end(self, step: threading.Thread, seconds: float = STEP_SECONDS, kept: float = 0.0) -> None:
        """Waits until a step has ended, but for `seconds` at most, and in the time of all steps but `kept` seconds."""
        least = time.monotonic() + LEAST_SECONDS
        until = time.monotonic() + seconds
        while step.is_alive():
            now = time.monotonic()
            if now >= max(least, min(until, self._over + self._end_seconds - kept)):
                logger.warning("stopping without waiting any longer for %s", step.name)
                return
            step.join(CHECK_SECONDS)

    def step(self, what: str, do: Callable[[], object], seconds: float = STEP_SECONDS, kept: float = 0.0) -> None:
        """Does a step, as `begin` and `end` do."""
        self.end(self.begin(what, do), seconds, kept)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Waits until a condition holds, for `seconds` at most."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(CHECK_SECONDS)
