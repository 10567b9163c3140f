"""Streams: one event loop runs the handlers of all of them, so that one that waits holds no thread."""

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

from layerserve_server.errors import (
    STOPPING,
    BusyError,
    IdleStreamError,
    InvalidRequestError,
    UnavailableError,
)
from layerserve_server.transport.call import Ended, Observer, StreamHandler
from layerserve_server.transport.compression import decompressed, decompressed_if_short, is_compressed
from layerserve_server.transport.limits import SLOWEST_BYTES, Limits
from layerserve_server.transport.memory import MemoryBudget
from layerserve_server.transport.status import STATUS, Failure, failure, gone_error

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: One of so many streams is left to other methods than the one with most, so that a flood of one leaves room.
OTHERS_SHARE = 4
#: Most time between two looks for streams that wait for too long, in seconds.
LOOK_SECONDS = 1.0
#: Time that handlers have to end once their streams are ended, in seconds.
END_SECONDS = 2.0
#: How streams end for which there are too many that wait to begin.
OVERRUN = failure(BusyError("too many streams came at once", retry_after=1.0), "")


class Streams:
    """The open streams of a server, and the event loop that runs their handlers."""

    def __init__(self, observer: Observer, limits: Limits, memory: MemoryBudget) -> None:
        self._observer = observer
        self.limits = limits
        self.memory = memory
        self.loop = asyncio.new_event_loop()
        self._pool = ThreadPoolExecutor(limits.rpc_threads, "stream")
        self._posted: deque[Callable[[], None]] = deque()
        self._woken = False
        #: Streams that were taken, and those of them that have begun: each counted by one thread.
        self._served = self._begun = 0
        #: Methods of streams that were refused before they could begin.
        self._refused: deque[str] = deque()
        # What follows belongs to the loop's thread.
        self._open: set[ServerStream] = set()
        self._peers: Counter[str] = Counter()
        self._methods: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self.stopping = False
        self._thread = threading.Thread(target=self._run, name="streams", daemon=True)
        self._thread.start()

    # From any thread.

    def post(self, work: Callable[[], None]) -> None:
        """Runs work in the loop's thread, soon. What several posts bring costs one waking."""
        self._posted.append(work)
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop is closed
                self.loop.call_soon_threadsafe(self._drain)

    def serve(self, stream: ServerStream, handler: StreamHandler) -> None:
        """Lets a handler answer a stream. Only for the one thread that takes calls.

        Where they come faster than they begin, what waits would have no bound: those past it are refused here.
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
                self._tell(stream, STATUS[type(gone_error(stream.deadline))].name)

        self.post(begin)

    @property
    def count(self) -> int:
        """Streams that are open now."""
        return len(self._open)

    def end(self) -> None:
        """The server is stopping: streams learn of it, and no more are taken."""
        self.post(self._end)

    def close(self, then: Callable[[], Awaitable[None]] | None = None) -> None:
        """Ends all streams, and then awaits what else is to end in the loop."""
        asyncio.run_coroutine_threadsafe(self._close(then), self.loop).result()

    def stop(self) -> None:
        """Ends the loop."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self._pool.shutdown(wait=False, cancel_futures=True)

    # In the loop's thread.

    def begin(self, stream: ServerStream, handler: StreamHandler) -> asyncio.Task[None]:
        """As `serve`, in the loop's thread; the task ends with the stream."""
        if stream.counted:
            self._observer.calls_began(stream.method, 1)
        task = self.loop.create_task(self._answer(stream, handler))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def blocking(self, work: Callable[[], T]) -> T:
        """Runs work in a thread, to its end."""
        return await asyncio.shield(self.loop.run_in_executor(self._pool, work))

    async def _answer(self, stream: ServerStream, handler: StreamHandler) -> None:
        error: Exception | None = None
        try:
            self._admit(stream)
            try:
                async with aclosing(handler(stream)) as messages:
                    async for message in messages:
                        await stream.send(message)
                # A handler may take the end of a caller that went away for the end of its messages.
                stream.check()
            finally:
                self._release(stream)
        except asyncio.CancelledError:
            error = UnavailableError(STOPPING)
        except Exception as caught:
            error = caught
        wire = failure(error, stream.method) if error is not None else None
        drop_frames(error)
        stream.forget()
        if stream.counted:
            self._tell(stream, wire.code.name if wire is not None else "OK")
        stream.end(wire)

    def _tell(self, stream: ServerStream, status: str) -> None:
        seconds = time.monotonic() - stream.arrived
        self._observer.calls_ended((Ended(stream.method, stream.model, stream.version, status, seconds),))

    def _tell_refused(self) -> None:
        """Tells the observer of all streams that were refused since it was told last."""
        refused = Counter(self._refused.popleft() for _ in range(len(self._refused)))
        for method, count in refused.items():
            self._observer.calls_began(method, count)
            self._observer.calls_ended([Ended(method, "", "", OVERRUN.code.name, 0.0)] * count)

    def _admit(self, stream: ServerStream) -> None:
        """Raises UnavailableError, BusyError."""
        if self.stopping:
            raise UnavailableError(STOPPING)
        limits, method = self.limits, stream.method.rpartition("/")[2]
        # Streams of unknown peers have no limit of their own: a front that doesn't say whose they are would share one.
        for count, limit, which in (
            (len(self._open), limits.max_streams, "of this server"),
            (self._peers[stream.peer] if stream.peer else 0, limits.max_peer_streams, "of one client address"),
            (self._methods[stream.method], limits.max_streams - limits.max_streams // OTHERS_SHARE, f"of '{method}'"),
        ):
            if count >= limit:
                raise BusyError(f"all {limit} streams {which} are in use", retry_after=1.0)
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
                logger.exception("an event of a stream")
        self._tell_refused()

    def _look(self) -> None:
        """Ends streams that wait for too long."""
        self._look_later()
        now = time.monotonic()
        for stream in tuple(self._open):
            stream.look(now, self.limits.stream_idle_seconds, self.limits.stalled_seconds)

    def _look_later(self) -> None:
        seconds = min(self.limits.stream_idle_seconds, self.limits.stalled_seconds)
        self.loop.call_later(min(LOOK_SECONDS, seconds / 4), self._look)

    def _end(self) -> None:
        self.stopping = True
        for stream in tuple(self._open):
            stream.closed()

    async def _close(self, then: Callable[[], Awaitable[None]] | None) -> None:
        self._end()
        for stream in tuple(self._open):
            stream.interrupt(UnavailableError(STOPPING))
        await self._handlers_end()
        # Those that are left wait for something else than their callers.
        for task in tuple(self._tasks):
            task.cancel()
        await self._handlers_end()
        if then is not None:
            await then()

    async def _handlers_end(self) -> None:
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=END_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self._look_later()
        self.loop.run_forever()
        self.loop.close()


def drop_frames(error: BaseException | None) -> None:
    """Lets go of the frames that an error and its causes came through: circles, which would keep their messages."""
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


class ServerStream:
    """A stream of a transport (see transport.call.Stream). All but `soon` belongs to the loop's thread.

    A transport's own are `receive_one`, `send_one`, `end` and `cancel`; it calls `received`, `sent` and `gone`.
    """

    def __init__(self, streams: Streams, method: str, peer: str, deadline: float | None = None) -> None:
        """`peer` is the address that the caller's streams are counted by; empty where it isn't known."""
        self._streams = streams
        self.method = method
        self.peer = peer
        self.deadline = deadline
        self.metadata: Sequence[tuple[str, str | bytes]] = ()
        #: Whether metrics count it: not where another server does.
        self.counted = True
        self.model = ""
        self.version = ""
        self.arrived = time.monotonic()
        #: Whether the caller went away, perhaps before the handler began. Set in any thread.
        self.left = False
        self._gone = False
        self._interruption: Exception | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._receiving: asyncio.Future[bytes | None] | None = None
        self._sending: asyncio.Future[None] | None = None
        #: When it began to wait for the caller: to send, to take.
        self._waits_since: float | None = None
        self._stalls_since: float | None = None

    # A transport's own.

    def receive_one(self) -> None:
        """Asks for the next message; `received` follows."""
        raise NotImplementedError

    def send_one(self, message: bytes) -> None:
        """Sends a message; `sent` follows."""
        raise NotImplementedError

    def end(self, wire: Failure | None) -> None:
        """Ends the stream, with an error or well."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Drops what waits to be sent: the caller takes nothing."""
        raise NotImplementedError

    def received(self, message: bytes | None) -> None:
        """A message came, or None: the caller sends no more."""
        if self._receiving is not None and not self._receiving.done():
            self._receiving.set_result(message)

    def sent(self) -> None:
        """The message is on its way, and another may follow."""
        if self._sending is not None and not self._sending.done():
            self._sending.set_result(None)

    def gone(self) -> None:
        """The caller has gone away, or its deadline has passed."""
        if not self._gone:
            self._gone = True
            self.interrupt(gone_error(self.deadline))
            self.closed()

    # For handlers.

    @property
    def memory(self) -> MemoryBudget:
        return self._streams.memory

    def client(self) -> object:
        """See transport.call.Stream. A transport's own where it tells connections apart."""
        return self.peer

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

    def about(self, model: str, version: int) -> None:
        self.model, self.version = model, str(version)

    async def send(self, message: bytes) -> None:
        """Sends a message, and waits until the caller's side has room for another."""
        self.check()
        self._streams.memory.take(len(message))
        try:
            self._sending = self._streams.loop.create_future()
            # A large message is on its way for a while.
            self._stalls_since = time.monotonic() + len(message) / SLOWEST_BYTES
            self.send_one(message)
            await self._sending
        finally:
            self._stalls_since = None
            self._streams.memory.give(len(message))

    # For the loop.

    def look(self, now: float, idle_seconds: float, stalled_seconds: float) -> None:
        """Ends the stream if its caller has let it wait for too long."""
        if self._waits_since is not None and now - self._waits_since > idle_seconds:
            self.interrupt(IdleStreamError(f"the stream sent nothing for {idle_seconds:g} seconds"))
        if self._stalls_since is not None and now - self._stalls_since > stalled_seconds:
            self.interrupt(IdleStreamError(f"the caller took nothing for {stalled_seconds:g} seconds"))
            self.cancel()

    def interrupt(self, error: Exception) -> None:
        """Raises an error in the handler where it waits for the caller, or when it next does."""
        self._interruption = error
        for future in (self._receiving, self._sending):
            if future is not None and not future.done():
                future.set_exception(error)

    def forget(self) -> None:
        """The handler has ended: drops what refers to the stream, as circles keep messages until they are collected."""
        self._interruption = self._receiving = self._sending = None
        self._callbacks = []

    def closed(self) -> None:
        """`open` has become False."""
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def check(self) -> None:
        """Raises what has interrupted the stream."""
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
            self._streams.limits.check_size(message)
            if is_compressed(message):
                return await self._decompressed(message)
        return message

    async def _decompressed(self, message: bytes) -> bytes:
        short = decompressed_if_short(message)
        if short is not None:
            self._streams.limits.check_size(short)
            return short
        return await self.blocking(partial(decompressed, message, self._streams.limits.max_message_bytes, self.memory))
