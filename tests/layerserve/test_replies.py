"""What a server says that this client doesn't know, or a fake one refuses: each is told, none is taken for another."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from functools import partial

import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from layerserve import Client, DataLoss, InvalidTensor, MissingInput, TensorSpec, TrainingCancelled, UnknownInput
from layerserve.calls.flow import Stream
from layerserve.checkpoints import checkpoint as checkpoints
from layerserve.datasets.info import read_dataset
from layerserve.estimates import estimate as estimates
from layerserve.models import node_shapes
from layerserve.models import statistics as model_statistics
from layerserve.models.info import read_model_info, read_tensor_spec
from layerserve.prediction.feed import PredictionFeed
from layerserve.prediction.prediction import Signatures
from layerserve.sweeps.sweep import read_sweep
from layerserve.testing import FakeServer
from layerserve.testing.fake_model import FakeModel
from layerserve.training.events import read_event
from layerserve.training.run_info import read_run_info
from layerserve.training.series import run_series
from layerserve.v1 import (
    checkpoints_pb2,
    datasets_pb2,
    graph_pb2,
    models_pb2,
    prediction_pb2,
    sweeps_pb2,
    tensor_pb2,
    training_pb2,
)
from layerserve.values import tensors


def value_of(field, number):
    """A value of a field that isn't a message, other than its default."""
    if field.enum_type is not None:
        return field.enum_type.values[-1].number
    text = str(number).encode() if field.type == FieldDescriptor.TYPE_BYTES else str(number)
    return {FieldDescriptor.CPPTYPE_STRING: text, FieldDescriptor.CPPTYPE_BOOL: True}.get(field.cpp_type, number)


def filled(message, depth=4, numbers=None):
    """The message with a value in each field, of a oneof in its first. No two have the same number or text."""
    numbers = numbers or itertools.count(7)
    if isinstance(message, tensor_pb2.Tensor):
        message.CopyFrom(tensors.encode(np.ones((2, 3), np.float32), "x"))
        return message
    for field in message.DESCRIPTOR.fields:
        oneof, kind = field.containing_oneof, field.message_type
        if oneof is not None and oneof.fields[0] is not field:
            continue
        value = getattr(message, field.name)
        if kind is not None and kind.GetOptions().map_entry:
            value["a"] = value_of(kind.fields_by_name["value"], next(numbers))
        elif kind is None and field.is_repeated:
            value.append(value_of(field, next(numbers)))
        elif kind is None:
            setattr(message, field.name, value_of(field, next(numbers)))
        elif depth:
            filled(value.add() if field.is_repeated else value, depth - 1, numbers)
    return message


def check_names(found, message):
    """Asserts that what is read of a message has its values under the same names."""
    for name, field in message.DESCRIPTOR.fields_by_name.items():
        value, sent = getattr(found, name, None), getattr(message, name)
        if isinstance(value, tuple) and len(value) == 1:
            (value,), (sent,) = value, sent
        if dataclasses.is_dataclass(value):
            check_names(value, sent)
        elif hasattr(found, name) and isinstance(sent, str | bytes | int | float) and field.enum_type is None:
            assert (name, value) == (name, sent)


def of_event(kind):
    """What reads the part of an event, and the class of that part."""
    part = type(getattr(training_pb2.TrainEvent(), kind))
    return lambda message: read_event(training_pb2.TrainEvent(**{kind: message})), part


READERS = [
    (read_dataset, datasets_pb2.Dataset),
    (read_model_info, models_pb2.ModelVersion),
    (read_run_info, training_pb2.Run),
    (read_sweep, sweeps_pb2.Sweep),
    (estimates._read, training_pb2.EstimateRunResponse),
]
#: Those whose results have values that are the same for any message, or that no empty message gives.
OTHERS = [
    (read_tensor_spec, tensor_pb2.TensorSpec),
    (model_statistics._read, models_pb2.ModelStatistics),
    (node_shapes._read_layer, graph_pb2.LayerNodes),
    (partial(checkpoints._read, "a"), checkpoints_pb2.Checkpoint),
    *(of_event(field.name) for field in training_pb2.TrainEvent.DESCRIPTOR.oneofs_by_name["kind"].fields),
]


@pytest.mark.parametrize(("read", "message"), READERS + OTHERS)
def test_a_field_of_a_reply_has_the_value_of_its_name(read, message):
    whole = filled(message())
    check_names(read(whole), whole)


@pytest.mark.parametrize(("read", "message"), READERS)
def test_no_field_of_a_reply_is_left_out(read, message):
    empty, whole = read(message()), read(filled(message()))
    fields = [field.name for field in dataclasses.fields(whole)]
    assert [name for name in fields if getattr(empty, name) == getattr(whole, name)] == []
    unread = []
    for field in message.DESCRIPTOR.fields:
        less = filled(message())
        less.ClearField(field.name)
        if repr(read(less)) == repr(whole):
            unread.append(field.name)
    assert unread == []


@pytest.mark.parametrize(
    ("read", "message", "text"),
    [
        (read_model_info, models_pb2.ModelVersion(ready_time={"nanos": -1}), "the server's reply: "),
        (read_run_info, training_pb2.Run(created_time={"seconds": 2**60}), "the server's reply: "),
        (read_dataset, datasets_pb2.Dataset(used_time={"seconds": -(2**60)}), "the server's reply: "),
        (read_sweep, sweeps_pb2.Sweep(trials=[{"settings": [{"name": "a", "value": "{"}]}]), "trial 0 is malformed"),
        (read_sweep, sweeps_pb2.Sweep(trials=[{"epochs": [1], "history": [1, 2]}]), "trial 0 is malformed"),
    ],
)
def test_a_malformed_reply_is_lost_data(read, message, text):
    with pytest.raises(DataLoss, match=text):
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
