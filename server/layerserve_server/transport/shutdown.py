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
#: Part of `END_SECONDS` that is left to the steps that follow the calls, in seconds.
LEFT_SECONDS = 2.0
#: Time for a step to end that has nothing to wait for, in seconds.
STEP_SECONDS = 2.0
#: Time for a step that begins when no time is left, in seconds.
LEAST_SECONDS = 0.1


class Shutdown:
    """Runs the steps of a shutdown once. Later calls wait for them and may shorten the grace period."""

    def __init__(self, end_seconds: float = END_SECONDS) -> None:
        """`end_seconds` is the time for all steps together after the grace period."""
        self._lock = threading.Lock()
        #: When the grace period ends, as a monotonic time in seconds.
        self._grace_end = float("inf")
        self._end_seconds = end_seconds
        self._done = False

    def run(self, grace: float, steps: Callable[[], None]) -> None:
        """Runs the steps, or waits until they have run. A `wait` in them ends within `grace` seconds from now."""
        self._grace_end = min(self._grace_end, time.monotonic() + grace)
        with self._lock:
            if not self._done:
                self._done = True
                steps()

    def wait(self, condition: Callable[[], bool], longer: float = 0.0) -> bool:
        """Waits for a condition, until `longer` seconds after the grace period. Returns whether it holds."""
        while not (holds := condition()) and time.monotonic() < self._grace_end + longer:
            time.sleep(CHECK_SECONDS)
        return holds

    def begin(self, what: str, do: Callable[[], object]) -> threading.Thread:
        """Begins a step in a thread, for which `end` waits. `what` is what it stops, for the log."""

        def step() -> None:
            try:
                do()
            except Exception:
                logger.exception("the server stops, but failed to stop %s", what)

        thread = threading.Thread(target=step, name=what, daemon=True)
        thread.start()
        return thread

    def end(self, step: threading.Thread, seconds: float = STEP_SECONDS, left: float = 0.0) -> None:
        """Waits until a step has ended, for `seconds` at most. `left` seconds of all steps' time are left to others."""
        least = time.monotonic() + LEAST_SECONDS
        until = time.monotonic() + seconds
        while step.is_alive():
            now = time.monotonic()
            if now >= max(least, min(until, self._grace_end + self._end_seconds - left)):
                logger.warning("stopping without waiting any longer for %s", step.name)
                return
            step.join(CHECK_SECONDS)

    def step(self, what: str, do: Callable[[], object], seconds: float = STEP_SECONDS, left: float = 0.0) -> None:
        """Does a step, as `begin` and `end` do."""
        self.end(self.begin(what, do), seconds, left)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Waits until a condition holds, for `seconds` at most."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(CHECK_SECONDS)
