"""The wall clock, as ages of files need it: after a machine's start it may be wrong, and be set by hours or years."""

from __future__ import annotations

import time
from typing import Final

#: Time after the machine's start in which nothing counts as old, in seconds: by then the clock has been set.
SURE_SECONDS: Final = 3600.0
#: Difference from the monotonic clock between two looks that isn't drift, in seconds. A file that is that much newer
#: than now was written when the clock was wrong.
JUMP_SECONDS: Final = 60.0


def is_sure() -> bool:
    """Whether the machine has run for long enough to trust its clock. On Linux the monotonic clock begins with it."""
    return time.monotonic() >= SURE_SECONDS


class ClockJumps:
    """Tells whether the clock was set since the last look."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def seen(self) -> bool:
        """Whether it was, by more than JUMP_SECONDS."""
        before, self._offset = self._offset, time.time() - time.monotonic()
        return abs(self._offset - before) > JUMP_SECONDS
