"""Predictions over one stream: sends requests as they are produced, and puts replies into their order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from layerserve.calls.flow import Close, Flow, Stream, open_stream, receive
from layerserve.calls.methods import rpc
from layerserve.errors import DataLoss, from_message
from layerserve.models.info import model_spec
from layerserve.models.signatures import Signature, Signatures, fetch_signature
from layerserve.prediction.prediction import Prediction, call_metadata, output_names, read_prediction
from layerserve.v1.prediction_pb2 import PredictRequest, PredictStreamRequest, PredictStreamResponse
from layerserve.values.inputs import encode_inputs


class PredictionFeed:
    """Flows for predictions for each of `inputs`, in their order."""

    def __init__(
        self,
        signatures: Signatures,
        model: str,
        inputs: Iterable[Any],
        outputs: str | Sequence[str] | None,
        version: int | None,
        label: str | None,
        key: str | None = None,
    ) -> None:
        self._signatures = signatures
        self._spec = model_spec(model, version, label)
        self._inputs = inputs
        self._outputs = output_names(outputs)
        self._metadata = call_metadata(model, key)
        self._stream: Stream[PredictStreamResponse] | None = None
        self._received: dict[int, PredictStreamResponse] = {}
        self._next = 0
        self._failure: Exception | None = None

    def next(self) -> Flow[Prediction | None]:
        """Flow of the next prediction; None at the end. Raises the error of its input, or of the stream."""
        if self._stream is None:
            known = self._signatures.get(self._spec)
            signature = known or (yield from fetch_signature(self._signatures, self._spec))
            self._stream = yield from open_stream(
                rpc(PredictStreamRequest, PredictStreamResponse), self._requests(signature), self._metadata
            )
        while self._next not in self._received:
            reply = yield from receive(self._stream)
            if reply is None:
                # An error raised by the inputs ended the stream of requests; gRPC would only log it.
                if self._failure is not None:
                    raise self._failure
                return None
            answered = reply.response.id if reply.WhichOneof("outcome") == "response" else reply.error.id
            if not (answered.isascii() and answered.isdecimal() and len(answered) < 20):
                raise DataLoss(f"the server's reply: got id {answered!r}, expected the number of a request")
            self._received[int(answered)] = reply
        reply = self._received.pop(self._next)
        self._next += 1
        if reply.WhichOneof("outcome") == "error":
            raise from_message(reply.error)
        self._signatures.answered(self._spec, reply.response.model.version)
        return read_prediction(reply.response)

    def close(self) -> Flow[None]:
        """Flow that closes the stream and drops open requests."""
        if self._stream is not None:
            yield Close(self._stream)

    def _requests(self, signature: Signature) -> Iterator[PredictStreamRequest]:
        try:
            for number, values in enumerate(self._inputs):
                request = PredictRequest(
                    model=self._spec,
                    inputs=encode_inputs(values, signature.inputs),
                    outputs=self._outputs,
                    id=str(number),
                )
                yield PredictStreamRequest(request=request)
        except Exception as error:
            self._failure = error
