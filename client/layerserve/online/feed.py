"""Feed of a session of online training: sends requests, reads their replies, and attaches again if it is cut off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layerserve.calls.flow import Close, Flow, Pause, Stream, open_stream, receive
from layerserve.calls.methods import rpc
from layerserve.calls.outbox import Outbox
from layerserve.errors import (
    Cancelled,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    LayerserveError,
    Unavailable,
    from_message,
)
from layerserve.models.info import model_spec
from layerserve.models.signatures import Signatures, fetch_signature
from layerserve.online.options import ONLINE
from layerserve.training.data import TrainingArray, training_arrays
from layerserve.training.events import Logs, read_logs
from layerserve.training.feed import RECONNECT_DELAYS
from layerserve.training.options.option import check_names, fill
from layerserve.v1 import online_pb2 as pb
from layerserve.v1.tensor_pb2 import Tensor
from layerserve.v1.training_pb2 import DATA_ROLE_SAMPLE_WEIGHT, DATA_ROLE_X, DATA_ROLE_Y
from layerserve.values.inputs import encode_inputs
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import Array, decode, encode

#: Code of the error of a session that got no request for too long.
_IDLE = "idle"


class OnlineFeed:
    """A session as seen by its client. The attributes are as the last reply said.

    Each request is sent again until it has a reply. The server doesn't apply a step twice, so what was cut off in
    between is done once.
    """

    def __init__(
        self,
        signatures: Signatures,
        model: str,
        session: str | None,
        version: int | None,
        label: str | None,
        options: Mapping[str, object],
        reconnect_delays: Sequence[float] = RECONNECT_DELAYS,
    ) -> None:
        """`session` is the id of a session to go on with; otherwise a new one is opened."""
        self._signatures = signatures
        self.run_id = session or ""
        self.model = model
        self.base_version: int | None = None
        #: Number of steps that were applied.
        self.step = 0
        #: The version that was published last, and its number of steps.
        self.version: int | None = None
        self.published_step = 0
        #: The error of the last version that couldn't be published by the session itself; None if there is none.
        self.publish_error: LayerserveError | None = None
        self.ended = False
        self._spec = pb.OnlineSpec(model=model_spec(model, version, label))
        check_names("session", ONLINE, options)
        if session is None:
            fill(self._spec, ONLINE, options)
        elif options or version is not None or label is not None:
            raise TypeError("session() got options, a version or a label for a session that exists")
        self._inputs: Sequence[TensorSpec] = ()
        self._outputs: Sequence[TensorSpec] = ()
        self._reconnect_delays = reconnect_delays
        self._outbox: Outbox[pb.TrainOnlineRequest] = Outbox()
        self._stream: Stream[pb.TrainOnlineResponse] | None = None
        self._id = 0
        self._acknowledged = 0

    def start(self) -> Flow[None]:
        """Flow that opens the session or attaches to it."""
        signature = yield from fetch_signature(self._signatures, self._spec.model)
        self._inputs, self._outputs = signature.inputs, signature.outputs
        # A session that isn't opened yet isn't opened twice.
        delays = self._reconnect_delays if self.run_id else ()
        yield from self._attached(delays)

    def train(self, x: Any, y: Any, sample_weight: Any, learning_rate: float | None) -> Flow[Logs]:
        """Flow of one step: its logs."""
        arrays = self._arrays(x, y, sample_weight)
        # Before the step gets its number: after a timeout it isn't known which step was the last.
        yield from self._attached(self._reconnect_delays)
        step = pb.OnlineStep(
            number=self.step + 1,
            x=_tensors(arrays, DATA_ROLE_X),
            y=_tensors(arrays, DATA_ROLE_Y),
            sample_weight=_tensors(arrays, DATA_ROLE_SAMPLE_WEIGHT),
        )
        if learning_rate is not None:
            step.learning_rate = learning_rate
        reply = yield from self._ask(pb.TrainOnlineRequest(step=step))
        self.step = max(self.step, reply.stepped.number)
        self._acknowledged = self.step
        return read_logs(reply.stepped.logs)

    def test(self, x: Any, y: Any, sample_weight: Any) -> Flow[Logs]:
        """Flow of losses and metrics of a batch."""
        arrays = self._arrays(x, y, sample_weight)
        test = pb.OnlineTest(
            x=_tensors(arrays, DATA_ROLE_X),
            y=_tensors(arrays, DATA_ROLE_Y),
            sample_weight=_tensors(arrays, DATA_ROLE_SAMPLE_WEIGHT),
        )
        reply = yield from self._ask(pb.TrainOnlineRequest(test=test))
        return read_logs(reply.tested.logs)

    def predict(self, x: Any) -> Flow[Array | dict[str, Array]]:
        """Flow of the outputs for a batch: an array for a model with one output, else a dict."""
        request = pb.TrainOnlineRequest(predict=pb.OnlinePredict(x=encode_inputs(x, self._inputs)))
        reply = yield from self._ask(request)
        arrays = {tensor.name: decode(tensor, copy=True) for tensor in reply.predicted.outputs}
        return next(iter(arrays.values())) if len(arrays) == 1 else arrays

    def save(self) -> Flow[int]:
        """Flow that writes a checkpoint; the number of steps that it has."""
        reply = yield from self._ask(pb.TrainOnlineRequest(save=pb.OnlineSave()))
        return int(reply.saved.step)

    def publish(self) -> Flow[int | None]:
        """Flow that publishes the model; the version, None if no step was applied."""
        reply = yield from self._ask(pb.TrainOnlineRequest(publish=pb.OnlinePublish()))
        self._note(reply)
        return int(reply.published.version.version) if reply.published.HasField("version") else None

    def finish(self) -> Flow[int | None]:
        """Flow that ends the session; the version that was published last."""
        if not self.ended:
            yield from self._ask(pb.TrainOnlineRequest(end=pb.OnlineEnd()))
            yield from self.detach()
        return self.version

    def detach(self) -> Flow[None]:
        """Flow that closes the stream; the session stays."""
        self._outbox.close()
        stream, self._stream = self._stream, None
        if stream is not None:
            yield Close(stream)

    def _arrays(self, x: Any, y: Any, sample_weight: Any) -> list[TrainingArray]:
        """Returns the arrays of a batch. Raises InvalidArgument as `training_arrays` does, and for a ServerFile."""
        arrays = training_arrays(x, y, sample_weight, None, self._inputs, self._outputs)
        for array in arrays:
            if array.filed:
                raise InvalidArgument(f"{array.text}: got a ServerFile, expected the array of a batch")
        return arrays

    def _ask(self, request: pb.TrainOnlineRequest) -> Flow[pb.TrainOnlineResponse]:
        """Flow of the reply to a request. Raises its error, or what keeps it from being carried out."""
        self._id += 1
        request.id = self._id
        failure: LayerserveError | None = None
        for delay in (0.0, *self._reconnect_delays):
            if delay:
                yield Pause(delay)
            try:
                yield from self._attached(())
                if self.ended:
                    break
                self._outbox.put(request)
                reply = yield from self._reply()
            except LayerserveError as error:
                yield from self._lost(error)
                failure = error
                continue
            if reply.WhichOneof("part") == "error":
                raise from_message(reply.error)
            return reply
        if not self.ended and failure is not None:
            raise failure
        if request.WhichOneof("part") != "end":
            raise FailedPrecondition(f"session {self.run_id!r} has ended")
        return pb.TrainOnlineResponse()

    def _reply(self) -> Flow[pb.TrainOnlineResponse]:
        """Flow of the reply to the last request."""
        while True:
            reply = yield from self._receive()
            self._note(reply)
            if reply.id == self._id:
                return reply

    def _attached(self, delays: Sequence[float]) -> Flow[None]:
        """Flow that opens a stream if there is none. Tries again after each of the delays."""
        for delay in (*delays, None):
            if self._stream is not None or self.ended:
                return
            try:
                yield from self._attach()
            except LayerserveError as error:
                yield from self._lost(error)
                if delay is None:
                    raise
                yield Pause(delay)

    def _attach(self) -> Flow[None]:
        self._outbox = Outbox()
        first = pb.TrainOnlineRequest(spec=self._spec)
        if self.run_id:
            first = pb.TrainOnlineRequest(resume=pb.OnlineResume(run_id=self.run_id))
        self._outbox.put(first)
        self._stream = yield from open_stream(rpc(pb.TrainOnlineRequest, pb.TrainOnlineResponse), self._outbox)
        while True:
            reply = yield from self._receive()
            self._note(reply)
            if reply.WhichOneof("part") in ("ready", "ended"):
                break
        if self.step < self._acknowledged:
            raise DataLoss(
                f"session {self.run_id!r}: {self._acknowledged} steps were applied, but the server has only {self.step}"
            )

    def _receive(self) -> Flow[pb.TrainOnlineResponse]:
        assert self._stream is not None
        reply: pb.TrainOnlineResponse | None = yield from receive(self._stream)
        if reply is None:
            raise Unavailable("the server closed the stream of the session")
        return reply

    def _lost(self, error: LayerserveError) -> Flow[None]:
        """Flow that closes a stream after an error. Raises the error if attaching again is of no use."""
        yield from self.detach()
        # A session that got no request for too long is resumed. A stopping server may cancel its streams.
        if not (isinstance(error, (Unavailable, Cancelled)) or error.code == _IDLE):
            raise error

    def _note(self, reply: pb.TrainOnlineResponse) -> None:
        part = reply.WhichOneof("part")
        if part == "accepted":
            self.run_id = reply.accepted.run_id
            self.model, self.base_version = reply.accepted.base.name, reply.accepted.base.version
        elif part == "ready":
            self.step = reply.ready.step
            if reply.ready.HasField("published"):
                self.version, self.published_step = reply.ready.published.version, reply.ready.published_step
        elif part == "published" and reply.published.HasField("version"):
            self.version, self.published_step = reply.published.version.version, reply.published.step
            self.publish_error = None
        elif part == "ended":
            self.ended, self.step = True, max(self.step, reply.ended.step)
            if reply.ended.HasField("published"):
                self.version = reply.ended.published.version
        elif part == "error" and not reply.id:
            self.publish_error = from_message(reply.error)


def _tensors(arrays: Sequence[TrainingArray], role: int) -> list[Tensor]:
    return [encode(array.slice(0, array.count), array.name, array.dtype) for array in arrays if array.role == role]
