"""Streams of requests: starts the requests of a stream and sends their replies as they finish."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import Any, Protocol

from layerserve_server.errors import STOPPING, BusyError, UnavailableError
from layerserve_server.services.prediction.predict_protocol import PredictProtocol
from layerserve_server.services.prediction.predictor import Predictor
from layerserve_server.transport.call import Stream
from layerserve_server.transport.request_ids import sent_id
from layerserve_server.transport.status import Failure, failure

#: Maximum number of open requests of a stream: in progress, or with replies that aren't sent yet. Further ones aren't
#: received until others are closed.
MAX_OPEN = 256
#: Maximum size of the open requests of a stream, in bytes.
MAX_OPEN_BYTES = 64 << 20


class StreamProtocol(PredictProtocol, Protocol):
    """A protocol with streams of requests, whose messages have an `id`."""

    @property
    def ordered(self) -> bool:
        """Whether replies come in the order of the requests; otherwise as they are ready."""

    def is_long_streamed(self, message: bytes) -> bool:
        """Whether reading a message of a stream may delay others."""

    def read_streamed(self, message: bytes) -> Any:
        """Parses a message of a stream. Raises InvalidRequestError if it isn't valid."""

    def wrap(self, reply: bytes) -> bytes:
        """Returns the stream's message with a serialized reply."""

    def refusal(self, id: str, wire: Failure) -> bytes:
        """Returns the stream's message with an error."""


