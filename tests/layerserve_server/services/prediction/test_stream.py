"""PredictStream through a real port: many requests on one stream, answered as they finish."""

from __future__ import annotations

import threading
import time

import grpc
import numpy as np
import pytest
from layerserve.v1 import prediction_pb2, prediction_pb2_grpc, tensor_pb2
from layerserve.values import tensors
from layerserve_server.services.prediction import prediction_stream

X = np.arange(6, dtype=np.float32).reshape(3, 2)


def message(x, id, name="double", **fields):
    spec = tensor_pb2.ModelSpec(name=name)
    request = prediction_pb2.PredictRequest(model=spec, inputs=[tensors.encode(x, "x")], id=id, **fields)
    return prediction_pb2.PredictStreamRequest(request=request)


@pytest.fixture(params=["grpcio", "native"])
def serve(request, put, start, connect):
    if request.param == "native":
        pytest.importorskip("pygrpc_native")

    def serve_double(**settings):
        put("double")
        app = start(transport=request.param, **settings)
        with app.repository.leases.lease("double") as version:
            return app, version.model, prediction_pb2_grpc.PredictionServiceStub(connect(app))

    return serve_double


def outcomes(stream):
    """By id: the array, or the status code."""
    found = {}
    for reply in stream:
        if reply.WhichOneof("outcome") == "response":
            found[reply.response.id] = tensors.decode(reply.response.outputs[0])
        else:
            found[reply.error.id] = reply.error
    return found


def test_each_request_gets_its_own_rows_and_id(serve):
    _, _, stub = serve()
    given = {str(i): np.full((i % 4 + 1, 2), i, np.float32) for i in range(500)}
    got = outcomes(stub.PredictStream((message(x, id) for id, x in given.items()), timeout=60))
    assert got.keys() == given.keys()
    for id, x in given.items():
        np.testing.assert_array_equal(got[id], x * 2)


def test_what_is_wrong_with_one_request_is_told_in_its_answer(serve):
    _, _, stub = serve()
    given = [message(X, "a"), message(X, "b", "doubel"), message(X[:, :1], "c"), message(-1 - X, "d"), message(X, "e")]
    got = outcomes(stub.PredictStream(iter(given), timeout=60))
    np.testing.assert_array_equal(got["a"], X * 2)
    np.testing.assert_array_equal(got["e"], X * 2)
    assert (got["b"].code, got["b"].metadata["layerserve-reason"]) == (5, "model_not_found")
    assert (got["c"].code, got["d"].code) == (3, 3)
    assert "input 'x'" in got["c"].message


def test_a_message_that_is_none_ends_the_stream(serve):
    app, _, _ = serve()
    with grpc.insecure_channel(f"127.0.0.1:{app.grpc_port}") as channel:
        stream = channel.stream_stream("/layerserve.v1.PredictionService/PredictStream")(iter([b"\xff"]), timeout=30)
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_empty_stream_ends(serve):
    _, _, stub = serve()
    assert list(stub.PredictStream(iter(()), timeout=30)) == []


def test_a_caller_that_goes_away_leaves_nothing_to_compute(serve, wait_until):
    app, model, stub = serve()
    model.gate.clear()
    more = threading.Event()

    def requests():
        yield message(X, "first")
        wait_until(lambda: model.begun)
        for i in range(5):
            yield message(X, str(i))
        more.wait(30)

    stream = stub.PredictStream(requests(), timeout=60)
    with app.repository.leases.lease("double") as version:
        wait_until(lambda: version.queue.queued_rows == 15)
        stream.cancel()
        more.set()
        in_flight = ("layerserve_calls_in_flight", {"method": "PredictStream"})
        wait_until(lambda: app.metrics.registry.get_sample_value(*in_flight) == 0)
        model.gate.set()
        wait_until(lambda: version.queue.queued_rows == 0)
    assert model.batches == [3]


def test_no_more_requests_are_read_than_may_be_under_way(serve, monkeypatch, wait_until):
    monkeypatch.setattr(prediction_stream, "MAX_OPEN", 4)
    app, model, stub = serve()
    model.gate.clear()
    stream = stub.PredictStream((message(X[:1], str(i)) for i in range(20)), timeout=60)
    with app.repository.leases.lease("double") as version:
        wait_until(lambda: model.begun and version.queue.queued_rows == 4 - model.begun[0])
    model.gate.set()
    assert len(outcomes(stream)) == 20


def test_a_server_that_stops_waits_for_no_open_stream(serve, connect):
    app, _, stub = serve()
    more = threading.Event()

    def one():
        yield message(X, "a")
        more.wait(60)

    predicting = stub.PredictStream(one(), timeout=60)
    watching = connect(app).unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=60)
    assert next(predicting).response.id == "a"
    next(watching)
    began = time.monotonic()
    app.stop(grace=60)
    assert time.monotonic() - began < 30
    more.set()
    for stream in (predicting, watching):
        with pytest.raises(grpc.RpcError) as raised:
            list(stream)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
