"""Calls that ask for it are told how long they waited and computed, on each transport; others aren't."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest
from echo_servers import needs_native
from layerserve import AsyncClient, Client, Prediction
from layerserve.v1.prediction_pb2 import PredictRequest, PredictResponse
from layerserve.values import tensors
from layerserve_server.extensions.installed import OWN
from layerserve_server.transport.timing import CallTimes

X = np.ones((1, 2), np.float32)
ASK = (("layerserve-timing", "1"),)
TIMES = re.compile(r"queue;dur=([0-9.]+), compute;dur=([0-9.]+), total;dur=([0-9.]+)")


def milliseconds(text: str) -> tuple[float, ...]:
    found = TIMES.fullmatch(text)
    assert found, text
    queue, compute, total = map(float, found.groups())
    assert 0 <= queue <= total
    assert 0 < compute <= total
    return queue, compute, total


@pytest.mark.parametrize("options", [{}, {"route_by_model": 1}], ids=["any", "routed"])
def test_both_clients_read_them(serve, options):
    app, _ = serve()
    address = f"127.0.0.1:{app.grpc_port}"

    async def asked() -> Prediction:
        async with AsyncClient(address, **options) as client:
            return await client.predict_named("double", X, timing=True)

    with Client(address, **options) as client:
        found = client.predict_named("double", X, timing=True)
    for prediction in (found, asyncio.run(asked())):
        assert list(prediction.timing) == ["queue", "compute", "total"]
        assert 0 < prediction.timing["compute"] <= prediction.timing["total"]


@pytest.mark.parametrize("transport", ["grpcio", pytest.param("native", marks=needs_native)])
def test_trailing_metadata_have_the_times_of_a_call(serve, connect, transport):
    app, _ = serve(transport=transport)
    predict = connect(app).unary_unary(
        "/layerserve.v1.PredictionService/Predict", PredictRequest.SerializeToString, PredictResponse.FromString
    )
    request = PredictRequest(inputs=[tensors.encode(X, "x")])
    request.model.name = "double"

    def tail(**options):
        _, call = predict.with_call(request, timeout=60, **options)
        return dict(call.trailing_metadata())

    # The first is parsed, and the others have its template.
    for _ in range(3):
        milliseconds(tail(metadata=ASK)["server-timing"])
        assert "server-timing" not in tail()
    both = tail(metadata=(*ASK, ("x-request-id", "7")))
    assert both["x-request-id"] == "7"
    milliseconds(both["server-timing"])


def test_headers_of_http_have_the_times_and_the_version_that_answered(serve, put):
    app, call = serve()
    put("double", version=3)
    for _ in range(2):
        app.repository.scan()
    body = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
    paths = [("/v2/models/double/infer", body, "3"), ("/v2/models/double/versions/1/infer", body, "1")]
    if "tensorflow_serving" in OWN:  # it may have been deleted
        paths.append(("/v1/models/double:predict", {"instances": [[1, 2]]}, "3"))
    for path, sent, version in paths:
        headers = call("POST", path, sent).headers
        assert (headers["layerserve-version"], "server-timing" in headers) == (version, False)
        headers = call("POST", path, sent, layerserve_timing="1").headers
        assert headers["layerserve-version"] == version
        milliseconds(headers["server-timing"])
    others = call("GET", "/v2", layerserve_timing="1").headers
    assert re.fullmatch(r"total;dur=[0-9.]+", others["server-timing"])
    assert "layerserve-version" not in others


class Sampled:
    """A trace that notes what it is told."""

    trace_id = "7" * 32

    def __init__(self):
        self.queued = None
        self.told = []

    def computed(self, *arguments):
        self.told.append(("computed", *arguments))

    def begin_run(self, *arguments):
        self.told.append(("begin_run", *arguments))

    def end(self, *arguments, **attributes):
        self.told.append(("end", *arguments, attributes))


def test_what_is_noted_of_a_sampled_call_reaches_its_trace():
    trace = Sampled()
    times = CallTimes(trace, 1.0)
    times.queued = 2.0
    times.computed(3.0, 4.0, 6.0, 5, [times])
    times.computed(7.0, 8.0, 9.0, 1, [times], "ValueError")
    times.end("m", "1", "OK", address="a")
    assert (times.trace_id, trace.queued) == (trace.trace_id, 2.0)
    times.begin_run(Path("run"), ())
    assert trace.told == [
        ("computed", 3.0, 4.0, 6.0, 5, [times], ""),
        ("computed", 7.0, 8.0, 9.0, 1, [times], "ValueError"),
        ("end", "m", "1", "OK", {"address": "a"}),
        ("begin_run", Path("run"), ()),
    ]
    # Of the first batch it waited for a second, and both took three.
    assert times.text().startswith("queue;dur=1000.000, compute;dur=3000.000, total;dur=")
    unsampled = CallTimes(None, 1.0)
    unsampled.queued = 2.0
    unsampled.end("m", "1", "OK")
    unsampled.begin_run(Path("run"), ())
    assert (unsampled.trace_id, unsampled.queued) == ("", 2.0)
