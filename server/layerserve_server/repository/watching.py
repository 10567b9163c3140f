"""Periodic scans of the disk in a thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Watcher:
    """Calls `scans` every `poll_seconds` in a thread, in which new versions are loaded."""

    def __init__(self, poll_seconds: float, *scans: Callable[[], object]) -> None:
        self._scans = scans
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="repository watcher", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stops the thread after the current scan."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            for scan in self._scans:
                try:
                    scan()
                except Exception:
                    logger.exception("the scan of the repository failed; retrying in %s s", self._poll_seconds)
