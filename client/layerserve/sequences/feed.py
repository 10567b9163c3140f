"""The stream of a sequence: sends one step after the other, and reads the reply to each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layerserve.calls.flow import Close, Flow, Stream, open_stream, receive
from layerserve.calls.methods import rpc
from layerserve.calls.outbox import Outbox
from layerserve.errors import InvalidArgument, LayerserveError, SequenceLost, Unavailable, from_message
from layerserve.models.info import model_spec
from layerserve.models.signatures import Signatures, fetch_signature
from layerserve.prediction.prediction import Prediction, call_metadata, output_names, read_prediction
from layerserve.v1 import prediction_pb2 as pb
from layerserve.values.inputs import encode_inputs


class SequenceFeed:
    """Flows for the steps of a sequence."""

    def __init__(
        self, signatures: Signatures, model: str, version: int | None, label: str | None, key: str | None
    ) -> None:
        self._signatures = signatures
        self._spec = model_spec(model, version, label)
        self._metadata = call_metadata(model, key)
        self._outbox: Outbox[pb.PredictStreamRequest] = Outbox()
        self._stream: Stream[pb.PredictStreamResponse] | None = None
        self._number = 0
        self._closed = False
        #: Number of steps since the start.
        self.steps = 0
        #: The version that computes them; None before the first.
        self.version: int | None = None
        #: Why there can't be further steps.
        self._lost: str = ""

    def predict(self, inputs: Any, outputs: str | Sequence[str] | None) -> Flow[Prediction]:
        """Flow of the next step. One that is refused changes nothing; one without a reply loses the sequence."""
        if self._closed:
            raise InvalidArgument("the sequence was ended; begin another one")
        if self._lost:
            raise SequenceLost(f"the sequence is lost: {self._lost}; begin another one")
        names = output_names(outputs)
        signature = self._signatures.get(self._spec) or (yield from fetch_signature(self._signatures, self._spec))
        self._number += 1
        request = pb.PredictRequest(
            model=self._spec,
            inputs=encode_inputs(inputs, signature.inputs),
            outputs=names,
            id=str(self._number),
            sequence=pb.Sequence(start=not self.steps),
        )
        if self._stream is None:
            method = rpc(pb.PredictStreamRequest, pb.PredictStreamResponse)
            self._stream = yield from open_stream(method, self._outbox, self._metadata)
        # Until there is a reply: a caller that stops waiting doesn't know whether the step was computed.
        self._lost = "a step got no reply"
        self._outbox.put(pb.PredictStreamRequest(request=request))
        try:
            reply = yield from receive(self._stream)
            if reply is None:
                raise Unavailable("the server closed the stream of the sequence")
        except LayerserveError as error:
            self._lost = f"its stream has ended: {error}"
            raise
        self._lost = ""
        if reply.WhichOneof("outcome") == "error":
            refused = from_message(reply.error)
            if isinstance(refused, (SequenceLost, Unavailable)) and self.steps:
                self._lost = str(refused)
            raise refused
        self.steps += 1
        self.version = reply.response.model.version
        return read_prediction(reply.response)

    def close(self) -> Flow[None]:
        """Flow that ends the sequence."""
        self._closed = True
        self._outbox.close()
        stream, self._stream = self._stream, None
        if stream is not None:
            yield Close(stream)
