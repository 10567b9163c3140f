"""Observations that are counted later, many at once: to count one by one costs several microseconds of each request."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

#: Observations after which they are counted. Whoever reads the metrics has them counted before.
MAX_WAITING = 64


class Buffer(Generic[T]):
    """Observations that wait to be counted. Thread-safe."""

    __slots__ = ("_count", "_waiting")

    def __init__(self, count: Callable[[Sequence[T]], None]) -> None:
        """`count` counts some observations, in their order, in the thread that adds or flushes."""
        self._count = count
        self._waiting: deque[T] = deque()

    def add(self, observations: Iterable[T]) -> None:
        """Adds observations, and counts them all if there are many."""
        self._waiting.extend(observations)
        if len(self._waiting) >= MAX_WAITING:
            self.flush()

    def flush(self) -> None:
        """Counts all that were added."""
        taken: list[T] = []
        while self._waiting:
            try:
                taken.append(self._waiting.popleft())
            except IndexError:
                # Another thread flushes as well, what it took.
                break
        if taken:
            self._count(taken)
