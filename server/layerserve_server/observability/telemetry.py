"""What transports report of each call (see transport.call.Telemetry): traces, and the access log."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from layerserve_server.observability.access_log import AccessLog
from layerserve_server.transport.call import Finished, Trace
from layerserve_server.transport.client_address import host_of

logger = logging.getLogger(__name__)

#: Services without traces and lines: probes call them every few seconds.
UNREPORTED = ("/grpc.health.v1.Health/",)


class CallTracer(Protocol):
    """Makes traces of calls. The core has none."""

    def begin(self, name: str, metadata: Sequence[tuple[str, str | bytes]], arrived: float) -> Trace | None:
        """Returns the trace of a call to the method `name`; None if it isn't sampled."""

    def close(self) -> None:
        """Exports the spans that wait."""


class CallTelemetry:
    """Traces and access log of a process; at least one of them."""

    def __init__(self, tracer: CallTracer | None, access_log: AccessLog | None) -> None:
        self._tracer = tracer
        self._access_log = access_log

    def begin(self, method: str, metadata: Sequence[tuple[str, str | bytes]], arrived: float) -> Trace | None:
        """Returns the trace of a call that arrived; None if it isn't sampled."""
        if self._tracer is None or method.startswith(UNREPORTED):
            return None
        try:
            return self._tracer.begin(method, metadata, arrived)
        except Exception:
            logger.exception("a call has no trace")
            return None

    def ended(self, call: Finished, status: str, seconds: float) -> None:
        """Ends the trace of a call, and adds its line."""
        try:
            if call.trace is not None:
                call.trace.end(call.model, call.version, status, **{"client.address": host_of(str(call.client()))})
            if self._access_log is not None and not call.method.startswith(UNREPORTED):
                self._access_log.ended(call, status, seconds)
        except Exception:
            logger.exception("a call isn't reported")

    def close(self) -> None:
        """Exports the spans and writes the lines that wait."""
        if self._tracer is not None:
            self._tracer.close()
        if self._access_log is not None:
            self._access_log.close()
