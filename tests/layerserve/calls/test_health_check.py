"""What a server says of its health, byte by byte."""

from __future__ import annotations

import pytest
from layerserve.calls.health_check import HealthCheckRequest, HealthCheckResponse


def test_messages_are_those_of_grpcs_health_check():
    health_pb2 = pytest.importorskip("grpc_health.v1.health_pb2")
    request = HealthCheckRequest()
    assert request.SerializeToString() == health_pb2.HealthCheckRequest().SerializeToString()
    assert request.ByteSize() == len(request.SerializeToString())
    assert HealthCheckRequest.FromString(b"") == request
    statuses = health_pb2.HealthCheckResponse
    for status in statuses.ServingStatus.values():
        message = statuses(status=status).SerializeToString()
        assert HealthCheckResponse.FromString(message).serving == (status == statuses.SERVING)
    for serving in (True, False):
        sent = HealthCheckResponse(serving)
        assert HealthCheckResponse.FromString(sent.SerializeToString()) == sent
        assert sent.ByteSize() == len(sent.SerializeToString())
        assert statuses.FromString(sent.SerializeToString()).status == (1 if serving else 2)
