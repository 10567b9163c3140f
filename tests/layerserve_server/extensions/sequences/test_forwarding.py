"""Steps that a worker passes on to the main process."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from layerserve.v1 import prediction_pb2 as pb
from layerserve_server.access.gate import Gate
from layerserve_server.services.prediction.layerserve_v1 import LayerserveV1
from layerserve_server.services.prediction.request_taker import ForwardedRequests
from layerserve_server.transport.client_address import PEER_KEY
from layerserve_server.transport.forwarding import CallForwarder
from summed_sequences import METHOD, outputs, request


class ClientCall:
    """A call that a worker has received."""

    method, deadline, metadata = METHOD, None, (("x-request-id", "7"), (PEER_KEY, "a claim"))

    def __init__(self, message: pb.PredictRequest) -> None:
        self.request = message.SerializeToString()
        self.outcome: Any = None

    def client(self) -> str:
        return "ipv4:10.1.2.3:4000"

    def certificate_names(self) -> list[str]:
        return []

    def on_gone(self, callback: Any) -> None:
        self.gone = callback

    def answer(self, message: bytes) -> bool:
        self.outcome = pb.PredictResponse.FromString(message)
        return True

    def fail(self, error: Any) -> None:
        self.outcome = error.wire


@pytest.fixture
def pass_on(put_sum, start_sum, wait_until, tmp_path: Path):
    put_sum()
    app = start_sum()
    forwarder = CallForwarder(tmp_path / "owner.sock", Gate())
    forwarder._channel = grpc.insecure_channel(f"127.0.0.1:{app.grpc_port}")
    steps = ForwardedRequests(forwarder.forward)

    def step(message: pb.PredictRequest) -> Any:
        call: Any = ClientCall(message)
        asked: Any = SimpleNamespace(requested=SimpleNamespace(protocol=LayerserveV1()))
        steps.take(call, asked, here=True)
        assert call.forwarded  # so that it is counted once
        wait_until(lambda: call.outcome is not None)
        return call.outcome

    yield step
    forwarder.close()


def test_replies_and_errors_are_those_of_the_main_process(pass_on):
    assert outputs(pass_on(request("a", 1, start=True))) == [1]
    assert outputs(pass_on(request("a", 2, end=True))) == [3]
    lost = pass_on(request("a", 1))
    assert (lost.code, "must specify the START flag" in lost.text) == (grpc.StatusCode.INVALID_ARGUMENT, True)
    assert {"layerserve-reason": "sequence_lost", "x-request-id": "7"}.items() <= dict(lost.metadata).items()
