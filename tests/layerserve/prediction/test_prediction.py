"""The flow of a prediction, carried out by hand: no server, no connection."""

from __future__ import annotations

import numpy as np
import pytest
from layerserve import InvalidArgument, InvalidTensor, ModelNotReady
from layerserve.calls.flow import Call
from layerserve.calls.methods import METHODS
from layerserve.prediction import prediction
from layerserve.v1 import graph_pb2, models_pb2, prediction_pb2, tensor_pb2
from layerserve.values.tensors import dtype_enum, encode


def describe(version=1, dtype="float32", name="x", state=models_pb2.VERSION_STATE_READY, reason=""):
    loaded = state == models_pb2.VERSION_STATE_READY
    spec = tensor_pb2.TensorSpec(name=name, dtype=dtype_enum(dtype), shape=[-1])
    return models_pb2.GetModelResponse(
        version=models_pb2.ModelVersion(
            name="m", version=version, state=state, reason=reason, inputs=[spec] if loaded else []
        )
    )


def answer(version=1):
    return prediction_pb2.PredictResponse(
        model=tensor_pb2.ModelSpec(name="m", version=version), outputs=[encode(np.array([1.0], np.float32), "y")]
    )


def converse(flow, *script):
    """Carry a flow out: each item of the script is (the method expected, the reply or the error to give)."""
    requests = []
    step = next(flow)
    for method, reply in script:
        assert isinstance(step, Call)
        assert step.method is method
        requests.append(step.request)
        try:
            step = flow.throw(reply) if isinstance(reply, Exception) else flow.send(reply)
        except StopIteration as stop:
            return stop.value, requests
    raise AssertionError(f"the flow goes on with {step}")


def predict(signatures, inputs=(1.0,), outputs=None, version=None, label=None):
    return prediction.predict(signatures, "m", list(inputs), outputs, version, label)


def test_a_model_is_described_once():
    signatures = prediction.Signatures()
    converse(predict(signatures), (METHODS["GetModel"], describe()), (METHODS["Predict"], answer()))
    result, _ = converse(predict(signatures), (METHODS["Predict"], answer()))
    assert (result.model, result.version, list(result)) == ("m", 1, ["y"])


def test_another_version_that_answers_makes_the_description_stale():
    signatures = prediction.Signatures()
    converse(predict(signatures), (METHODS["GetModel"], describe(1)), (METHODS["Predict"], answer(2)))
    converse(predict(signatures), (METHODS["GetModel"], describe(2)), (METHODS["Predict"], answer(2)))


def test_an_error_from_a_stale_description_is_tried_again_with_a_fresh_one():
    signatures = prediction.Signatures()
    converse(predict(signatures), (METHODS["GetModel"], describe(1, "float32")), (METHODS["Predict"], answer(1)))
    result, requests = converse(
        predict(signatures, [7]),
        (METHODS["Predict"], InvalidTensor("got float32, expected int32")),
        (METHODS["GetModel"], describe(2, "int32")),
        (METHODS["Predict"], answer(2)),
    )
    assert result.version == 2
    assert requests[-1].inputs[0].dtype == dtype_enum("int32")


def test_an_error_that_is_the_callers_own_is_raised():
    signatures = prediction.Signatures()
    converse(predict(signatures), (METHODS["GetModel"], describe()), (METHODS["Predict"], answer()))
    with pytest.raises(InvalidArgument, match="rows"):
        converse(predict(signatures), (METHODS["Predict"], InvalidArgument("rows")), (METHODS["GetModel"], describe()))


def test_a_version_that_rests_on_disk_tells_its_inputs_through_its_graph():
    graph = graph_pb2.GetNodeShapesResponse(
        model=tensor_pb2.ModelSpec(name="m", version=1),
        inputs=[tensor_pb2.TensorSpec(name="x", dtype=dtype_enum("int64"), shape=[-1])],
    )
    resting = describe(state=models_pb2.VERSION_STATE_AVAILABLE)
    _, requests = converse(
        predict(prediction.Signatures(), [3]),
        (METHODS["GetModel"], resting),
        (METHODS["GetNodeShapes"], graph),
        (METHODS["GetModel"], resting),
        (METHODS["Predict"], answer()),
    )
    assert requests[-1].inputs[0].name == "x"
    assert requests[-1].inputs[0].dtype == dtype_enum("int64")


def test_a_version_that_failed_to_load_raises_its_reason():
    failed = describe(state=models_pb2.VERSION_STATE_FAILED, reason="file is truncated")
    with pytest.raises(ModelNotReady, match="model 'm' version 1 failed to load: file is truncated"):
        converse(predict(prediction.Signatures()), (METHODS["GetModel"], failed))


def test_versions_and_labels_are_described_apart():
    signatures = prediction.Signatures()
    converse(predict(signatures), (METHODS["GetModel"], describe()), (METHODS["Predict"], answer()))
    _, requests = converse(
        predict(signatures, version=1), (METHODS["GetModel"], describe()), (METHODS["Predict"], answer())
    )
    assert requests[-1].model.version == 1
    _, requests = converse(
        predict(signatures, label="stable"), (METHODS["GetModel"], describe()), (METHODS["Predict"], answer())
    )
    assert requests[-1].model.label == "stable"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"outputs": []}, "outputs: got an empty list"),
        ({"outputs": ["a", "a"]}, "expected each name once"),
        ({"version": 1, "label": "stable"}, "expected one of the two"),
    ],
)
def test_arguments_that_can_mean_nothing_are_refused_before_any_call(arguments, text):
    with pytest.raises(InvalidArgument, match=text):
        next(predict(prediction.Signatures(), **arguments))


def test_a_request_beyond_the_limit_of_protobuf_is_refused(monkeypatch):
    monkeypatch.setattr(prediction, "MAX_MESSAGE_BYTES", 1000)
    flow = predict(prediction.Signatures(), [0.0] * 1000)
    with pytest.raises(InvalidArgument, match=r"got 40\d\d bytes, expected at most 1000; pass a batch_size"):
        converse(flow, (METHODS["GetModel"], describe()), (METHODS["Predict"], answer()))


def test_a_prediction_is_a_mapping_with_its_origin():
    result = prediction.Prediction("m", 3, {"a": np.zeros((2, 1)), "b": np.ones(2)})
    assert list(result) == ["a", "b"]
    assert len(result) == 2
    assert repr(result) == "Prediction('m' version 3: a: float64[2, 1], b: float64[2])"
    assert prediction.as_asked(result, None) == {"a": result["a"], "b": result["b"]}
