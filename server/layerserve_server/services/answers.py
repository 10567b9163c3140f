"""The requests of one stream under way, and their answers as they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from typing import Any

from layerserve.v1 import prediction_pb2
from layerserve.wire import tag, varint

from layerserve_server.errors import CallCancelledError
from layerserve_server.services.messages import parse
from layerserve_server.transport.call import Stream
from layerserve_server.transport.status import failure

#: Requests of one stream that may wait for their answers; the caller's further ones stay on the wire.
MAX_UNDER_WAY = 256

RESPONSE_TAG = tag(prediction_pb2.PredictStreamResponse.RESPONSE_FIELD_NUMBER)


class Answers:
    """Iterates over the answers to the requests of a stream, encoded, until all have come or the caller has gone."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        #: What makes the next message; None is the end.
        self._ready: SimpleQueue[Callable[[], bytes] | None] = SimpleQueue()
        self._room = threading.Semaphore(MAX_UNDER_WAY)
        self._under_way: set[StreamedCall] = set()
        self._lock = threading.Lock()
        self._read_all = False
        self.closed = False
        stream.on_closed(self.close)

    def __iter__(self) -> Iterator[bytes]:
        try:
            while (make := self._ready.get()) is not None:
                yield make()
        finally:
            self.close()

    def calls(self) -> Iterator[StreamedCall]:
        """The stream's requests, as calls to be answered. Waits while too many are under way."""
        try:
            for message in self._stream.requests:
                request = parse(prediction_pb2.PredictStreamRequest, message).request
                self._room.acquire()
                call = StreamedCall(self, self._stream, request)
                with self._lock:
                    if self.closed:
                        return
                    self._under_way.add(call)
                yield call
        except CallCancelledError:
            self.close()
        except Exception as error:
            self._ready.put(_raiser(error))
        finally:
            with self._lock:
                self._read_all = True
                if not self._under_way:
                    self._ready.put(None)

    def close(self) -> None:
        """Nobody listens any more: what hasn't run doesn't run."""
        with self._lock:
            self.closed = True
            left, self._under_way = self._under_way, set()
        for call in left:
            call.gone()
        self._room.release()
        self._ready.put(None)

    def answered(self, call: StreamedCall) -> bool:
        """Whether a call has its answer."""
        return call not in self._under_way

    def end(self, call: StreamedCall, make: Callable[[], bytes]) -> None:
        """A call has its answer; later ones to it are ignored."""
        with self._lock:
            if call not in self._under_way:
                return
            self._under_way.discard(call)
            self._ready.put(make)
            if self._read_all and not self._under_way:
                self._ready.put(None)
        self._room.release()


class StreamedCall:
    """One request of a stream (see transport.call.Call)."""

    deadline = None

    def __init__(self, answers: Answers, stream: Stream, message: prediction_pb2.PredictRequest) -> None:
        self._answers = answers
        self._stream = stream
        self.message = message
        self.arrived = time.monotonic()
        self.gone: Callable[[], None] = _nothing

    @property
    def method(self) -> str:
        return self._stream.method

    @property
    def request(self) -> bytes:
        return self.message.SerializeToString()

    def on_gone(self, callback: Callable[[], None]) -> None:
        self.gone = callback
        if self._answers.closed:
            callback()

    def reply(self, encode: Callable[[], bytes]) -> None:
        def make() -> bytes:
            content = encode()
            return b"".join((RESPONSE_TAG, varint(len(content)), content))

        self._answers.end(self, make)

    def client(self) -> object:
        return self._stream.client()

    def answer(self, message: bytes) -> None:
        self.reply(lambda: message)

    @property
    def answered(self) -> bool:
        return self._answers.answered(self)

    def fail(self, error: Exception) -> None:
        wire = failure(error, self.method)
        told = prediction_pb2.PredictError(
            id=self.message.id, code=wire.code.value[0], message=wire.text, metadata=dict(wire.metadata)
        )
        self._answers.end(self, prediction_pb2.PredictStreamResponse(error=told).SerializeToString)

    def about(self, model: str, version: int) -> None:
        self._stream.about(model, version)

    def afterwards(self, work: Callable[[], None]) -> None:
        work()

    def gather(self, work: Callable[[Sequence[Any]], None], item: object) -> None:
        work((item,))

    def may_block(self, work: Callable[[], None]) -> None:
        work()


def _nothing() -> None:
    """Nobody asked to be told."""


def _raiser(error: Exception) -> Callable[[], bytes]:
    def make() -> bytes:
        raise error

    return make
