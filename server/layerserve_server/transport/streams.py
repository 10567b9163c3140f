"""Streaming calls: one event loop runs all their handlers, so a waiting stream occupies no thread."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from functools import partial
from typing import TypeVar

from layerserve_server.access.caller import Caller
from layerserve_server.access.gate import Gate
from layerserve_server.errors import (
    STOPPING,
    BusyError,
    IdleStreamError,
    InvalidRequestError,
    UnavailableError,
    UnknownMethodError,
)
from layerserve_server.transport.call import Ended, Observer, StreamHandler, Telemetry, Trace
from layerserve_server.transport.perimeter.compression import decompressed, decompressed_if_short, is_compressed
from layerserve_server.transport.perimeter.limits import OTHERS_SHARE, SLOWEST_BYTES, Limits
from layerserve_server.transport.perimeter.memory import MemoryBudget
from layerserve_server.transport.request_ids import id_of
from layerserve_server.transport.status import STATUS, Failure, failure, gone_error

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Maximum time between two checks for idle and stalled streams, in seconds.
CHECK_SECONDS = 1.0
#: Time for handlers to end at shutdown, after their streams were interrupted, in seconds.
END_SECONDS = 2.0
#: The method by which clients that balance watch the health of servers.
HEALTH_WATCH = "/grpc.health.v1.Health/Watch"
#: Error of streams that arrive while too many others wait to be started.
OVERRUN = failure(BusyError("too many streams arrived at once", retry_after=1.0), "")


class Streams:
    """The open streams of a server, and the event loop that runs their handlers."""

    def __init__(
        self, observer: Observer, limits: Limits, memory: MemoryBudget, gate: Gate, telemetry: Telemetry | None = None
    ) -> None:
        """`telemetry` is None if there are neither traces nor an access log."""
        self._observer = observer
        self._telemetry = telemetry
        self._gate = gate
        self.limits = limits
        self.memory = memory
        self.loop = asyncio.new_event_loop()
        self._pool = ThreadPoolExecutor(limits.rpc_threads, "stream")
        self._posted: deque[Callable[[], None]] = deque()
        self._woken = False
        #: Number of streams accepted, counted by the receiving thread; and of those started, by the loop's thread.
        self._served = self._begun = 0
        #: Methods of streams that were refused before they were started.
        self._refused: deque[str] = deque()
        # The fields below are used in the loop's thread only.
        self._open: set[ServerStream] = set()
        self._peers: Counter[str] = Counter()
        self._methods: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self.stopping = False
        self._thread = threading.Thread(target=self._run, name="streams", daemon=True)
        self._thread.start()

    # From any thread.

    def post(self, work: Callable[[], None]) -> None:
        """Schedules `work` in the loop's thread. Several posts in a row wake the loop once. Thread-safe."""
        self._posted.append(work)
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(self._drain)

    def serve(self, stream: ServerStream, handler: StreamHandler) -> None:
        """Schedules a handler for a stream. Called in the receiving thread only.

        Refuses the stream if `max_streams` others wait to be started: streams may arrive faster than the loop starts
        them.
        """
        if self._served - self._begun >= self.limits.max_streams:
            self._refused.append(stream.method)
            stream.end(OVERRUN)
            return
        self._served += 1

        def begin() -> None:
            self._begun += 1
            if not stream.left:
                self.begin(stream, handler)
            elif stream.counted:
                self._observer.calls_began(stream.method, 1)
                self._report(stream, STATUS[type(gone_error(stream.deadline))].name)

        self.post(begin)

    def count_request(self, request: Ended) -> None:
        """Counts a request of a stream."""
        self._observer.streamed((request,))

    @property
    def count(self) -> int:
        """Number of open streams."""
        return len(self._open)

    def end(self) -> None:
        """Refuses further streams and notifies the open ones that the server is stopping."""
        self.post(self._end)

    def close(self, end_forwarded: Callable[[], Awaitable[None]] | None = None) -> None:
        """Ends all streams; those that another server answers with `end_forwarded`, which is awaited in the loop."""
        asyncio.run_coroutine_threadsafe(self._close(end_forwarded), self.loop).result()

    def stop(self) -> None:
        """Stops the event loop and its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)

    # In the loop's thread.

    def begin(self, stream: ServerStream, handler: StreamHandler) -> None:
        """Starts a handler for a stream."""
        if stream.counted:
            self._observer.calls_began(stream.method, 1)
            if self._telemetry is not None:
                stream.trace = self._telemetry.begin(stream.method, stream.metadata, stream.arrived)
        task = self.loop.create_task(self._answer(stream, handler))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def blocking(self, work: Callable[[], T]) -> T:
        """Runs `work` in a pool thread, to its end even if the awaiting task is cancelled."""
        return await asyncio.shield(self.loop.run_in_executor(self._pool, work))

    async def _answer(self, stream: ServerStream, handler: StreamHandler) -> None:
        error: Exception | None = None
        try:
            self._admit(stream)
            try:
                async with aclosing(handler(stream)) as messages:
                    async for message in messages:
                        await stream.send(message)
                # A handler may have mistaken the client's cancellation for the end of its messages.
                stream.check()
            finally:
                self._release(stream)
        except asyncio.CancelledError:
            error = UnavailableError(STOPPING)
        except Exception as caught:
            error = caught
        error = stream.withdrawn or error
        wire = stream.failed(error) if error is not None else None
        drop_frames(error)
        stream.forget()
        if stream.counted:
            self._report(stream, wire.code.name if wire is not None else "OK")
        stream.end(wire)

    def _report(self, stream: ServerStream, status: str) -> None:
        seconds = time.monotonic() - stream.arrived
        trace_id = "" if stream.trace is None else stream.trace.trace_id
        self._observer.calls_ended((Ended(stream.method, stream.model, stream.version, status, seconds, trace_id),))
        if self._telemetry is not None:
            self._telemetry.ended(stream, status, seconds)

    def _report_refused(self) -> None:
        """Reports the streams refused since the last report to the observer."""
        refused = Counter(self._refused.popleft() for _ in range(len(self._refused)))
        for method, count in refused.items():
            self._observer.calls_began(method, count)
            self._observer.calls_ended([Ended(method, "", "", OVERRUN.code.name, 0.0)] * count)

    def _admit(self, stream: ServerStream) -> None:
        """Counts a stream as open.

        Raises as `Gate.admit` does, UnavailableError if the server is stopping, and at a limit BusyError, or
        UnknownMethodError for a watch of the server's health.
        """
        stream.caller = self._gate.trusted or self._gate.admit(stream)
        if self.stopping:
            raise UnavailableError(STOPPING)
        limits, method = self.limits, stream.method.rpartition("/")[2]
        watch = stream.method == HEALTH_WATCH
        # Each client that balances has a watch; behind a proxy all have one address, and need other streams too.
        of_peer = limits.max_peer_streams - (limits.max_peer_streams // OTHERS_SHARE if watch else 0)
        # No per-peer limit for unknown peers: all clients of a front that doesn't pass their addresses would share it.
        for count, limit, which in (
            (len(self._open), limits.max_streams, "of this server"),
            (self._peers[stream.peer] if stream.peer else 0, of_peer, "of one client address"),
            (self._methods[stream.method], limits.max_streams - limits.max_streams // OTHERS_SHARE, f"of '{method}'"),
        ):
            if count >= limit:
                text = f"all {limit} streams {which} are in use"
                if watch:
                    # A client that balances takes any other status for an unhealthy server, and sends it no calls.
                    raise UnknownMethodError(f"{text}; ask for the status by Check")
                raise BusyError(text, retry_after=1.0)
        self._open.add(stream)
        self._peers[stream.peer] += 1
        self._methods[stream.method] += 1

    def _release(self, stream: ServerStream) -> None:
        self._open.discard(stream)
        for counts, key in ((self._peers, stream.peer), (self._methods, stream.method)):
            counts[key] -= 1
            if not counts[key]:
                del counts[key]

    def _drain(self) -> None:
        self._woken = False
        while self._posted:
            try:
                self._posted.popleft()()
            except Exception:
                logger.exception("failed to process an event of a stream")
        self._report_refused()

    def _check_stalled(self) -> None:
        """Ends idle and stalled streams."""
        self._schedule_check()
        now = time.monotonic()
        for stream in tuple(self._open):
            stream.check_stalled(now, self.limits.stream_idle_seconds, self.limits.stalled_seconds)

    def _schedule_check(self) -> None:
        seconds = min(self.limits.stream_idle_seconds, self.limits.stalled_seconds)
        self.loop.call_later(min(CHECK_SECONDS, seconds / 4), self._check_stalled)

    def _end(self) -> None:
        self.stopping = True
        for stream in tuple(self._open):
            stream.closed()

    async def _close(self, end_forwarded: Callable[[], Awaitable[None]] | None) -> None:
        self._end()
        for stream in tuple(self._open):
            stream.interrupt(UnavailableError(STOPPING))
        if end_forwarded is not None:
            await end_forwarded()
        await self._handlers_end()
        # The remaining handlers wait for something other than their clients.
        for task in tuple(self._tasks):
            task.cancel()
        await self._handlers_end()

    async def _handlers_end(self) -> None:
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=END_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self._schedule_check()
        self.loop.run_forever()
        self.loop.close()


def drop_frames(error: BaseException | None) -> None:
    """Clears the tracebacks of an error and its causes: reference cycles through their frames keep messages alive."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


