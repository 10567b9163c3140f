"""Functions that are called after a change, as long as their callers watch."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Watchers:
    """The functions to call. Thread-safe."""

    def __init__(self) -> None:
        self._called: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    @contextmanager
    def watched(self, changed: Callable[[], None]) -> Iterator[None]:
        """Registers a function within the block. It is called in the thread that changes something."""
        with self._lock:
            self._called.append(changed)
        try:
            yield
        finally:
            with self._lock:
                self._called.remove(changed)

    def __len__(self) -> int:
        return len(self._called)

    def call(self) -> None:
        """Calls all functions that are registered now."""
        with self._lock:
            called = tuple(self._called)
        for changed in called:
            changed()
