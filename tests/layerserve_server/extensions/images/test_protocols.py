"""Images by each protocol, on both transports: their answers, their errors, and how the input is described."""

from __future__ import annotations

import base64
import json

import grpc
import numpy as np
import pytest
from http_calls import Http
from image_files import doubled, encoded
from layerserve import Client, InvalidTensor
from layerserve_server.extensions.installed import OWN
from layerserve_server.protocols.inference import inference_pb2 as pb

IMAGES = [encoded(form=form, seed=seed) for seed, form in enumerate(("PNG", "JPEG", "WEBP", "GIF", "BMP"))]
DAMAGED = IMAGES[1][:200]
EXPECTED = doubled(IMAGES)


def with_length(image: bytes) -> bytes:
    return len(image).to_bytes(4, "little") + image


#: Each extension can be deleted without the others.
with_tensorflow_serving = pytest.mark.skipif("tensorflow_serving" not in OWN, reason="TensorFlow Serving was deleted")


def text(image: bytes) -> str:
    return base64.b64encode(image).decode()


def elements_of(reply: pb.ModelInferResponse) -> np.ndarray:
    return np.frombuffer(reply.raw_output_contents[0], np.float32).reshape(EXPECTED.shape)


@pytest.fixture(params=["grpcio", "native"])
def app(request, put_images, start):
    put_images()
    return start(transport=request.param, http_port=0)


@pytest.fixture
def http(app):
    connection = Http(app.http_port)
    yield connection
    connection.close()


@pytest.fixture
def client(app):
    with Client(f"127.0.0.1:{app.grpc_port}", timeout=60) as client:
        yield client


def test_the_client_sends_bytes_files_images_of_pillow_and_arrays(client, tmp_path):
    (tmp_path / "a.png").write_bytes(IMAGES[0])
    assert client.predict("double", IMAGES).tolist() == EXPECTED.tolist()
    assert client.predict("double", tmp_path / "a.png").tolist() == EXPECTED[:1].tolist()
    prepared = client.prepare("double")
    assert prepared([IMAGES[0], str(tmp_path / "a.png")]).tolist() == EXPECTED[[0, 0]].tolist()
    assert client.predict("double", EXPECTED).tolist() == (2 * EXPECTED).tolist()
    assert prepared(EXPECTED).tolist() == (2 * EXPECTED).tolist()
    answers = list(client.predict_many("double", [[one] for one in IMAGES]))
    assert np.concatenate(answers).tolist() == EXPECTED.tolist()
    assert (client.model("double").inputs[0].encoding, client.node_shapes("double").inputs[0].encoding) == (
        "image",
    ) * 2


def test_a_damaged_image_fails_its_request_and_is_named(client):
    with pytest.raises(InvalidTensor, match=r"input 'x', row 2: got a damaged image .*, expected a whole one"):
        client.predict("double", [IMAGES[0], DAMAGED, IMAGES[1]])
    answers = client.predict_many("double", [[IMAGES[0]], [b"no image"]])
    assert next(answers).tolist() == EXPECTED[:1].tolist()
    with pytest.raises(InvalidTensor, match=r"row 1: got 8 bytes that begin with b'no image'"):
        next(answers)


