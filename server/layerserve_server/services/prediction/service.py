"""Handlers of layerserve.v1.PredictionService."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from layerserve_server.services.prediction.layerserve_v1 import LayerserveV1
from layerserve_server.services.prediction.prediction_stream import PredictionStream
from layerserve_server.services.prediction.predictor import Predictor
from layerserve_server.transport.call import Routes, Stream

SERVICE = "/layerserve.v1.PredictionService/"


class PredictionService:
    """Handlers of the prediction service."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._protocol = LayerserveV1()

    def routes(self) -> Routes:
        """Returns the handlers."""
        return Routes(
            unary={SERVICE + "Predict": self._predictor.handler(self._protocol)},
            prompt={SERVICE + "Predict"},
            both_streams={SERVICE + "PredictStream": self.predict_stream},
        )

    def predict_stream(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Handles PredictStream: yields replies to many requests as they finish."""
        return PredictionStream(stream, self._protocol, self._predictor).messages()
