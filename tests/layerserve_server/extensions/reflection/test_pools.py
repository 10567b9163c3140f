"""What reflection finds: in the private pool of other protocols, and in the default one."""

import pytest
from grpc_health.v1 import health_pb2  # noqa: F401 (in the default pool)
from layerserve.v1 import prediction_pb2  # noqa: F401 (in the default pool)
from layerserve_server.extensions.reflection.service import Pools
from layerserve_server.protocols.inference import inference_pb2  # noqa: F401 (in the private pool)


@pytest.mark.parametrize(
    ("symbol", "file"),
    [
        ("layerserve.v1.PredictionService", "layerserve/v1/prediction.proto"),
        ("layerserve.v1.PredictionService.Predict", "layerserve/v1/prediction.proto"),
        ("layerserve.v1.PredictRequest", "layerserve/v1/prediction.proto"),
        ("inference.GRPCInferenceService", "inference/inference.proto"),
        ("inference.GRPCInferenceService.ModelInfer", "inference/inference.proto"),
        ("inference.ModelInferRequest.InferInputTensor", "inference/inference.proto"),
    ],
)
def test_services_methods_and_messages_are_found(symbol, file):
    assert Pools().FindFileContainingSymbol(symbol).name == file


@pytest.mark.parametrize("symbol", ["", "no.such.Thing", "layerserve.v1.PredictionService.Predcit", "inference."])
def test_other_symbols_are_not(symbol):
    with pytest.raises(KeyError):
        Pools().FindFileContainingSymbol(symbol)
