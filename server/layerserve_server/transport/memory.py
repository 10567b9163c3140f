"""The one bound for what callers make the server keep: requests, messages on their way, replies not yet taken."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from layerserve_server.errors import BusyError
from layerserve_server.system_memory import total_memory, trim_heap

MIB = 1024 * 1024
#: Part of the machine's or the container's memory that callers' bytes may take.
SHARE = 0.25
#: Less is not worth the time that trimming takes.
TRIM_BYTES = 32 * MIB
#: When callers may try again, in seconds.
RETRY_SECONDS = 0.5


class MemoryBudget:
    """Counts bytes that are kept for callers. Refuses what would pass the limit."""

    def __init__(self, limit: int, outside: Callable[[], int] = lambda: 0) -> None:
        """`outside` counts bytes that a transport's library keeps, as far as they can be seen."""
        self.limit = limit
        self.outside = outside
        self.held = 0
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes that are kept now."""
        return self.held + self.outside()

    def take(self, count: int) -> None:
        """Counts bytes that came or are about to go. Raises BusyError where they would pass the limit."""
        with self._lock:
            # What is larger than the limit passes alone: its own limit is that of messages.
            if self.used + count > self.limit and self.held:
                raise BusyError(
                    f"requests and replies under way take {self.used} bytes, {count} more would pass "
                    f"the limit of {self.limit}",
                    retry_after=RETRY_SECONDS,
                )
            self.held += count

    def add(self, count: int) -> None:
        """Counts bytes that can't be refused, such as those of a refusal."""
        with self._lock:
            self.held += count

    def give(self, count: int) -> None:
        """These bytes are kept no more."""
        with self._lock:
            self.held -= count


class HeapTrimmer:
    """Trims the heap when callers made the server keep much memory, and no longer do."""

    def __init__(self, memory: MemoryBudget) -> None:
        self._memory = memory
        #: The most that was kept since the heap was trimmed last.
        self._most = 0

    def look(self) -> None:
        """To be called now and then, from one thread."""
        used = self._memory.used
        self._most = max(self._most, used)
        if self._most - used >= TRIM_BYTES:
            self._most = used
            trim_heap()


def default_limit(root: Path = Path("/")) -> int:
    """A quarter of the memory that this process may take: the container's limit, or what the machine has."""
    return max(64 * MIB, int(total_memory(root) * SHARE))
