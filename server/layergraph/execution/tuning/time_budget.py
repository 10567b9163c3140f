"""The time budget of tuning, checked before each step against the expected duration of the step."""

from __future__ import annotations

import time
from collections.abc import Callable


class NoTimeError(Exception):
    """A step was left out since it would have ended too late; the message has its expected duration."""


class Allowance:
    """A budget of `seconds` of wall clock from now on, which is 0 once `stopped` returns True.

    Steps can't be interrupted, since engines can't: one that takes longer than expected ends later.
    """

    def __init__(self, seconds: float, stopped: Callable[[], bool] = lambda: False) -> None:
        self._until = time.monotonic() + seconds
        self._stopped = stopped

    @property
    def left(self) -> float:
        """Remaining seconds, at least 0."""
        return 0.0 if self._stopped() else max(self._until - time.monotonic(), 0.0)

    def require(self, seconds: float, kept: float = 0.0) -> None:
        """Raises NoTimeError if a step of `seconds` would leave less than `kept` seconds for later steps."""
        left = max(self.left - kept, 0.0)
        if not left or seconds > left:
            raise NoTimeError(f"no time left: {left:.1f} s remain, expected to take {seconds:.1f} s")
