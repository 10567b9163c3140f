"""Looks at what may change on the disk again and again, in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Watcher:
    """Calls `looks` every `poll_seconds`. Loads happen in its thread, never in a request's."""

    def __init__(self, poll_seconds: float, *looks: Callable[[], object]) -> None:
        self._looks = looks
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="repository watcher", daemon=True)

    def start(self) -> None:
        """Starts to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stops to watch, after the scan under way."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            for look in self._looks:
                try:
                    look()
                except Exception:
                    logger.exception("the scan of the repository failed; retrying in %s s", self._poll_seconds)
