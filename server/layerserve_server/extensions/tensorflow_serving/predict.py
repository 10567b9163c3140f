"""The handler of Predict, which every process has."""

from __future__ import annotations

from layerserve_server.extensions.tensorflow_serving.contract import TensorFlowPredict
from layerserve_server.services.prediction.predictor import Predictor
from layerserve_server.transport.call import Routes

SERVICE = "/tensorflow.serving.PredictionService/"


class PredictService:
    """The handler of the method that runs models."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def routes(self) -> Routes:
        """Returns the handler."""
        return Routes(
            unary={SERVICE + "Predict": self._predictor.handler(TensorFlowPredict())}, prompt={SERVICE + "Predict"}
        )
