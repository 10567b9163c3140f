"""Limits on the number of concurrent uploads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from layerserve_server.errors import BusyError
from layerserve_server.transport.call import Stream

#: Time after which refused clients may retry, in seconds.
RETRY_SECONDS = 10.0


class UploadSlots:
    """Slots for uploads. Not thread-safe: used in the streams' event loop only."""

    def __init__(self, limit: int, what: str = "runs are receiving data") -> None:
        """`limit` is the number of slots, of which one caller may have half. `what` is for error texts."""
        self._what = what
        self._limit = limit
        #: Number of slots by caller: the name of its token or certificate, or else the client's address.
        self._callers: Counter[tuple[str, str]] = Counter()

    @contextmanager
    def occupy(self, stream: Stream) -> Iterator[None]:
        """Occupies a slot within the block. Raises BusyError if all slots, or those of the caller, are occupied."""
        if self._callers.total() >= self._limit:
            raise BusyError(f"{self._limit} {self._what}, which is the limit", RETRY_SECONDS)
        owner, most = stream.caller.owner, self._limit // 2
        caller = (owner, "" if owner else stream.peer)
        # Callers of unknown addresses may be several.
        if any(caller) and self._callers[caller] >= most:
            raise BusyError(f"{most} {self._what} from one caller, which is the limit", RETRY_SECONDS)
        self._callers[caller] += 1
        try:
            yield
        finally:
            self._callers[caller] -= 1
            if not self._callers[caller]:
                del self._callers[caller]
