"""The time budget of tuning, checked before each step against the expected duration of the step."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Time between two checks whether the machine is still needed for other work, in seconds.
CHECK_SECONDS = 0.1


class NoTimeError(Exception):
    """A step was left out since it would have ended too late; the message has its expected duration."""


class Allowance:
    """A budget of `seconds` of wall clock from now on, which is 0 once `stopped` returns True.

    Steps can't be interrupted, since engines can't: one that takes longer than expected ends later. While `busy`
    returns True, no step is begun; that time doesn't count.
    """

    def __init__(
        self,
        seconds: float,
        stopped: Callable[[], bool] = lambda: False,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._until = time.monotonic() + seconds
        self._stopped = stopped
        self._busy = busy

    @property
    def left(self) -> float:
        """Remaining seconds, at least 0."""
        return 0.0 if self._stopped() else max(self._until - time.monotonic(), 0.0)

    def wait(self) -> None:
        """Waits until the machine isn't busy."""
        began = time.monotonic()
        while self._busy() and not self._stopped():
            time.sleep(CHECK_SECONDS)
        self._until += time.monotonic() - began

    def require(self, seconds: float, reserved: float = 0.0) -> None:
        """Waits until the machine isn't busy.

        Raises NoTimeError if a step of `seconds` would leave less than `reserved` seconds for later steps.
        """
        self.wait()
        left = max(self.left - reserved, 0.0)
        if not left or seconds > left:
            raise NoTimeError(f"no time left: {left:.1f} s remain, expected to take {seconds:.1f} s")