class PredictionStream:
    """Starts the requests of a stream, and yields their replies until all are sent or the client cancels."""

    def __init__(
        self, stream: Stream, protocol: StreamProtocol, predictor: Predictor, *, errors_end: bool = False
    ) -> None:
        """With `errors_end`, the first request that fails ends the stream with its error."""
        self._stream = stream
        self.protocol = protocol
        self._predictor = predictor
        #: Replies to be sent, with the sizes of their requests. Appended by any thread.
        self._ready: deque[tuple[bytes, int]] = deque()
        self._wake = asyncio.Event()
        self._lock = threading.Lock()
        self._in_progress: set[StreamedCall] = set()
        #: If replies are ordered: the requests in order, each until its reply is in `_ready`.
        self._order: deque[StreamedCall] | None = deque() if protocol.ordered else None
        self._errors_end = errors_end
        #: Called when the stream ends.
        self._callbacks: list[Callable[[], None]] = []
        #: The error that ends the stream.
        self.error: Exception | None = None
        self.closed = False
        # The fields below are used in the event loop only.
        self._count = 0
        self._bytes = 0
        self._room = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        #: Tasks that nothing else refers to.
        self._later: set[asyncio.Future[None]] = set()

    async def messages(self) -> AsyncGenerator[bytes, None]:
        """Yields the serialized replies.

        Raises UnavailableError if the server stops before the client has half-closed, and as `Stream.requests` does.
        """
        self._reading = reading = asyncio.ensure_future(self._read())
        reading.add_done_callback(lambda _: self._wake.set())
        self._stream.on_closed(self._stop)
        try:
            while True:
                self._wake.clear()
                while self._ready:
                    message, size = self._ready.popleft()
                    self._stream.memory.give(len(message))
                    yield message
                    # After sending, since unsent replies occupy memory, too.
                    self._count -= 1
                    self._bytes -= size
                    self._room.set()
                if self.error is not None:
                    raise self.error
                if self._over(reading):
                    break
                await self._wake.wait()
            if reading.cancelled():
                raise UnavailableError(STOPPING)
            if reading.done():
                reading.result()
        finally:
            reading.cancel()
            # The task's exception refers to its frame, and that to this object: a reference cycle.
            self._reading = None
            self._close()

    def _over(self, reading: asyncio.Task[None]) -> bool:
        """Whether there are no further replies."""
        if self.closed or not reading.done():
            return self.closed
        failed = not reading.cancelled() and reading.exception() is not None
        return failed or not self._count

    async def _read(self) -> None:
        """Starts the stream's requests. Waits while too many are open."""
        async for message in self._stream.requests():
            call = StreamedCall(self, self._stream, len(message))
            while self._count >= MAX_OPEN or (self._count and self._bytes + len(message) > MAX_OPEN_BYTES):
                self._room.clear()
                await self._room.wait()
            self._count += 1
            self._bytes += len(message)
            with self._lock:
                if self.closed:
                    return
                self._in_progress.add(call)
                if self._order is not None:
                    self._order.append(call)
            if self.protocol.is_long_streamed(message):
                await self._stream.blocking(partial(self._begin, call, message))
            else:
                self._begin(call, message)
            call.begun = True
            if call.blocking is not None:
                await self._stream.blocking(partial(self._try, call, call.blocking))

    def _begin(self, call: StreamedCall, message: bytes) -> None:
        parsed = self.protocol.read_streamed(message)
        call.id = parsed.id

        def start() -> None:
            # Batches run in another thread, so that the event loop receives the requests of the next one meanwhile.
            self._predictor.start(call, self.protocol.request(parsed), here=False)

        self._try(call, start)

    def _try(self, call: StreamedCall, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            call.fail(error)

    def try_later(self, call: StreamedCall, work: Callable[[], None]) -> None:
        """Runs blocking work of a call that has waited for something. Thread-safe."""

        def begin() -> None:
            task = asyncio.ensure_future(self._stream.blocking(partial(self._try, call, work)))
            self._later.add(task)
            task.add_done_callback(self._later.discard)

        self._stream.soon(begin)

    def _stop(self) -> None:
        """Drops all requests if the client has cancelled; stops receiving requests if the server is stopping."""
        if self._stream.listens():
            if self._reading is not None:
                self._reading.cancel()
        else:
            self._close()
        self._wake.set()

    def _close(self) -> None:
        """Cancels requests in progress and drops unsent replies."""
        with self._lock:
            self.closed = True
            left, self._in_progress = self._in_progress, set()
            if self._order is not None:
                self._stream.memory.give(sum(len(call.held or b"") for call in self._order))
                self._order.clear()
            callbacks, self._callbacks = self._callbacks, []
        for call in left:
            gone, call.gone = call.gone, _nothing
            gone()
            call.drop()
        while self._ready:
            self._stream.memory.give(len(self._ready.popleft()[0]))
        for callback in callbacks:
            callback()

    def on_end(self, callback: Callable[[], None]) -> None:
        """See transport.call.OpenStream."""
        with self._lock:
            if not self.closed:
                self._callbacks.append(callback)
                return
        callback()

    def answered(self, call: StreamedCall) -> bool:
        """Whether a call was answered or cancelled."""
        return call not in self._in_progress

    def end(self, call: StreamedCall, message: bytes, status: str = "OK") -> bool:
        """Answers a call with a serialized message. Later answers to it are ignored.

        Returns whether the message is sent: the client may have left, or the memory for replies be used up.
        """
        with self._lock:
            if call not in self._in_progress:
                return False
            self._in_progress.discard(call)
            # The callback refers to the pending request, and that to this call: a reference cycle, which would keep
            # the arrays until the garbage collector runs.
            call.gone = _nothing
            call.drop()
            held = self.hold(message, call)
            if self._order is None:
                self._ready.append((held, call.size))
            else:
                call.held = held
                while self._order and (first := self._order[0]).held is not None:
                    self._ready.append((first.held, first.size))
                    self._order.popleft()
        self._stream.soon(self._wake.set)
        self._stream.count(call.model, call.version, status, time.monotonic() - call.arrived)
        if call.trace is not None:
            call.trace.end(call.model, call.version, status)
        return held is message

    def end_with(self, error: Exception) -> bool:
        """Ends the stream with the error of a request. Returns False if errors don't end this stream."""
        if self._errors_end and self.error is None:
            self.error = error
            self._stream.soon(self._wake.set)
        return self._errors_end

    def hold(self, message: bytes, call: StreamedCall) -> bytes:
        """Counts a reply towards the memory budget until it is sent. Returns a refusal if the budget is used up."""
        try:
            self._stream.memory.take(len(message))
        except BusyError as error:
            message = call.refusal(error)
            self._stream.memory.add(len(message))
        return message


class StreamedCall:
    """A request of a stream (see transport.call.Call)."""

    #: A worker forwards whole streams.
    forwarded = False

    def __init__(self, answers: PredictionStream, stream: Stream, size: int) -> None:
        """`size` is the size of its message, in bytes."""
        self._answers = answers
        self._stream = stream
        self.deadline = stream.deadline
        self.caller = stream.caller
        self.trace = None if stream.trace is None else stream.trace.request()
        self.metadata = stream.metadata
        self.size = size
        #: Id of the request.
        self.id = ""
        #: Bytes besides its message that count towards the memory budget.
        self.reserved = 0
        #: Its reply, while replies to earlier requests are missing.
        self.held: bytes | None = None
        self.model = self.version = ""
        self.arrived = time.monotonic()
        self.gone: Callable[[], None] = _nothing
        #: Work passed to `in_pool`, to be run in a pool thread.
        self.blocking: Callable[[], None] | None = None
        #: Whether such work has been looked for.
        self.begun = False

    @property
    def method(self) -> str:
        return self._stream.method

    @property
    def stream(self) -> PredictionStream:
        return self._answers

    @property
    def request(self) -> bytes:
        raise NotImplementedError  # it was parsed as a part of the stream's message

    def on_gone(self, callback: Callable[[], None]) -> None:
        if self._answers.closed:
            callback()
        elif not self.answered:
            self.gone = callback

    def client(self) -> object:
        return self._stream.client()

    def certificate_names(self) -> Sequence[str]:
        return self._stream.certificate_names()

    def hold(self, size: int) -> None:
        self._stream.memory.take(size)
        self.reserved += size

    def drop(self) -> None:
        """Returns what was held to the memory budget."""
        reserved, self.reserved = self.reserved, 0
        self._stream.memory.give(reserved)

    def answer(self, message: bytes) -> bool:
        return self._answers.end(self, self._answers.protocol.wrap(message))

    @property
    def answered(self) -> bool:
        return self._answers.answered(self)

    def fail(self, error: Exception) -> None:
        if not self._answers.end_with(error):
            wire = self._wire(error)
            self._answers.end(self, self._answers.protocol.refusal(self.id, wire), wire.code.name)

    def refusal(self, error: Exception) -> bytes:
        """Returns the serialized reply for an error."""
        return self._answers.protocol.refusal(self.id, self._wire(error))

    def _wire(self, error: Exception) -> Failure:
        return failure(error, self.method, sent_id(self.metadata), "" if self.trace is None else self.trace.trace_id)

    def set_metric_labels(self, model: str, version: int) -> None:
        self.model, self.version = model, str(version)
        self._stream.set_metric_labels(model, version, whole=False)

    def after_batch(self, work: Callable[[], None]) -> None:
        work()

    def coalesce(self, work: Callable[[Sequence[Any]], None], item: object) -> None:
        raise NotImplementedError  # handlers of unary methods gather their calls

    def in_pool(self, work: Callable[[], None]) -> None:
        if self.begun:
            self._answers.try_later(self, work)
        else:
            self.blocking = work


def _nothing() -> None:
    """Default callback for a cancellation."""
