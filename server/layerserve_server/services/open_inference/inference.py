"""Handlers of ModelInfer and ModelStreamInfer, which every process answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from layerserve_server.services.open_inference.infer_protocol import InferProtocol
from layerserve_server.services.prediction.prediction_stream import PredictionStream
from layerserve_server.services.prediction.predictor import Predictor
from layerserve_server.transport.call import Routes, Stream

SERVICE = "/inference.GRPCInferenceService/"
#: Metadata of a stream whose first error shall end it with a status, as Triton has it.
STATUS_OF_ERRORS = ("triton_grpc_error", "true")


class InferService:
    """Handlers of the methods that run models."""

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._protocol = InferProtocol()

    def routes(self) -> Routes:
        """Returns the handlers."""
        return Routes(
            unary={SERVICE + "ModelInfer": self._predictor.handler(self._protocol)},
            prompt={SERVICE + "ModelInfer"},
            both_streams={SERVICE + "ModelStreamInfer": self.model_stream_infer},
        )

    def model_stream_infer(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Handles ModelStreamInfer: yields replies in the order of the requests."""
        strict = STATUS_OF_ERRORS in stream.metadata
        return PredictionStream(stream, self._protocol, self._predictor, errors_end=strict).messages()
