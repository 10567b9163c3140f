"""What the extension adds: a tracer of every process, if the variables OTEL_* turn traces on."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from layerserve_server.extensions.extension import Extension
from layerserve_server.extensions.tracing import otel_variables

if TYPE_CHECKING:
    from layerserve_server.training.runs.tracer import Tracer

logger = logging.getLogger(__name__)


def _tracer(dropped: Callable[[int], None]) -> Tracer | None:
    if not otel_variables.names(os.environ):
        return None
    try:
        from layerserve_server.extensions.tracing.tracer import OpenTelemetryTracer, exporters
    except ImportError:
        logger.error(
            "OTEL_* variables turn on traces, which require two packages: "
            "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-grpc"
        )
        return None
    return OpenTelemetryTracer(os.environ, exporters(os.environ), dropped)


TRACING = Extension(name="tracing", tracer=_tracer)
