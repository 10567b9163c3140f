"""What transports report of each call (see transport.call.Telemetry): traces, and the access log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from layerserve_server.observability import otel_variables
from layerserve_server.observability.access_log import AccessLog
from layerserve_server.transport.call import Finished, Trace
from layerserve_server.transport.client_address import host_of

if TYPE_CHECKING:  # packages that may be missing
    from layerserve_server.observability.tracing import Tracer

logger = logging.getLogger(__name__)

#: Services without traces and lines: probes call them every few seconds.
UNREPORTED = ("/grpc.health.v1.Health/",)


class CallTelemetry:
    """Traces and access log of a process; at least one of them."""

    def __init__(self, tracer: Tracer | None, access_log: AccessLog | None) -> None:
        self.tracer = tracer
        self._access_log = access_log

    def begin(self, method: str, metadata: Sequence[tuple[str, str | bytes]], arrived: float) -> Trace | None:
        """Returns the trace of a call that arrived; None if it isn't sampled."""
        if self.tracer is None or method.startswith(UNREPORTED):
            return None
        try:
            return self.tracer.begin(method, metadata, arrived)
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
        if self.tracer is not None:
            self.tracer.close()
        if self._access_log is not None:
            self._access_log.close()


def telemetry_of(
    access_log: float, environment: Mapping[str, str], dropped: Callable[[str, int], None]
) -> CallTelemetry | None:
    """Returns what reports each call; None if there are neither traces nor an access log.

    `access_log` is the share of calls that have a line, and the variables OTEL_* of the environment turn on traces.
    `dropped` counts what is lost, by kind. Raises UnknownExporterError.
    """
    tracer = _tracer(environment, partial(dropped, "traces"))
    log = AccessLog(access_log, partial(dropped, "access_log")) if access_log else None
    return CallTelemetry(tracer, log) if tracer is not None or log is not None else None


def _tracer(environment: Mapping[str, str], dropped: Callable[[int], None]) -> Tracer | None:
    if not otel_variables.names(environment):
        return None
    try:
        from layerserve_server.observability.tracing import Tracer, exporters
    except ImportError:
        logger.error(
            "OTEL_* variables turn on traces, which require two packages: "
            "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-grpc"
        )
        return None
    return Tracer(environment, exporters(environment), dropped)
