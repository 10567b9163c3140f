"""The current trace of OpenTelemetry as metadata of calls, if the program has one."""

from __future__ import annotations

import sys
from typing import Any

from layerserve.calls.tokens import Metadata


def trace_metadata() -> Metadata:
    """Returns the headers of the current span (W3C, or as OTEL_PROPAGATORS has it); none without a span.

    The package `opentelemetry-api` is used only if the program has imported it: otherwise there is no span.
    """
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry import propagate

    headers: dict[str, Any] = {}
    propagate.inject(headers)
    return tuple(headers.items())
