"""PredictStream through a real port: many requests on one stream, answered as they finish."""

from __future__ import annotations

import gc
import threading
import time
import weakref

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


def leave(app, stub, model):
    """A caller that goes away while its requests are computed."""
    model.gate.clear()
    begun = len(model.begun)
    more = threading.Event()

    def requests():
        for i in range(3):
            yield message(X, str(i))
        more.wait(30)

    stream = stub.PredictStream(requests(), timeout=60)
    while len(model.begun) == begun:
        time.sleep(0.002)
    stream.cancel()
    more.set()
    model.gate.set()


def say_nothing(app, stub, model):
    """A caller that has an answer, and then says nothing until its stream is ended."""
    over = threading.Event()

    def requests():
        yield message(X, "first")
        over.wait(30)

    with pytest.raises(grpc.RpcError) as caught:
        list(stub.PredictStream(requests(), timeout=60))
    over.set()
    assert caught.value.code() is grpc.StatusCode.ABORTED


def send_nonsense(app, stub, model):
    """A caller whose second message is none."""
    messages = iter([message(X, "first").SerializeToString(), b"\xff\xff"])
    with grpc.insecure_channel(f"127.0.0.1:{app.grpc_port}") as channel:
        stream = channel.stream_stream("/layerserve.v1.PredictionService/PredictStream")(messages, timeout=60)
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def end_well(app, stub, model):
    assert len(outcomes(stub.PredictStream(iter([message(X, "a"), message(X[:, :1], "b")]), timeout=60))) == 2


@pytest.mark.parametrize("call", [end_well, leave, say_nothing, send_nonsense])
def test_a_stream_that_has_ended_is_free_without_the_garbage_collector(serve, monkeypatch, wait_until, call):
    """Its answers may be large, and the collector comes late."""
    kept = []
    begin = prediction_stream.StreamedCall.__init__

    def begin_noted(self, its, stream, size):
        begin(self, its, stream, size)
        kept.extend(map(weakref.ref, (self, its, stream)))

    monkeypatch.setattr(prediction_stream.StreamedCall, "__init__", begin_noted)
    app, model, stub = serve(stream_idle_seconds=0.3)
    outcomes(stub.PredictStream(iter([message(X, "warm")]), timeout=60))
    kept.clear()
    gc.collect()
    gc.disable()
    try:
        call(app, stub, model)
        assert kept
        wait_until(lambda: not [one for one in (found() for found in kept) if one is not None])
    finally:
        gc.enable()


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


def test_higher_priority_goes_first_and_patience_ends(serve, wait_until):
    app, model, stub = serve(max_batch_rows=3)
    model.gate.clear()
    first = stub.Predict.future(message(X, "first").request, timeout=60)
    wait_until(lambda: model.begun)
    order = []
    with app.repository.leases.lease("double") as version:

        def ask(id, rows, **fields):
            future = stub.Predict.future(message(X, id, **fields).request, timeout=60)
            future.add_done_callback(lambda _: order.append(id))
            wait_until(lambda: version.queue.queued_rows == rows)
            return future

        usual = ask("usual", 3)
        low = ask("low", 6, priority=-1)
        high = ask("high", 9, priority=1)
        hasty = ask("hasty", 12, max_queue_ms=1)
    threading.Event().wait(0.01)
    model.gate.set()
    for future in (first, usual, low, high):
        np.testing.assert_array_equal(tensors.decode(future.result().outputs[0]), X * 2)
    assert hasty.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "queued longer" in hasty.details()
    wait_until(lambda: len(order) == 4)
    assert [id for id in order if id != "hasty"] == ["high", "usual", "low"]
