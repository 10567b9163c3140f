"""The access log: a line for each call, or for a share of them, written off the path of requests."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from layerserve_server.observability.background import Background
from layerserve_server.transport.call import Finished
from layerserve_server.transport.client_address import host_of
from layerserve_server.transport.request_ids import sent_id

#: Written whatever the level of the other logs is.
logger = logging.getLogger("layerserve_server.access")

#: Maximum number of lines that wait to be written.
MAX_WAITING = 10_000


class Line(NamedTuple):
    """What a line reports. `moment` is the Unix time of the end, in seconds."""

    moment: float
    method: str
    model: str
    version: str
    status: str
    seconds: float
    client: str
    caller: str
    request_id: str
    trace_id: str


class AccessLog:
    """Writes lines of calls that have ended."""

    def __init__(self, share: float, dropped: Callable[[int], None]) -> None:
        """`share` is the part of the calls that have a line, above 0 up to 1; `dropped` counts lines that are lost."""
        self._share = share
        self._background = Background("access log", _write, MAX_WAITING, dropped)
        logger.setLevel(logging.INFO)

    def ended(self, call: Finished, status: str, seconds: float) -> None:
        """Adds a call that has ended."""
        if self._share < 1.0 and random.random() >= self._share:
            return
        trace = call.trace
        metadata = call.metadata
        caller = getattr(call, "caller", None)
        self._background.add(
            Line(
                time.time(),
                call.method,
                call.model,
                call.version,
                status,
                seconds,
                host_of(str(call.client()), metadata),
                caller.name if caller is not None and caller.named else "",
                call.request_id or sent_id(metadata),
                "" if trace is None else trace.trace_id,
            )
        )

    def close(self) -> None:
        """Writes the lines that wait."""
        self._background.close()


def _write(lines: Sequence[Line]) -> None:
    for line in lines:
        fields = {name: value for name, value in zip(Line._fields[1:], line[1:], strict=True) if value != ""}
        fields["seconds"] = round(line.seconds, 6)
        record = logger.makeRecord(logger.name, logging.INFO, "", 0, "call", (), None, extra=fields)
        record.created, record.msecs = line.moment, line.moment % 1 * 1000
        logger.handle(record)
