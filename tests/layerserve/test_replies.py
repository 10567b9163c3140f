"""What a server says that this client doesn't know, or a fake one refuses: each is told, none is taken for another."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from filled_messages import check_names, check_reader
from layerserve import Client, DataLoss, InvalidTensor, MissingInput, TensorSpec, TrainingCancelled, UnknownInput
from layerserve.calls.flow import Stream
from layerserve.models import node_shapes
from layerserve.models import statistics as model_statistics
from layerserve.models.info import read_model_info
from layerserve.models.signatures import Signatures
from layerserve.prediction.feed import PredictionFeed
from layerserve.testing import FakeServer
from layerserve.testing.fake_model import FakeModel
from layerserve.training.events import read_event
from layerserve.training.run_info import read_run_info
from layerserve.training.series import run_series
from layerserve.v1 import (
    graph_pb2,
    models_pb2,
    prediction_pb2,
    tensor_pb2,
    training_pb2,
)
from layerserve.values import tensors
from layerserve.values.tensor_spec import read_tensor_spec


def of_event(kind):
    """What reads the part of an event, and the class of that part."""
    part = type(getattr(training_pb2.TrainEvent(), kind))
    return lambda message: read_event(training_pb2.TrainEvent(**{kind: message})), part


READERS = [(read_model_info, models_pb2.ModelVersion), (read_run_info, training_pb2.Run)]
#: Those whose results have values that are the same for any message, or that no empty message gives.
OTHERS = [
    (read_tensor_spec, tensor_pb2.TensorSpec),
    (model_statistics._read, models_pb2.ModelStatistics),
    (node_shapes._read_layer, graph_pb2.LayerNodes),
    *(of_event(field.name) for field in training_pb2.TrainEvent.DESCRIPTOR.oneofs_by_name["kind"].fields),
]


@pytest.mark.parametrize(("read", "message"), READERS)
def test_no_field_of_a_reply_is_left_out(read, message):
    check_reader(read, message)


@pytest.mark.parametrize(("read", "message"), OTHERS)
def test_a_field_of_a_reply_has_the_value_of_its_name(read, message):
    check_names(read, message)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (read_model_info, models_pb2.ModelVersion(ready_time={"nanos": -1})),
        (read_run_info, training_pb2.Run(created_time={"seconds": 2**60})),
    ],
)
def test_a_malformed_reply_is_lost_data(read, message):
    with pytest.raises(DataLoss, match="the server's reply: "):
        read(message)


def test_a_reply_about_something_else_is_lost_data():
    other = training_pb2.GetRunSeriesResponse(series=[{"run_id": "b"}])
    answered = prediction_pb2.PredictStreamResponse(response={"id": "b"})
    feed = PredictionFeed(Signatures(), "m", [], None, None, None)
    feed._stream = Stream(None)
    for flow, reply in ((run_series(["a"], [], 10, "epoch"), other), (feed.next(), answered)):
        next(flow)
        with pytest.raises(DataLoss, match=r"the server's reply: got .*'b', expected"):
            flow.send(reply)


def test_a_number_of_a_request_has_at_most_19_digits():
    feed = PredictionFeed(Signatures(), "m", [], None, None, None)
    feed._stream = Stream(None)
    flow = feed.next()
    next(flow)
    flow.send(prediction_pb2.PredictStreamResponse(response={"id": "9" * 19}))
    with pytest.raises(DataLoss, match=r"got id '9{20}', expected the number of a request"):
        flow.send(prediction_pb2.PredictStreamResponse(response={"id": "9" * 20}))


@pytest.mark.parametrize("number", [0, 99])
def test_states_of_a_later_server_are_unknown(number):
    assert read_model_info(models_pb2.ModelVersion(state=number)).state == "unknown"
    info = read_run_info(training_pb2.Run(state=number, kind=number))
    assert (info.state, info.kind) == ("unknown", "unknown")


def test_states_of_this_server_are_known():
    ready = models_pb2.ModelVersion(state=models_pb2.VERSION_STATE_READY)
    assert read_model_info(ready).state == "ready"
    run = training_pb2.Run(state=training_pb2.RUN_STATE_RUNNING, kind=training_pb2.RUN_KIND_EVALUATION)
    assert (read_run_info(run).state, read_run_info(run).kind) == ("running", "evaluation")


def test_an_element_type_that_is_none_is_told_with_those_that_are():
    with pytest.raises(InvalidTensor, match=r"'x'.*got dtype 'float7', expected one of .*float32"):
        tensors.dtype_enum("float7", "x")


def test_an_evaluation_that_is_cancelled_gives_no_numbers(server):
    server.hold_training()
    raised = []

    def evaluate():
        with Client(server.address, timeout=20) as other:
            try:
                other.evaluate("double", np.zeros((4, 3), "float32"), np.zeros((4, 3), "float32"))
            except TrainingCancelled as error:
                raised.append(error)

    thread = threading.Thread(target=evaluate)
    thread.start()
    with Client(server.address, timeout=20) as client:
        while not (runs := client.runs()) or runs[0].state != "running":
            pass
        client.run(runs[0].id).cancel()
        server.release_training()
        thread.join(20)
        assert [error.run_id for error in raised] == [runs[0].id]


def test_a_fake_model_refuses_what_a_server_would():
    inputs = [TensorSpec(name, (None, 2), "float32") for name in ("a", "b")]
    model = FakeModel("m", lambda arrays: {"y": arrays["a"] + arrays["b"]}, inputs, [], 1)
    one = np.ones((1, 2), "float32")

    def request(*names):
        return prediction_pb2.PredictRequest(inputs=[tensors.encode(one, name) for name in names])

    (output,) = model.predict(prediction_pb2.PredictRequest(inputs=request("", "b").inputs, outputs=["y"])).outputs
    np.testing.assert_array_equal(tensors.decode(output), [[2, 2]])
    with pytest.raises(UnknownInput, match="model 'm': unknown input 'c'; it has a, b"):
        model.predict(request("a", "c"))
    with pytest.raises(MissingInput, match="model 'm': missing input 'b'"):
        model.predict(request("a"))


def test_a_fake_server_tells_layers_of_models_that_say_none():
    with FakeServer() as server:
        server.add_model("m", lambda arrays: {}, [TensorSpec("x", (None, 2), "int32")], [])
        with Client(server.address, timeout=20) as client:
            (layer,) = client.node_shapes("m").values()
    assert (layer.name, layer.class_name, layer.parameter_count, len(layer.nodes)) == ("x", "InputLayer", 0, 1)
    (tensor,) = layer.nodes[0].outputs
    assert (tensor.layer, tensor.shape, tensor.dtype) == ("x", (None, 2), "int32")
