"""The time that tuning may take: asked before each step, by what the steps before it took on the machine as it is."""

from __future__ import annotations

import time
from collections.abc import Callable


class NoTimeError(Exception):
    """A step was left out, as it would have ended too late; the text says how long it was expected to take."""


class Allowance:
    """So many seconds of wall clock from now on. There are none left either once `stopped` says so.

    A step that has begun isn't interrupted, since engines can't be: what takes longer than expected is late by that.
    """

    def __init__(self, seconds: float, stopped: Callable[[], bool] = lambda: False) -> None:
        self._until = time.monotonic() + seconds
        self._stopped = stopped

    @property
    def left(self) -> float:
        """Seconds that are left, 0 at the least."""
        return 0.0 if self._stopped() else max(self._until - time.monotonic(), 0.0)

    def require(self, seconds: float, kept: float = 0.0) -> None:
        """Raises NoTimeError if a step of so many seconds would not leave `kept` for what comes after it."""
        left = max(self.left - kept, 0.0)
        if not left or seconds > left:
            raise NoTimeError(f"there was no time left for it: {left:.1f} s, and it was expected to take {seconds:.1f}")
