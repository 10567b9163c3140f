"""What turns traces on, and what is said if their packages are missing."""

from __future__ import annotations

import sys

import pytest
from layerserve_server.extensions.tracing.extension import TRACING


def test_without_its_packages_a_server_says_what_traces_need(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "layerserve_server.extensions.tracing.tracer", None)
    monkeypatch.delenv("OTEL_TRACES_EXPORTER", raising=False)
    assert TRACING.tracer(print) is None
    assert not caplog.messages
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    assert TRACING.tracer(print) is None
    assert caplog.messages == [
        "OTEL_* variables turn on traces, which require two packages: "
        "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-grpc"
    ]
