"""What answers the requests that an extension has the means for: steps of sequences, or tensors in shared memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from layerserve_server.services.prediction.predict_protocol import PredictionRequest
from layerserve_server.transport.call import Call

#: Has the main process answer a call by the method's message, whose reply is made of the method's reply.
Forward: TypeAlias = Callable[[Call, bytes, Callable[[bytes], bytes]], None]


class RequestTaker(Protocol):
    """Answers requests in place of `Predictor`."""

    def take(self, call: Call, request: PredictionRequest, *, here: bool) -> None:
        """Answers a call whose caller wasn't asked for rights yet; never blocks. Raises an error if it is invalid.

        With `here`, a quick model runs in this thread, after all calls of the event batch were queued.
        """


class ForwardedRequests:
    """Has the main process answer requests, which has what they need. It asks for rights."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    def take(self, call: Call, request: PredictionRequest, *, here: bool) -> None:
        """See `RequestTaker`."""
        self._forward(call, *request.requested.protocol.method_call(call.request))
