"""Steps in worker processes: the main process has the sequences."""

from __future__ import annotations

from collections.abc import Callable

from layerserve_server.services.prediction.predict_protocol import PredictionRequest
from layerserve_server.transport.call import Call


class ForwardedSteps:
    """Has the main process answer steps (see `StepTaker`). It asks for rights."""

    def __init__(self, forward: Callable[[Call], None]) -> None:
        self._forward = forward

    def take(self, call: Call, request: PredictionRequest, *, here: bool) -> None:
        """See `StepTaker`."""
        self._forward(call)
