"""Messages of TensorFlow Serving: beside TensorFlow's own definitions, and described by reflection."""

from __future__ import annotations

from unittest.mock import MagicMock

from defined_elsewhere import assert_both_work
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from layerserve_server.extensions.tensorflow_serving.extension import TENSORFLOW_SERVING

OURS = """
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow_serving import prediction_service_pb2
request = prediction_service_pb2.PredictRequest(model_spec={"name": "m"}, inputs={"x": {"float_val": [1]}})
assert prediction_service_pb2.PredictRequest.FromString(request.SerializeToString()) == request
"""


def test_another_package_may_define_the_same_names_before_or_after():
    tensor = ("tensorflow/tensor.proto", "tensorflow", "TensorProto")
    assert_both_work([tensor, ("tensorflow_serving/apis/model.proto", "tensorflow.serving", "ModelSpec")], OURS)


def test_reflection_describes_the_services(serve_echo):
    _, _, _, channel = serve_echo()
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol="tensorflow.serving.PredictionService")
    (response,) = stub.ServerReflectionInfo(iter([request]), timeout=30)
    files = response.file_descriptor_response.file_descriptor_proto
    packages = {descriptor_pb2.FileDescriptorProto.FromString(file).package for file in files}
    assert packages == {"tensorflow.serving", "tensorflow", "google.protobuf"}


def test_every_process_of_a_server_answers_predict():
    (service,) = TENSORFLOW_SERVING.serving(MagicMock()).services
    assert service.routes().unary.keys() == {"/tensorflow.serving.PredictionService/Predict"}
