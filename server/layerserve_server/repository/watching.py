"""Periodic scans of the disk in a thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

#: Pause after a scan as a multiple of the processor time that it took, so that thousands of models don't occupy
#: a processor; and the maximum of it, in seconds.
PAUSE_TIMES: Final = 20.0
MAX_PAUSE_SECONDS: Final = 10.0


class Watcher:
    """Calls `scans` every `poll_seconds` in a thread, in which versions are loaded; less often if they take long."""

    def __init__(self, poll_seconds: float, *scans: Callable[[], object]) -> None:
        self._scans = scans
        self._poll_seconds = poll_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="repository watcher", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Begins no further scan."""
        self._stopping.set()

    def wait(self) -> None:
        """Waits for the current scan, after `stop`."""
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        used = 0.0
        while not self._stopping.wait(max(self._poll_seconds, min(MAX_PAUSE_SECONDS, PAUSE_TIMES * used))):
            began = time.thread_time()
            for scan in self._scans:
                try:
                    scan()
                except Exception:
                    logger.exception("the scan of the repository failed; retrying in %s s", self._poll_seconds)
            used = time.thread_time() - began
