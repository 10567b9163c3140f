"""What the client adds to a call: `predict` and a prepared call beside the raw stub, against a constant reply.

The server answers with the same bytes whatever comes, from another process. Callers take turns, call by call, so that a
busy machine slows all of them alike; the medians are shown.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import grpc
import numpy as np
from layerserve import Client
from layerserve.models.info import model_spec
from layerserve.models.signatures import Signature
from layerserve.v1.prediction_pb2 import PredictRequest, PredictResponse
from layerserve.v1.tensor_pb2 import ModelSpec
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import encode
from loads import PREDICT, predict_load
from servers import PEERS, first_reply, free_port

CALLS = 1500


def main() -> None:
    port = free_port()
    server = subprocess.Popen([sys.executable, str(PEERS / "constant_reply.py"), str(port)])
    try:
        with Client(f"127.0.0.1:{port}") as client, grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            first_reply(channel, predict_load("small"), server)
            # The constant reply tells no inputs: the client is given what it would have asked for.
            spec = TensorSpec("x", (None, 784), "float32")
            client._signatures.keep(model_spec("small"), Signature(1, (spec,), ()))
            rows = np.random.default_rng(0).random((1, 784), np.float32)
            for name, times in timed(callers(client, channel, rows)).items():
                print(f"{name:34} {median(times) * 1e6:7.0f} us")
    finally:
        server.kill()
        server.wait()


def callers(client: Client, channel: grpc.Channel, rows: np.ndarray) -> dict[str, Callable[[], object]]:
    """Each way to make the same call."""
    constant = predict_load("small").request
    raw = channel.unary_unary(PREDICT)
    stub = channel.unary_unary(
        PREDICT, request_serializer=PredictRequest.SerializeToString, response_deserializer=PredictResponse.FromString
    )

    def by_stub() -> object:
        request = PredictRequest(model=ModelSpec(name="small"), inputs=[encode(rows, "x")])
        return np.frombuffer(stub(request, timeout=60).outputs[0].data, np.float32).reshape(1, 10)

    prepared = client.prepare("small")
    return {
        "raw bytes, nothing read": lambda: raw(constant, timeout=60),
        "stub, message made and read": by_stub,
        "client.predict": lambda: client.predict("small", rows),
        "client.prepare(...)(rows)": lambda: prepared(rows),
    }


def timed(ways: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of each call."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(CALLS):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - began)
    return times


if __name__ == "__main__":
    main()