class ServerStream:
    """A streaming call (see transport.call.Stream). All methods but `soon` are called in the loop's thread.

    Transports implement `receive_one`, `send_one`, `end` and `cancel`, and call `received`, `sent` and `gone`.
    """

    #: Set when the stream is admitted, and not before.
    caller: Caller

    def __init__(
        self,
        streams: Streams,
        method: str,
        peer: str,
        deadline: float | None = None,
        metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> None:
        """`peer` is the client's address, by which its streams are counted; empty if unknown."""
        self._streams = streams
        self.method = method
        self.peer = peer
        self.deadline = deadline
        self.metadata = metadata
        #: Whether metrics include it: False if another server counts it.
        self.counted = True
        self.model = ""
        self.version = ""
        #: Whether all of the stream is of that model.
        self._whole = True
        self.trace: Trace | None = None
        self.request_id = ""
        self.arrived = time.monotonic()
        #: Whether the client has cancelled, perhaps before the handler started. Set in any thread.
        self.left = False
        self._gone = False
        #: The error if its caller has lost its rights; handlers then see a client that is gone.
        self.withdrawn: Exception | None = None
        self._interruption: Exception | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._receiving: asyncio.Future[bytes | None] | None = None
        self._sending: asyncio.Future[None] | None = None
        #: Times since which the stream waits for the client to send, and to read; None if it doesn't wait.
        self._waits_since: float | None = None
        self._stalls_since: float | None = None

    # Implemented by the transport.

    def receive_one(self) -> None:
        """Starts to receive the next message; `received` is called when it has arrived."""
        raise NotImplementedError

    def send_one(self, message: bytes) -> None:
        """Starts to send a message; `sent` is called when another may follow."""
        raise NotImplementedError

    def end(self, wire: Failure | None) -> None:
        """Ends the stream with an error; with OK for None."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Drops unsent messages: the client doesn't read them."""
        raise NotImplementedError

    def received(self, message: bytes | None) -> None:
        """Called when a message has arrived; with None when the client has half-closed."""
        if self._receiving is not None and not self._receiving.done():
            self._receiving.set_result(message)

    def sent(self) -> None:
        """Called when a message has been sent and another may follow."""
        if self._sending is not None and not self._sending.done():
            self._sending.set_result(None)

    def gone(self) -> None:
        """Called when the client has cancelled or the deadline has passed."""
        if not self._gone:
            self._gone = True
            self.interrupt(gone_error(self.deadline))
            self.closed()

    # For handlers.

    @property
    def memory(self) -> MemoryBudget:
        return self._streams.memory

    def client(self) -> object:
        """See transport.call.Stream. Overridden by transports that distinguish connections."""
        return self.peer

    def certificate_names(self) -> Sequence[str]:
        """See transport.call.Stream. Overridden by transports with TLS."""
        return ()

    async def first(self) -> bytes:
        message = await self._receive()
        if message is None:
            raise InvalidRequestError("got no request message, expected one")
        return message

    async def requests(self) -> AsyncIterator[bytes]:
        while (message := await self._receive()) is not None:
            yield message

    async def blocking(self, work: Callable[[], T]) -> T:
        return await self._streams.blocking(work)

    def listens(self) -> bool:
        return not self._gone

    def open(self) -> bool:
        return not self._gone and not self._streams.stopping

    def on_closed(self, callback: Callable[[], None]) -> None:
        if self.open():
            self._callbacks.append(callback)
        else:
            callback()

    def soon(self, work: Callable[[], None]) -> None:
        self._streams.post(work)

    def set_metric_labels(self, model: str, version: int, *, whole: bool = True) -> None:
        self.model, self.version = model, str(version)
        self._whole = whole

    def count(self, model: str, version: str, status: str, seconds: float) -> None:
        """See transport.call.Stream. Thread-safe."""
        self._streams.count_request(Ended(self.method, model, version, status, seconds))

    async def send(self, message: bytes) -> None:
        """Sends a message and waits until another may follow (flow control).

        Raises BusyError if the memory budget has no room for it, and the error that interrupted the stream.
        """
        self.check()
        self._streams.memory.take(len(message))
        try:
            self._sending = self._streams.loop.create_future()
            # A large message may take a while.
            self._stalls_since = time.monotonic() + len(message) / SLOWEST_BYTES
            self.send_one(message)
            await self._sending
        finally:
            self._stalls_since = None
            self._streams.memory.give(len(message))

    # Called by `Streams`.

    def check_stalled(self, now: float, idle_seconds: float, stalled_seconds: float) -> None:
        """Interrupts the stream if the client has sent or read nothing for too long, or has lost its rights."""
        lost = self.caller.lost(self.model if self._whole else "")
        if lost is not None and not self._gone:
            self.withdrawn = lost
            self._gone = True
            self.interrupt(self.withdrawn)
            self.closed()
        if self._waits_since is not None and now - self._waits_since > idle_seconds:
            self.interrupt(IdleStreamError(f"the client sent no message for {idle_seconds:g} seconds"))
        if self._stalls_since is not None and now - self._stalls_since > stalled_seconds:
            self.interrupt(IdleStreamError(f"the client read no message for {stalled_seconds:g} seconds"))
            self.cancel()

    def interrupt(self, error: Exception) -> None:
        """Raises an error in the handler at its current or next wait for the client."""
        self._interruption = error
        for future in (self._receiving, self._sending):
            if future is not None and not future.done():
                future.set_exception(error)

    def failed(self, error: Exception) -> Failure:
        """Returns the wire form of the error that ended the stream."""
        self.request_id = id_of(self.metadata)
        return failure(error, self.method, self.request_id, "" if self.trace is None else self.trace.trace_id)

    def forget(self) -> None:
        """Drops references to the stream after its handler has ended: reference cycles keep messages alive."""
        self._interruption = self._receiving = self._sending = None
        self._callbacks = []

    def closed(self) -> None:
        """Runs the callbacks of `on_closed`."""
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def check(self) -> None:
        """Raises the error that interrupted the stream, if any."""
        if self._interruption is not None:
            raise self._interruption

    async def _receive(self) -> bytes | None:
        self.check()
        self._receiving = self._streams.loop.create_future()
        self._waits_since = time.monotonic()
        try:
            self.receive_one()
            message = await self._receiving
        finally:
            self._waits_since = None
        if message is not None:
            self._streams.limits.check_size(len(message))
            if is_compressed(message):
                return await self._decompressed(message)
        return message

    async def _decompressed(self, message: bytes) -> bytes:
        short = decompressed_if_short(message)
        if short is not None:
            self._streams.limits.check_size(len(short))
            return short
        return await self.blocking(partial(decompressed, message, self._streams.limits.max_message_bytes, self.memory))
