"""The stream of a session: requests are passed to the session's process, and its replies to the client, in order."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from layerserve.errors import InvalidTensor
from layerserve.v1 import online_pb2 as pb
from layerserve.v1.tensor_pb2 import Tensor
from layerserve.values import tensors

from layerserve_server.errors import (
    InvalidRequestError,
    InvalidTensorError,
    NotTrainableError,
    ServerError,
    TakenOverError,
    UnavailableError,
)
from layerserve_server.extensions.online.frames import Frame, FrameArray
from layerserve_server.extensions.online.kind import publications_of
from layerserve_server.extensions.online.session_client import SessionClient, SessionClosedError
from layerserve_server.jobs.failures import REFUSALS
from layerserve_server.services.messages import dtype_name, model_spec, parse
from layerserve_server.services.run_replies import log_values
from layerserve_server.training.checks.request_checks import MAX_ARRAYS, checked_batch
from layerserve_server.training.request import DataArray, Role
from layerserve_server.training.runs.run import Run
from layerserve_server.transport.call import Stream
from layerserve_server.transport.perimeter.message_size import is_long
from layerserve_server.transport.request_ids import sent_id
from layerserve_server.transport.status import failure

#: Maximum number of requests of a stream without a reply; further ones aren't received.
MAX_OPEN = 64


@dataclass(slots=True, eq=False)
class _Asked:
    """A request: its id, kind and time, and the reply of the process, or the error."""

    id: int
    kind: str
    at: float
    reply: Frame | None = None
    error: Exception | None = None
    #: Bytes of the reply that count towards the memory budget.
    size: int = 0


class OnlineStream:
    """A stream that is attached to a session. Used in the streams' event loop only."""

    def __init__(self, stream: Stream, run: Run, link: SessionClient) -> None:
        self._stream = stream
        self._run = run
        self._link = link
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        #: Requests that aren't answered yet, in order; and those that the process has yet to reply to.
        self._asked: deque[_Asked] = deque()
        self._at_process: deque[_Asked] = deque()
        #: Number of outcomes of publications that the client has been sent.
        self._seen = publications_of(run).count
        self._taken_over = False
        #: Whether the process has ended the session as it was asked to.
        self._ended = False
        #: Whether the process has ended, or was asked to; and the id of the request that did.
        self.lost = False
        self.ending = 0

    def take_over(self) -> None:
        """Ends this stream, since another one is attached to the session."""
        self._taken_over = True
        self._wake.set()

    async def messages(self, id: int) -> AsyncGenerator[pb.TrainOnlineResponse, None]:
        """Yields the messages for the client: `ready`, whose request had this id, then the replies.

        Ends with `lost` if the session's process has ended. Raises TakenOverError if another stream takes the session
        over, UnavailableError if the server is stopping, and as `Stream.requests` does.
        """
        yield pb.TrainOnlineResponse(id=id, ready=self._ready())
        reading = asyncio.ensure_future(self._read())
        receiving = asyncio.ensure_future(self._receive())
        for task in (reading, receiving):
            task.add_done_callback(lambda _: self._wake.set())
        self._stream.on_closed(self._wake.set)
        publications = publications_of(self._run)
        try:
            with publications.watchers.watched(lambda: self._stream.soon(self._wake.set)):
                while True:
                    self._wake.clear()
                    over = reading.done()
                    while (message := self._next()) is not None:
                        yield message
                    if self._taken_over:
                        raise TakenOverError(f"another stream has taken over session '{self._run.id}'")
                    if receiving.done():
                        if not receiving.cancelled():
                            receiving.result()
                        # A version that was asked for before the end may still be published.
                        if not (self._ended and self._awaits_version()):
                            self.lost = True
                            return
                    if over:
                        reading.result()
                        if not self._asked:
                            return
                    if not self._stream.open():
                        self._check_stopping()
                    await self._wake.wait()
        finally:
            reading.cancel()
            receiving.cancel()
            self._stream.memory.give(sum(one.size for one in self._asked))
            self._asked.clear()

    def _awaits_version(self) -> bool:
        return any(one.kind == "publish" and one.reply is not None for one in self._asked)

    def _check_stopping(self) -> None:
        if self._stream.listens():
            raise UnavailableError(f"the server is stopping; attach to session '{self._run.id}' again")

    def _ready(self) -> pb.OnlineReady:
        header = self._link.ready.header
        message = pb.OnlineReady(step=header["step"], published_step=header["published"])
        if header["version"]:
            message.published.CopyFrom(model_spec(self._run.request.model, header["version"]))
        return message

    # Requests.

    async def _read(self) -> None:
        async for data in self._stream.requests():
            while len(self._asked) >= MAX_OPEN:
                self._room.clear()
                await self._room.wait()
            # Counted until the process has it.
            self._stream.memory.take(len(data))
            try:
                await self._ask(data)
            finally:
                self._stream.memory.give(len(data))

    async def _ask(self, data: bytes) -> None:
        read = partial(parse, pb.TrainOnlineRequest, data)
        long = is_long(data, pb.TrainOnlineRequest.DESCRIPTOR)
        message = await self._stream.blocking(read) if long else read()
        kind = message.WhichOneof("part") or ""
        asked = _Asked(message.id, kind, time.monotonic())
        self._asked.append(asked)
        try:
            make = partial(self._frame, message, kind)
            frame = await self._stream.blocking(make) if long else make()
        except ServerError as error:
            asked.error = error
            self._wake.set()
            return
        self._at_process.append(asked)
        if kind == "end":
            self.ending = message.id
        # `_receive` ends, too, if the process has ended.
        with suppress(SessionClosedError):
            await self._link.send(frame)

    def _frame(self, message: pb.TrainOnlineRequest, kind: str) -> Frame:
        """Returns the frame of a request. Raises InvalidRequestError or a subclass if it doesn't fit the model."""
        if kind in ("save", "publish", "end"):
            return Frame({"kind": kind})
        if kind == "predict":
            return self._batch({"kind": kind}, {Role.X: message.predict.x}, predicts=True)
        if kind == "test":
            test = message.test
            given = {Role.X: test.x, Role.Y: test.y, Role.SAMPLE_WEIGHT: test.sample_weight}
            return self._batch({"kind": kind}, given)
        if kind != "step":
            raise InvalidRequestError("got a message without a request, expected one; a spec only comes first")
        step = message.step
        rate = step.learning_rate if step.HasField("learning_rate") else None
        if rate is not None and not 0 <= rate < float("inf"):
            raise InvalidRequestError(f"learning_rate: got {rate:g}, expected a number from 0")
        if step.number < 1:
            raise InvalidRequestError(f"number: got {step.number}, expected the number of the step, from 1")
        given = {Role.X: step.x, Role.Y: step.y, Role.SAMPLE_WEIGHT: step.sample_weight}
        return self._batch({"kind": kind, "number": step.number, "learning_rate": rate}, given)

    def _batch(
        self, header: dict[str, object], given: Mapping[Role, Sequence[Tensor]], *, predicts: bool = False
    ) -> Frame:
        """Returns the frame of a batch. Shapes, types and sizes are compared as numbers; no array is made of them."""
        found = [(role, tensor) for role, several in given.items() for tensor in several]
        if len(found) > MAX_ARRAYS:
            raise InvalidRequestError(f"batch: got {len(found)} arrays, expected at most {MAX_ARRAYS}")
        arrays = [
            DataArray(role, tensor.name, dtype_name(tensor.dtype, tensor.name), _shape(tensor))
            for role, tensor in found
        ]
        named = checked_batch(arrays, self._link.inputs, self._link.outputs, predicts=predicts)
        for array, (_, tensor) in zip(named, found, strict=True):
            _check_size(array, len(tensor.data))
        described = [
            FrameArray(array.role.value, array.name, array.dtype, array.shape, len(tensor.data))
            for array, (_, tensor) in zip(named, found, strict=True)
        ]
        return Frame(header, described, b"".join(tensor.data for _, tensor in found))

    # Replies.

    async def _receive(self) -> None:
        """Receives replies until the process ends, or has ended the session."""
        memory = self._stream.memory
        while True:
            size = 0

            def take(payload: int) -> None:
                nonlocal size
                memory.take(payload)
                size = payload

            try:
                reply = await self._link.receive(take)
            except BaseException as error:
                memory.give(size)
                if isinstance(error, SessionClosedError):
                    return
                raise
            asked = self._at_process.popleft()
            if asked.kind == "end":
                # It is answered when the run has ended, and requests after it aren't.
                self._ended = True
                return
            asked.reply, asked.size = reply, size
            if name := reply.header.get("error"):
                asked.error = REFUSALS.get(name, InvalidRequestError)(reply.header["text"])
            self._wake.set()

    def _next(self) -> pb.TrainOnlineResponse | None:
        """Returns the next message for the client; None if there is none yet."""
        asked = self._asked[0] if self._asked else None
        message: pb.TrainOnlineResponse | None = None
        if asked is not None and asked.error is None and asked.reply is not None:
            try:
                message = self._answer(asked, asked.reply)
            except ServerError as error:
                asked.error = error
        if asked is not None and asked.error is not None:
            message = pb.TrainOnlineResponse(id=asked.id, error=self._refusal(asked.error))
        if asked is None or message is None:
            return self._published()
        self._asked.popleft()
        self._room.set()
        self._stream.memory.give(asked.size)
        status = "OK" if asked.error is None else failure(asked.error, self._stream.method).code.name
        request = self._run.request
        self._stream.count(request.model, str(request.version), status, time.monotonic() - asked.at)
        return message

    def _answer(self, asked: _Asked, reply: Frame) -> pb.TrainOnlineResponse | None:
        """Returns the message for a reply; None if a version isn't published yet. Raises the error of publishing."""
        header, message = reply.header, pb.TrainOnlineResponse(id=asked.id)
        if asked.kind == "step":
            message.stepped.CopyFrom(pb.OnlineStepped(number=header["number"], logs=log_values(header["logs"])))
        elif asked.kind == "test":
            message.tested.CopyFrom(pb.OnlineTested(step=header["step"], logs=log_values(header["logs"])))
        elif asked.kind == "predict":
            message.predicted.CopyFrom(pb.OnlinePredicted(step=header["step"], outputs=_outputs(reply)))
        elif asked.kind == "save":
            message.saved.CopyFrom(pb.OnlineSaved(step=header["step"]))
        else:
            published = self._outcome(header["step"])
            if published is None:
                return None
            message.published.CopyFrom(published)
        return message

    def _outcome(self, step: int) -> pb.OnlinePublished | None:
        """Returns the version with `step` steps; None if it isn't published yet. Raises the error of publishing."""
        publications = publications_of(self._run)
        waits = publications.is_pending(step)
        for outcome in publications.outcomes(self._seen):
            if outcome.step < step:
                return None  # the client gets that one first
            self._seen += 1
            if outcome.error is not None:
                raise outcome.error
            return self._version(outcome.step, outcome.version)
        last = publications.last
        if step == 0 or (last is not None and last.step >= step):
            return self._version(step, last.version if last is not None else 0)
        if waits:
            return None
        raise NotTrainableError(f"the version after step {step} couldn't be published")

    def _published(self) -> pb.TrainOnlineResponse | None:
        """Returns the message about a version that no request has asked for; None if there is none."""
        wanted = [one.reply.header["step"] for one in self._asked if one.kind == "publish" and one.reply is not None]
        for outcome in publications_of(self._run).outcomes(self._seen):
            if outcome.step in wanted:
                return None
            self._seen += 1
            if outcome.error is not None:
                return pb.TrainOnlineResponse(error=self._refusal(outcome.error))
            return pb.TrainOnlineResponse(published=self._version(outcome.step, outcome.version))
        return None

    def _version(self, step: int, version: int) -> pb.OnlinePublished:
        message = pb.OnlinePublished(step=step)
        if version:
            message.version.CopyFrom(model_spec(self._run.request.model, version))
        return message

    def _refusal(self, error: Exception) -> pb.OnlineError:
        wire = failure(error, self._stream.method, sent_id(self._stream.metadata))
        pairs = {key: value for key, value in wire.metadata if isinstance(value, str)}
        return pb.OnlineError(code=wire.code.value[0], message=wire.text, metadata=pairs)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    # Before anything is done with it: a message may have millions of axes.
    if len(tensor.shape) > tensors.MAX_RANK:
        raise InvalidTensorError(
            f"'{tensor.name[:80]}': got {len(tensor.shape)} axes, expected at most {tensors.MAX_RANK}"
        )
    return tuple(tensor.shape)


def _check_size(array: DataArray, size: int) -> None:
    try:
        count = tensors.element_count(array.shape, array.dtype, array.name)
    except InvalidTensor as error:
        raise InvalidTensorError(f"{array.label()}: {error}") from error
    least = count * tensors.itemsize(array.dtype)
    if size < least if array.is_text else size != least:
        raise InvalidTensorError(
            f"{array.label()}: got {size} bytes of data, expected {'at least ' if array.is_text else ''}{least} for "
            f"shape {array.shape} of {array.dtype}"
        )


def _outputs(reply: Frame) -> Iterable[Tensor]:
    at = 0
    for one in reply.arrays:
        data = reply.payload[at : at + one.bytes]
        yield Tensor(name=one.name, dtype=tensors.dtype_enum(one.dtype, one.name), shape=one.shape, data=data)
        at += one.bytes
