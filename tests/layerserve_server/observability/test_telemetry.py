"""Traces and access log of calls: whatever fails there costs no call, and is in the log."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from layerserve_server.observability.telemetry import CallTelemetry

PREDICT, HEALTH = "/layerserve.v1.PredictionService/Predict", "/grpc.health.v1.Health/Check"


class Faulty:
    """A tracer, an access log and a trace that raise."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def begin(self, method: str, *_: Any) -> None:
        self.calls.append(method)
        raise OSError("no room")

    def ended(self, call: Any, *_: Any) -> None:
        self.calls.append(call.method)
        raise OSError("no room")


def call(method: str) -> Any:
    return SimpleNamespace(method=method, trace=None)


def test_a_call_goes_on_without_a_trace_and_without_a_line(caplog: pytest.LogCaptureFixture) -> None:
    faulty = Faulty()
    telemetry: Any = CallTelemetry(faulty, faulty)  # type: ignore[arg-type]
    assert telemetry.begin(PREDICT, (), 0.0) is None
    telemetry.ended(call(PREDICT), "OK", 0.5)
    assert faulty.calls == [PREDICT, PREDICT]
    assert caplog.messages == ["a call has no trace", "a call isn't reported"]
    telemetry.begin(HEALTH, (), 0.0)
    telemetry.ended(call(HEALTH), "OK", 0.5)
    assert faulty.calls == [PREDICT, PREDICT]
