"""The Open Inference Protocol through a real port, as Triton's clients use it."""

from __future__ import annotations

import threading

import grpc
import numpy as np
import pytest
from inference_stub import Stub, X, infer, output
from layerserve.values import tensors
from layerserve_server.protocols.inference import inference_pb2 as pb

#: Outputs with their numbers of classes.
TOP = [("y", 1), ("hidden", 5)]


def test_requests_of_one_form_are_answered_each_with_its_rows(serve_infer):
    app, call = serve_infer()
    with app.repository.leases.lease("double") as version:
        version.queue._thread_seconds = [0.0] * len(version.queue._thread_seconds)
    for number in range(4):
        reply = call("ModelInfer", infer(X + number, id=f"id{number}"))
        np.testing.assert_array_equal(output(reply), 2 * (X + number))
        assert (reply.model_name, reply.model_version, reply.id) == ("double", "1", f"id{number}")
        assert [(tensor.name, tensor.datatype) for tensor in reply.outputs] == [("y", "FP32")]
    named = pb.ModelInferRequest.InferRequestedOutputTensor
    reply = call("ModelInfer", infer(outputs=[named(name="hidden"), named(name="y")]))
    np.testing.assert_array_equal(output(reply), 2 * X + 100)
    np.testing.assert_array_equal(output(reply, 1), 2 * X)


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (infer(name="doubl"), grpc.StatusCode.NOT_FOUND, "did you mean 'double'?"),
        (infer(model_version="7"), grpc.StatusCode.NOT_FOUND, "it has 1"),
        (infer(model_version="stabel"), grpc.StatusCode.NOT_FOUND, "label 'stabel'"),
        (infer(X[:, :1]), grpc.StatusCode.INVALID_ARGUMENT, "input 'x'"),
        (infer(outputs=[{"name": "z"}]), grpc.StatusCode.INVALID_ARGUMENT, "unknown tensor 'z'"),
        (infer(outputs=[{"name": "y"}, {"name": "y"}]), grpc.StatusCode.INVALID_ARGUMENT, "given 2 times"),
    ],
    ids=lambda value: "" if not isinstance(value, str) else value,
)
def test_what_is_wrong_gets_a_status_with_a_reason(serve_infer, request_, code, text):
    _, call = serve_infer()
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", request_)
    assert caught.value.code() is code
    assert text in caught.value.details()


@pytest.mark.parametrize("fast", [False, True])
def test_classes_have_their_labels(put, start, connect, tmp_path, fast):
    """In both ways to answer: by the queue, and as calls with one template."""
    put("double")
    folder = tmp_path / "models" / "double"
    (folder / "layerserve.toml").write_text('class_labels = { y = "animals_labels.txt", hidden = "things-labels.txt" }')
    (folder / "animals_labels.txt").write_text("cat\nCanis lupus: dog\n")
    (folder / "things-labels.txt").write_text("\nhouse")
    app = start()
    call = Stub(connect(app))
    wanted = [{"name": name, "parameters": {"classification": {"int64_param": count}}} for name, count in TOP]
    for _ in range(2):
        if fast:
            with app.repository.leases.lease("double") as version:
                version.queue._thread_seconds = [0.0] * len(version.queue._thread_seconds)
        reply = call("ModelInfer", infer(np.array([[1, 4], [3, 2]], np.float32), outputs=wanted))
        assert [(one.datatype, list(one.shape)) for one in reply.outputs] == [("BYTES", [2, 1]), ("BYTES", [2, 2])]
        contents = zip(reply.raw_output_contents, (1, 2), strict=True)
        y, hidden = (tensors.decode_data(raw, "string", (2, count), "y") for raw, count in contents)
        assert y.tolist() == [[b"8.000000:1:Canis lupus: dog"], [b"6.000000:0:cat"]]
        assert hidden.tolist() == [[b"108.000000:1:house", b"102.000000:0"], [b"106.000000:0", b"104.000000:1:house"]]


def test_a_stream_answers_in_the_order_of_its_requests(serve_infer):
    """Also what fails, and what is refused before requests that arrived earlier are computed."""
    app, call = serve_infer()
    with app.repository.leases.lease("double") as version:
        gate = version.model.gate
    gate.clear()
    sent = threading.Event()

    def requests():
        for number in range(60):
            yield infer(X + number, id=str(number), name="double" if number % 7 else "nope")
        sent.set()

    replies = call.stream(requests())
    assert sent.wait(30)
    gate.set()
    for number, reply in enumerate(replies):
        assert reply.infer_response.id == str(number)
        if number % 7:
            np.testing.assert_array_equal(output(reply.infer_response), 2 * (X + number))
            assert reply.error_message == ""
            assert reply.infer_response.parameters["triton_final_response"].bool_param
        else:
            assert "unknown model" in reply.error_message
    assert number == 59
    assert app._inference.metrics.registry.get_sample_value("layerserve_buffered_bytes") == 0


def test_an_error_ends_a_stream_whose_caller_asks_for_that(serve_infer):
    _, call = serve_infer()
    metadata = (("triton_grpc_error", "true"),)
    replies = call.stream(iter([infer(id="1"), infer(name="nope"), infer(id="3")]), metadata=metadata)
    with pytest.raises(grpc.RpcError) as caught:
        list(replies)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "unknown model" in caught.value.details()


def test_the_memory_of_a_stream_that_is_cancelled_comes_back(serve_infer, wait_until):
    app, call = serve_infer()
    with app.repository.leases.lease("double") as version:
        gate = version.model.gate
    gate.clear()
    # The first waits for the model; refusals of all others wait for it.
    replies = call.stream(iter([infer(), *(infer(name="nope") for _ in range(40))]))
    threading.Timer(0.3, replies.cancel).start()
    with pytest.raises(grpc.RpcError):
        list(replies)
    gate.set()
    memory = app._transport.memory
    wait_until(lambda: memory.used == 0)


def test_models_and_the_server_are_described(serve_infer, put):
    app, call = serve_infer()
    assert call("ServerLive", pb.ServerLiveRequest()).live
    assert call("ServerReady", pb.ServerReadyRequest()).ready
    app.drain()
    assert not call("ServerReady", pb.ServerReadyRequest()).ready
    ready = [
        call("ModelReady", pb.ModelReadyRequest(name=name, version=version)).ready
        for name, version in [("double", ""), ("double", "1"), ("double", "2"), ("nope", "")]
    ]
    assert ready == [True, True, False, False]
    assert "classification" in call("ServerMetadata", pb.ServerMetadataRequest()).extensions
    metadata = call("ModelMetadata", pb.ModelMetadataRequest(name="double"))
    tensor = pb.ModelMetadataResponse.TensorMetadata
    assert metadata == pb.ModelMetadataResponse(
        name="double",
        versions=["1"],
        platform="layerserve",
        inputs=[tensor(name="x", datatype="FP32", shape=[-1, 2])],
        outputs=[tensor(name="y", datatype="FP32", shape=[-1, 2])],
    )
