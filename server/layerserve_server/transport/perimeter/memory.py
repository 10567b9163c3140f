"""Memory budget for all clients' data: requests, incomplete messages, and replies that aren't sent yet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from layerserve_server.errors import BusyError
from layerserve_server.system_memory import total_memory, trim_heap

MIB = 1024 * 1024
#: Fraction of the machine's or the container's memory that the budget is by default.
SHARE = 0.25
#: Minimum amount of freed memory for which trimming the heap is worth its time.
TRIM_BYTES = 32 * MIB
#: Time after which clients may retry, in seconds.
RETRY_SECONDS = 0.5


class MemoryBudget:
    """Counts the bytes held for clients, and refuses those that would exceed the limit. Thread-safe."""

    def __init__(self, limit: int, outside: Callable[[], int] = lambda: 0) -> None:
        """`outside` returns the bytes that a transport's library buffers, as far as they can be observed."""
        self.limit = limit
        self.outside = outside
        self.held = 0
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes in use: those held here and those of the library."""
        return self.held + self.outside()

    def take(self, count: int) -> None:
        """Reserves bytes for a message received or to be sent. Raises BusyError if they would exceed the limit."""
        with self._lock:
            # A single message larger than the limit is allowed: messages have their own limit.
            if self.used + count > self.limit and self.held:
                raise BusyError(
                    f"requests and replies in progress occupy {self.used} bytes; {count} more would exceed "
                    f"the limit of {self.limit}",
                    retry_after=RETRY_SECONDS,
                )
            self.held += count

    def add(self, count: int) -> None:
        """Reserves bytes without a limit, such as those of an error reply."""
        with self._lock:
            self.held += count

    def give(self, count: int) -> None:
        """Releases reserved bytes."""
        with self._lock:
            self.held -= count


class HeapTrimmer:
    """Trims the heap after the memory in use has dropped by TRIM_BYTES."""

    def __init__(self, memory: MemoryBudget) -> None:
        self._memory = memory
        #: Peak of the memory in use since the heap was last trimmed, in bytes.
        self._most = 0

    def check(self) -> None:
        """Checks the memory in use. Called periodically, from one thread."""
        used = self._memory.used
        self._most = max(self._most, used)
        if self._most - used >= TRIM_BYTES:
            self._most = used
            trim_heap()


def default_limit(root: Path = Path("/")) -> int:
    """Returns a quarter of the container's memory limit, or of the machine's memory; at least 64 MiB. In bytes."""
    return max(64 * MIB, int(total_memory(root) * SHARE))
