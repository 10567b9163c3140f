"""Messages of TensorFlow Serving: beside TensorFlow's own definitions, and described by reflection."""

from __future__ import annotations

from unittest.mock import MagicMock

from defined_elsewhere import assert_both_work
from layerserve_server.extensions.tensorflow_serving.extension import TENSORFLOW_SERVING
from layerserve_server.protocols.pool import POOL

OURS = """
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow_serving import prediction_service_pb2
request = prediction_service_pb2.PredictRequest(model_spec={"name": "m"}, inputs={"x": {"float_val": [1]}})
assert prediction_service_pb2.PredictRequest.FromString(request.SerializeToString()) == request
"""


def test_another_package_may_define_the_same_names_before_or_after():
    tensor = ("tensorflow/tensor.proto", "tensorflow", "TensorProto")
    assert_both_work([tensor, ("tensorflow_serving/apis/model.proto", "tensorflow.serving", "ModelSpec")], OURS)


def test_the_services_are_described_with_all_that_they_need():
    """As reflection finds them."""
    service = POOL.FindServiceByName("tensorflow.serving.PredictionService")
    waiting, packages = [service.file], set()
    while waiting:
        file = waiting.pop()
        packages.add(file.package)
        waiting += file.dependencies
    assert packages == {"tensorflow.serving", "tensorflow", "google.protobuf"}


def test_every_process_of_a_server_answers_predict():
    (service,) = TENSORFLOW_SERVING.serving(MagicMock()).services
    assert service.routes().unary.keys() == {"/tensorflow.serving.PredictionService/Predict"}
