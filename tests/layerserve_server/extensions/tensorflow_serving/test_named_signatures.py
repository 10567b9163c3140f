"""Signatures that a model's settings name, for clients of a SavedModel that had its own."""

import grpc
import layergraph
import numpy as np
import pytest
from layergraph import layers
from layerserve_server.errors import VersionFailedError
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow_serving.prediction_service_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    PredictRequest,
    PredictResponse,
    SignatureDefMap,
)
from layerserve_server.extensions.tensorflow_serving.tensors import TensorFlowTensor, encode

SERVICE = "/tensorflow.serving.PredictionService/"
ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)
SETTINGS = """
[signatures.serving_default]
inputs = { images = "x" }
outputs = { scores = "y" }

[signatures.embed]
outputs = { embedding = "hidden" }
"""


def made():
    x, other = layergraph.Input((2,), name="x"), layergraph.Input((2,), name="other")
    hidden = layers.Rescaling(2, name="hidden")(x)
    return layergraph.Model([x, other], {"y": layers.Add()([hidden, other]), "z": layers.Subtract()([hidden, other])})


@pytest.fixture
def served(start, put, connect, tmp_path):
    """A server of a model with settings, and a channel to it."""

    def serve(settings):
        put("double")
        (tmp_path / "models" / "double" / "layerserve.toml").write_text(settings)
        app = start(tuning_seconds=0, load=lambda path: made())
        return app, connect(app)

    return serve


def predict(channel, inputs, outputs=(), key=""):
    request = PredictRequest(output_filter=outputs)
    request.model_spec.name, request.model_spec.signature_name = "double", key
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(encode(array))
    reply = PredictResponse.FromString(
        channel.unary_unary(SERVICE + "Predict")(request.SerializeToString(), timeout=30)
    )
    return {name: TensorFlowTensor(name, tensor).array() for name, tensor in reply.outputs.items()}


def test_requests_use_the_names_of_the_settings(served):
    _, channel = served(SETTINGS)
    both = {"images": ROWS, "other": ROWS + 1}
    for _ in range(3):
        arrays = predict(channel, both)
        assert list(arrays) == ["scores"]
        np.testing.assert_array_equal(arrays["scores"], 3 * ROWS + 1)
    np.testing.assert_array_equal(predict(channel, {"x": ROWS, "other": ROWS}, ["y"])["y"], 3 * ROWS)
    np.testing.assert_array_equal(predict(channel, both, ["z"])["z"], ROWS - 1)
    arrays = predict(channel, {"x": ROWS}, key="embed")
    assert list(arrays) == ["embedding"]
    np.testing.assert_array_equal(arrays["embedding"], 2 * ROWS)
    # The other key is that of the export still.
    assert set(predict(channel, {"x": ROWS, "other": ROWS}, key="serve")) == {"y", "z"}
    for inputs, key, expected in (
        ({"other": ROWS}, "", "Inputs expected to be in the set {images,other}"),
        ({"images": ROWS}, "embed", "Inputs expected to be in the set {other,x}"),
        ({}, "nothing", "Expected one of {embed,serve,serving_default}"),
    ):
        with pytest.raises(grpc.RpcError) as refusal:
            predict(channel, inputs, key=key)
        assert expected in refusal.value.details()


def test_metadata_have_them(served):
    _, channel = served(SETTINGS)
    request = GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "double"
    reply = channel.unary_unary(SERVICE + "GetModelMetadata")(request.SerializeToString(), timeout=30)
    found = SignatureDefMap()
    GetModelMetadataResponse.FromString(reply).metadata["signature_def"].Unpack(found)
    names = {key: (set(one.inputs), set(one.outputs)) for key, one in found.signature_def.items()}
    assert names == {
        "serving_default": ({"images", "other"}, {"scores"}),
        "embed": ({"x", "other"}, {"embedding"}),
        "serve": ({"x", "other"}, {"y", "z"}),
    }
    assert [dim.size for dim in found.signature_def["embed"].outputs["embedding"].tensor_shape.dim] == [-1, 2]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ('[signatures.a]\ninputs = { images = "X" }', "signatures.a.inputs.images: unknown input 'X'"),
        ('[signatures.a]\noutputs = { scores = "none" }', "signatures.a.outputs.scores: unknown"),
        ('[signatures.a]\ninputs = { a = "x", b = "x" }', "signatures.a.inputs: an input has two names"),
        ('[signatures.a]\noutputs = { a = "y", b = "y" }', "signatures.a.outputs: an output has two names"),
        ("[signatures.a]\noutput = {}", "unknown setting 'signatures.a.output'; did you mean 'outputs'?"),
        ("[signatures.a]\ninputs = { a = 1 }", "signatures.a.inputs.a: got 1, expected a valid string"),
        ("signatures = 3", "signatures: got 3, expected a valid dictionary"),
    ],
)
def test_settings_that_the_model_doesnt_fit_are_the_reason_that_it_isnt_served(served, settings, text):
    app, _ = served(settings)
    with pytest.raises(VersionFailedError) as failure:
        app.repository.leases.lease("double")
    assert text in str(failure.value)