def test_the_open_inference_protocol_has_them_as_bytes(app, connect, http):
    infer = connect(app).unary_unary(
        "/inference.GRPCInferenceService/ModelInfer", None, pb.ModelInferResponse.FromString
    )
    raw = pb.ModelInferRequest(model_name="double", raw_input_contents=[b"".join(map(with_length, IMAGES))])
    raw.inputs.add(name="x", datatype="BYTES", shape=[5, 1])
    typed = pb.ModelInferRequest(model_name="double")
    typed.inputs.add(name="x", datatype="BYTES", shape=[5]).contents.bytes_contents.extend(IMAGES)
    for message in (raw, typed):
        assert elements_of(infer(message.SerializeToString(), timeout=60)).tolist() == EXPECTED.tolist()
    body = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [5], "data": [text(one) for one in IMAGES]}]}
    reply = http("POST", "/v2/models/double/infer", body)
    assert reply.json["outputs"][0]["data"] == EXPECTED.ravel().tolist()
    size = {"binary_data_size": len(with_length(IMAGES[0]))}
    head = json.dumps({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "parameters": size}]}).encode()
    sent = head + with_length(IMAGES[0])
    reply = http("POST", "/v2/models/double/infer", sent, inference_header_content_length=str(len(head)))
    assert reply.json["outputs"][0]["data"] == EXPECTED[0].ravel().tolist()
    # Nothing but an image.
    reply = http("POST", "/v2/models/double/infer", IMAGES[1], inference_header_content_length="0")
    assert reply.body.endswith(EXPECTED[1].tobytes())
    refused = http("POST", "/v2/models/double/infer", DAMAGED, inference_header_content_length="0")
    assert (refused.status, "row 1: got a damaged image" in refused.json["error"]) == (400, True)


@with_tensorflow_serving
def test_tensorflow_serving_has_them_as_strings(app, connect, http):
    from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow.tensor_pb2 import DataType, TensorProto
    from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow_serving.prediction_service_pb2 import (
        PredictRequest,
        PredictResponse,
    )
    from layerserve_server.extensions.tensorflow_serving.tensors import TensorFlowTensor

    predict = connect(app).unary_unary(
        "/tensorflow.serving.PredictionService/Predict", None, PredictResponse.FromString
    )
    message = PredictRequest()
    message.model_spec.name = "double"
    message.inputs["x"].CopyFrom(TensorProto(dtype=DataType.DT_STRING, string_val=IMAGES))
    message.inputs["x"].tensor_shape.dim.add(size=len(IMAGES))
    reply = predict(message.SerializeToString(), timeout=60)
    assert TensorFlowTensor("", reply.outputs["output_0"]).array().tolist() == EXPECTED.tolist()
    path, b64 = "/v1/models/double:predict", [{"b64": text(one)} for one in IMAGES]
    for instances in (b64, [{"x": one} for one in b64]):
        assert http("POST", path, {"instances": instances}).json["predictions"] == EXPECTED.tolist()
    assert http("POST", path, {"inputs": {"x": b64}}).json["outputs"] == EXPECTED.tolist()
    assert http("POST", path, {"instances": EXPECTED.tolist()}).json["predictions"] == (2 * EXPECTED).tolist()
    # Read by another process.
    large = encoded((300, 300), "BMP")
    assert http("POST", path, {"instances": [{"b64": text(large)}]}).json["predictions"] == doubled([large]).tolist()
    refused = http("POST", path, {"instances": [{"b64": text(DAMAGED)}]})
    assert (refused.status, "input 'x', row 1: got a damaged image" in refused.json["error"]) == (400, True)
    signatures = http("GET", "/v1/models/double/metadata").json["metadata"]["signature_def"]["signature_def"]
    assert signatures["serving_default"]["inputs"]["x"]["dtype"] == "DT_STRING"


def test_the_input_is_described_as_bytes(http):
    assert http("GET", "/v2/models/double").json["inputs"] == [{"name": "x", "datatype": "BYTES", "shape": [-1]}]
    schemas = http("GET", "/openapi.json").json["components"]["schemas"]
    for rows in schemas["double.InferRequest"]["properties"]["inputs"]["anyOf"]:
        datatypes = [form["properties"]["datatype"]["const"] for form in rows["prefixItems"][0]["anyOf"]]
        assert datatypes == ["FP32", "BYTES"]


@pytest.mark.parametrize("shape", [(), (1, 2)])
def test_there_is_one_image_for_each_row(app, connect, shape):
    infer = connect(app).unary_unary("/inference.GRPCInferenceService/ModelInfer", None, None)
    message = pb.ModelInferRequest(model_name="double")
    count = int(np.prod(shape))
    message.inputs.add(name="x", datatype="BYTES", shape=shape).contents.bytes_contents.extend(IMAGES[:count])
    with pytest.raises(grpc.RpcError, match="expected one image for each row") as caught:
        infer(message.SerializeToString(), timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
