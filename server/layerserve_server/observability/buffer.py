"""Buffers metric observations and counts them in bulk: counting one by one takes a tenth of a request's time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

#: Number of buffered observations that triggers counting. Collecting the metrics counts the rest.
MAX_WAITING = 64


class Buffer(Generic[T]):
    """Observations that aren't counted yet. Thread-safe."""

    __slots__ = ("_count", "_waiting")

    def __init__(self, count: Callable[[Sequence[T]], None]) -> None:
        """`count` is called with observations in order of arrival, in the thread that adds or flushes."""
        self._count = count
        self._waiting: deque[T] = deque()

    def add(self, observations: Iterable[T], *, shared: bool) -> None:
        """Adds observations. If `shared`, of a batch with several requests, they are counted immediately.

        The requests of the batch share the cost of counting, and the next requests queue up meanwhile. When counting
        was deferred, 16 concurrent clients formed smaller batches and received 10 % fewer replies per second.
        """
        self._waiting.extend(observations)
        if shared or len(self._waiting) >= MAX_WAITING:
            self.flush()

    def flush(self) -> None:
        """Counts all buffered observations."""
        taken: list[T] = []
        while self._waiting:
            try:
                taken.append(self._waiting.popleft())
            except IndexError:
                # Another thread took the last ones, and counts them.
                break
        if taken:
            self._count(taken)
