"""Work that is done off the path of requests: a bounded list of items, and the thread that takes them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Time between two looks at the list, in seconds: waking the thread for each item would cost requests more.
INTERVAL_SECONDS = 0.1


class Background(Generic[T]):
    """Passes items to `handle` in a thread of its own, many at once. Items that find the list full are dropped."""

    def __init__(
        self,
        name: str,
        handle: Callable[[Sequence[T]], None],
        limit: int,
        dropped: Callable[[int], None],
        idle: Callable[[], None] = lambda: None,
    ) -> None:
        """`limit` is the maximum number of items that wait; `dropped` is called with the number of dropped ones.

        `idle` is called at each look at the list, after its items were handled.
        """
        self._idle = idle
        self._handle = handle
        self._limit = limit
        self._dropped = dropped
        self._waiting: deque[T] = deque()
        self._lost = 0
        self._stopping = threading.Event()
        self._handling = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def add(self, item: T) -> bool:
        """Adds an item. Returns False if it was dropped. Never blocks."""
        if len(self._waiting) >= self._limit:
            # Not exact if several threads drop items at once, which is good enough for a count of losses.
            self._lost += 1
            return False
        self._waiting.append(item)
        return True

    def flush(self) -> None:
        """Handles all waiting items, in this thread."""
        with self._handling:
            lost, self._lost = self._lost, 0
            if lost:
                self._dropped(lost)
            items = [self._waiting.popleft() for _ in range(len(self._waiting))]
            try:
                if items:
                    self._handle(items)
                self._idle()
            except Exception:
                logger.exception("%s: %d items are lost", self._thread.name, len(items))

    def close(self) -> None:
        """Handles the waiting items, and ends the thread."""
        self._stopping.set()
        self._thread.join()
        self.flush()

    def _run(self) -> None:
        while not self._stopping.wait(INTERVAL_SECONDS):
            self.flush()
