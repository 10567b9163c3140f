"""GetModelMetadata, and what the methods for tf.Example messages answer."""

import grpc
import layergraph
import pytest
from layergraph import layers
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow.tensor_pb2 import DataType
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow_serving.prediction_service_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    SignatureDefMap,
)

SERVICE = "/tensorflow.serving.PredictionService/"


@pytest.fixture
def stub(start, put, connect):
    def serve(method="GetModelMetadata", load=None):
        put("double")
        app = start(tuning_seconds=0, **({} if load is None else {"load": load}))
        call = connect(app).unary_unary(SERVICE + method, None, GetModelMetadataResponse.FromString)
        return lambda message: call(message.SerializeToString(), timeout=30)

    return serve


def request(*fields, **spec):
    message = GetModelMetadataRequest(metadata_field=fields)
    for key, value in spec.items():
        setattr(message.model_spec, key, value)
    return message


def shape(info):
    return [dim.size for dim in info.tensor_shape.dim]


def test_signatures_have_all_inputs_and_outputs(stub):
    x, ids = layergraph.Input((None, 2), name="x"), layergraph.Input((), dtype="int32", name="ids")
    model = layergraph.Model([x, ids], {"y": layers.Dense(3)(x), "same": layers.Identity()(ids)})
    reply = stub(load=lambda path: model)(request("signature_def", name="double"))
    assert (reply.model_spec.name, reply.model_spec.version.value) == ("double", 1)
    found = SignatureDefMap()
    assert reply.metadata["signature_def"].Unpack(found)
    assert reply.metadata["signature_def"].type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    assert set(found.signature_def) == {"serve", "serving_default"}
    for key, signature in found.signature_def.items():
        assert signature.method_name == "tensorflow/serving/predict"
        infos = {name: (info.name, info.dtype, shape(info)) for name, info in signature.inputs.items()}
        assert infos == {
            "x": (f"{key}_x:0", DataType.DT_FLOAT, [-1, -1, 2]),
            "ids": (f"{key}_ids:0", DataType.DT_INT32, [-1]),
        }
        assert {name: (info.dtype, shape(info)) for name, info in signature.outputs.items()} == {
            "y": (DataType.DT_FLOAT, [-1, -1, 3]),
            "same": (DataType.DT_INT32, [-1]),
        }


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        (request(name="double"), "INVALID_ARGUMENT", "must specify at least one metadata_field"),
        (request("lobby", name="double"), "INVALID_ARGUMENT", "Metadata field lobby is not supported, expected"),
        (request("signature_def"), "INVALID_ARGUMENT", "model_spec: got no name"),
        (request("signature_def", name="other"), "NOT_FOUND", "Servable not found for request: Latest(other)"),
    ],
)
def test_wrong_requests_are_refused(stub, message, code, text):
    with pytest.raises(grpc.RpcError) as refusal:
        stub()(message)
    assert refusal.value.code().name == code
    assert text in refusal.value.details()


@pytest.mark.parametrize("method", ["Classify", "Regress", "MultiInference"])
def test_methods_for_examples_name_the_method_to_call(stub, method):
    with pytest.raises(grpc.RpcError) as refusal:
        stub(method)(request())
    assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert refusal.value.details().startswith(
        f"{method}: models here have no signature for tf.Example messages; call Predict"
    )
