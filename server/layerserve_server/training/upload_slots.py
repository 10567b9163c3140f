"""How many runs may wait for their data at the same time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from layerserve_server.errors import BusyError

#: When a place is likely, in seconds.
RETRY_SECONDS = 10.0


class UploadSlots:
    """Places for runs whose data comes. Belongs to one thread: that of the streams' event loop."""

    def __init__(self, limit: int, peer_limit: int) -> None:
        self._limit = limit
        self._peer_limit = peer_limit
        self._peers: Counter[str] = Counter()

    @contextmanager
    def place(self, peer: str) -> Iterator[None]:
        """A place for a client of this address; empty where it isn't known. Raises BusyError."""
        if self._peers.total() >= self._limit:
            raise BusyError(f"{self._limit} runs are receiving their data, which is the limit", RETRY_SECONDS)
        if peer and self._peers[peer] >= self._peer_limit:
            raise BusyError(
                f"{self._peer_limit} runs are receiving data from one client address, which is the limit", RETRY_SECONDS
            )
        self._peers[peer] += 1
        try:
            yield
        finally:
            self._peers[peer] -= 1
            if not self._peers[peer]:
                del self._peers[peer]
