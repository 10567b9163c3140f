"""Loads that requests wait for: one for all requests of a version, a few at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from layerserve_server.errors import STOPPING, BusyError, ServerError, UnavailableError
from layerserve_server.repository.entry import Entry

logger = logging.getLogger(__name__)

#: Maximum number of loads at the same time. Reading a file occupies another process, and building the model Python.
MAX_LOADS: Final = 2
#: Maximum number of calls that wait for all loads, and for one. They occupy memory, but no threads.
MAX_WAITING: Final = 1024
MAX_WAITING_FOR_ONE: Final = 256
#: Time after which a call that was refused may be repeated, in seconds.
RETRY_SECONDS: Final = 0.5


@dataclass(slots=True, eq=False)
class Waiting:
    """A call that waits."""

    #: Continues the call, with the error of the load if there is one. Called once, in a thread that it must not block.
    proceed: Callable[[Exception | None], None]
    #: Whether its caller has cancelled it, or its deadline has passed.
    gone: Callable[[], bool]
    #: Whether it needs more than what was kept of the version.
    whole: bool
    since: float = field(default_factory=time.monotonic)


class LazyLoading:
    """Has versions loaded for calls that wait for them. Thread-safe.

    A load that no call waits for any more isn't begun.
    """

    def __init__(self, load: Callable[[Entry, bool], None], awaited: Callable[[str, float], None]) -> None:
        """`load` loads a version, and gets whether a call needs the whole. `awaited` is as `Metrics.load_awaited`."""
        self._load = load
        self._awaited = awaited
        self._loads: dict[Entry, list[Waiting]] = {}
        self._count = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(MAX_LOADS, "load")
        self._closed = False

    def want(
        self, entry: Entry, proceed: Callable[[Exception | None], None], gone: Callable[[], bool], *, whole: bool = True
    ) -> None:
        """Calls `proceed` after the version was loaded, or has failed to. Doesn't block.

        Unless the `whole` is needed, what was kept of it suffices.

        Raises BusyError if too many calls are waiting, and UnavailableError after `close`.
        """
        with self._lock:
            if self._closed:
                raise UnavailableError(STOPPING)
            waiting = self._loads.get(entry)
            if self._count >= MAX_WAITING or (waiting is not None and len(waiting) >= MAX_WAITING_FOR_ONE):
                self._awaited("refused", 0.0)
                what, count = ("it", len(waiting)) if waiting is not None else ("models to be loaded", self._count)
                raise BusyError(
                    f"{entry.found.label} isn't loaded, and {count} calls are waiting for {what}", RETRY_SECONDS
                )
            self._count += 1
            entry.waiting += 1
            if waiting is not None:
                waiting.append(Waiting(proceed, gone, whole))
                return
            self._loads[entry] = [Waiting(proceed, gone, whole)]
            self._pool.submit(self._run, entry)

    def close(self) -> None:
        """Begins no further loads. Calls that wait for one that wasn't begun get UnavailableError."""
        with self._lock:
            self._closed = True
        # What was submitted still runs: a call that waits in a thread would keep the process from ending.
        self._pool.shutdown(wait=False)

    def _run(self, entry: Entry) -> None:
        with self._lock:
            wanted = [one.whole for one in self._loads[entry] if not one.gone()]
            closed = self._closed
        error: Exception | None = None
        try:
            if closed:
                raise UnavailableError(STOPPING)
            if wanted:
                self._load(entry, any(wanted))
        except ServerError as expected:
            error = expected
        except Exception as unexpected:
            logger.exception("%s can't be loaded for requests", entry.found.label)
            error = unexpected
        with self._lock:
            waiting = self._loads.pop(entry)
            self._count -= len(waiting)
            entry.waiting -= len(waiting)
        outcome, now = "failed" if entry.loaded is None else "loaded", time.monotonic()
        for one in waiting:
            self._awaited("gone" if one.gone() else outcome, now - one.since)
            one.proceed(error)
