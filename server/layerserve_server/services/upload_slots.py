"""Limits on the number of concurrent uploads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from layerserve_server.errors import BusyError

#: Time after which refused clients may retry, in seconds.
RETRY_SECONDS = 10.0


class UploadSlots:
    """Slots for uploads. Not thread-safe: used in the streams' event loop only."""

    def __init__(self, limit: int, what: str = "runs are receiving data") -> None:
        """`limit` is the number of slots, of which one client address may have half. `what` is for error texts."""
        self._what = what
        self._limit = limit
        self._peer_limit = limit // 2
        self._peers: Counter[str] = Counter()

    @contextmanager
    def occupy(self, peer: str) -> Iterator[None]:
        """Occupies a slot within the block. `peer` is the client's address, empty if unknown.

        Raises BusyError if all slots, or those of this address, are occupied.
        """
        if self._peers.total() >= self._limit:
            raise BusyError(f"{self._limit} {self._what}, which is the limit", RETRY_SECONDS)
        if peer and self._peers[peer] >= self._peer_limit:
            raise BusyError(
                f"{self._peer_limit} {self._what} from one client address, which is the limit", RETRY_SECONDS
            )
        self._peers[peer] += 1
        try:
            yield
        finally:
            self._peers[peer] -= 1
            if not self._peers[peer]:
                del self._peers[peer]
