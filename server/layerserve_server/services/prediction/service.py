"""Handlers of layerserve.v1.PredictionService."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from layerserve_server.services.prediction.own_contract import OwnContract
from layerserve_server.services.prediction.prediction_stream import PredictionStream
from layerserve_server.services.prediction.predictor import Predictor
from layerserve_server.transport.call import Routes, Stream

SERVICE = "/layerserve.v1.PredictionService/"


class PredictionService:
    """Handlers of the prediction service."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._contract = OwnContract()

    def routes(self) -> Routes:
        """Returns the handlers."""
        return Routes(
            unary={SERVICE + "Predict": self._predictor.handler(self._contract)},
            prompt={SERVICE + "Predict"},
            both_streams={SERVICE + "PredictStream": self.predict_stream},
        )

    def predict_stream(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Handles PredictStream: yields replies to many requests as they finish."""
        return PredictionStream(stream, self._contract, self._predictor).messages()
