"""Prepared calls against a real server on a real port; messages written by hand are protobuf's own."""

from __future__ import annotations

import numpy as np
import pytest
from layerserve import (
    ClientClosed,
    DeadlineExceeded,
    InvalidArgument,
    InvalidTensor,
    ModelNotFound,
    ModelNotReady,
    UnknownOutput,
)
from layerserve.prediction import prepared
from layerserve.prediction.prepared import RequestForm
from layerserve.v1.prediction_pb2 import PredictRequest
from layerserve.v1.tensor_pb2 import ModelSpec
from layerserve.values.inputs import encode_inputs
from layerserve.values.tensor_spec import TensorSpec


def test_a_prepared_call_answers_as_predict_does(client):
    double = client.prepare("double")
    for rows in ([[1, 2, 3]], np.ones((4, 3)), np.zeros((0, 3), np.float32), [np.ones((2, 3))]):
        np.testing.assert_array_equal(double(rows), client.predict("double", rows))


def test_outputs_are_chosen_once(client):
    inputs = {"left": [[1, 2]], "right": [[10, 20]]}
    assert list(client.prepare("two", ["ids", "sum"])(inputs)) == ["ids", "sum"]
    assert client.prepare("two", "hidden")(inputs).tolist() == [[1.0, 2.0]]


def test_results_are_read_only_and_inputs_are_left_alone(client):
    rows = np.ones((1, 3), np.float32)
    result = client.prepare("double", version=1)(rows)
    with pytest.raises(ValueError, match="read-only"):
        result[0, 0] = 9
    assert rows.tolist() == [[1, 1, 1]]


def test_errors_are_those_of_predict(client):
    with pytest.raises(ModelNotFound):
        client.prepare("dooble")
    with pytest.raises(ModelNotReady):
        client.prepare("broken")
    with pytest.raises(InvalidArgument):
        client.prepare("double", [])
    with pytest.raises(UnknownOutput):
        client.prepare("double", "z")([[1, 2, 3]])
    with pytest.raises(InvalidTensor):
        client.prepare("double")([["text", "is", "none"]])
    with pytest.raises(DeadlineExceeded):
        client.prepare("double")([[1, 2, 3]], timeout=1e-6)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("float32", [[1.5, 2]]),
        ("float32", np.arange(6.0).reshape(2, 3).T),
        ("bfloat16", [[1.5, 2]]),
        ("int64", [[1, 2], [3, 4]]),
        ("bool", [[True, False]]),
        ("string", [["a", "bc"]]),
        ("float16", np.ones((300, 200))),
        ("uint8", np.zeros((0, 2), np.uint8)),
        ("float32", 3.0),
    ],
)
def test_a_request_is_the_one_that_protobuf_writes(dtype, values):
    specs = [TensorSpec("x", (None, None), dtype)]
    head = PredictRequest(model=ModelSpec(name="m", version=3), outputs=["y"])
    whole = PredictRequest(model=head.model, outputs=head.outputs, inputs=encode_inputs({"x": values}, specs))
    assert PredictRequest.FromString(RequestForm("m", head.SerializeToString(), specs).fill({"x": values})) == whole


def test_a_prepared_call_of_a_closed_client_says_so(client, server):
    double = client.prepare("double")
    client.close()
    with pytest.raises(ClientClosed, match=f"client of {server.address} is closed"):
        double([[1, 2, 3]])


def test_a_prepared_call_is_only_so_long(client, monkeypatch):
    double = client.prepare("double")
    length = len(double._form.fill([[1, 2, 3]]))
    monkeypatch.setattr(prepared, "MAX_MESSAGE_BYTES", length)
    assert double([[1, 2, 3]]).tolist() == [[2, 4, 6]]
    monkeypatch.setattr(prepared, "MAX_MESSAGE_BYTES", length - 1)
    with pytest.raises(InvalidArgument, match=f"request: got {length} bytes, expected at most {length - 1}"):
        double([[1, 2, 3]])


def test_a_model_that_tells_no_inputs_can_not_be_prepared_for(client, server):
    server.add_model("dumb", lambda arrays: {}, [], [])
    with pytest.raises(ModelNotReady, match="model 'dumb' isn't loaded, so its inputs are unknown"):
        client.prepare("dumb")
