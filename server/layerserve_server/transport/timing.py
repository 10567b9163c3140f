"""How long a call took, in its reply, for clients that ask for it.

The key is that of HTTP's header with times (https://www.w3.org/TR/server-timing), also over gRPC.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from layerserve_server.access.gate import Pairs
from layerserve_server.transport.call import Trace

#: Metadata by which a client asks, with any value.
ASK: Final = "layerserve-timing"
#: Metadata of the reply.
KEY: Final = "server-timing"


class CallTimes:
    """The times of a call. A `Trace` that passes everything on to that of the call, if it is sampled."""

    def __init__(self, trace: Trace | None, arrived: float) -> None:
        self._trace = trace
        self._arrived = arrived
        self._queued: float | None = None
        #: When its first batch was taken from the queue.
        self._taken: float | None = None
        self._computing = 0.0

    @property
    def trace_id(self) -> str:
        return "" if self._trace is None else self._trace.trace_id

    @property
    def queued(self) -> float | None:
        return self._queued

    @queued.setter
    def queued(self, moment: float | None) -> None:
        self._queued = moment
        if self._trace is not None:
            self._trace.queued = moment

    def computed(
        self, taken: float, began: float, ended: float, rows: int, traces: Sequence[Trace], error: str = ""
    ) -> None:
        if self._taken is None:
            self._taken = taken
        self._computing += ended - began
        if self._trace is not None:
            self._trace.computed(taken, began, ended, rows, traces, error)

    def request(self) -> Trace:
        raise NotImplementedError  # streams aren't timed

    def begin_run(self, folder: Path, metadata: Pairs) -> None:
        if self._trace is not None:
            self._trace.begin_run(folder, metadata)

    def end(self, model: str, version: str, status: str, **attributes: str) -> None:
        if self._trace is not None:
            self._trace.end(model, version, status, **attributes)

    def text(self) -> str:
        """Returns the milliseconds until now: waiting in the queue, computing, and in total."""
        found = {"total": time.monotonic() - self._arrived}
        if self._taken is not None:
            # A call that didn't go through the queue waited since it arrived.
            since = self._arrived if self._queued is None else self._queued
            found = {"queue": self._taken - since, "compute": self._computing, **found}
        return ", ".join(f"{name};dur={max(0.0, seconds) * 1000:.3f}" for name, seconds in found.items())
