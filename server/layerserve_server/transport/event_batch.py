"""Calls that one thread takes in batches: what came together is handed to the handlers in one go.

What the handlers left to do is done once for all of it, in the same thread, so what came together is a batch; and what
began and ended with it is counted once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from layerserve_server.errors import (
    STOPPING,
    BusyError,
    DeadlinePassedError,
    UnavailableError,
)
from layerserve_server.transport.call import Ended, Handler, Observer
from layerserve_server.transport.compression import COMPRESSED, decompressed, decompressed_if_short
from layerserve_server.transport.limits import Limits
from layerserve_server.transport.memory import MemoryBudget
from layerserve_server.transport.status import LATE, Failure, failure, gone_error

logger = logging.getLogger(__name__)

#: Smaller messages aren't counted against the memory of all: calls have a limit of their own.
COUNTED_BYTES = 4096
#: Threads for calls that have to wait for something, such as a version that is read from disk.
BLOCKING_THREADS = 8
#: Threads for requests that take long to decompress: few, as each may take a core.
DECOMPRESSING_THREADS = 2
#: More than any caller means by a deadline, in seconds: what libraries give where there is none.
FOREVER_SECONDS = 1e9
#: Calls taken at once. More would let the first of them wait for the parsing of the last.
MAX_EVENTS = 256


def deadline_in(remaining: float | None, now: float) -> float | None:
    """When a caller stops waiting that has so many seconds left; None: never."""
    return None if remaining is None or remaining > FOREVER_SECONDS else now + remaining


class EventBatches:
    """The open calls of one thread that takes them, and what it has to do when a batch of them has been handed out."""

    def __init__(self, observer: Observer, limits: Limits, memory: MemoryBudget) -> None:
        self._observer = observer
        self._limits = limits
        self.memory = memory
        self._thread = 0
        self._gathered: dict[Callable[[Sequence[Any]], None], list[object]] = {}
        self._works: dict[Callable[[], None], None] = {}
        self._began: dict[str, int] = {}
        self._ended: deque[Ended] = deque()
        self._blocking = ThreadPoolExecutor(BLOCKING_THREADS, "blocking")
        self._working = ThreadPoolExecutor(limits.rpc_threads, "rpc")
        self._decompressing = ThreadPoolExecutor(DECOMPRESSING_THREADS, "decompress")
        observer.before_reading(self.tell)
        #: Calls that have no answer yet.
        self.open: set[BatchedCall] = set()
        #: Those of them whose request hasn't come. A transport's own.
        self.coming: Collection[BatchedCall] = ()
        #: Whether no further calls are taken.
        self.stopping = False

    def here(self) -> None:
        """Says that this is the thread that takes the calls."""
        self._thread = threading.get_ident()

    def begin(self, call: BatchedCall) -> None:
        """A call has come, perhaps without its request yet."""
        self._began[call.method] = self._began.get(call.method, 0) + 1
        self.open.add(call)

    def take(self, call: BatchedCall, handler: Handler) -> None:
        """Hands a call that has begun to its handler."""
        try:
            request, limits = call.request, self._limits
            if call.deadline is not None and time.monotonic() >= call.deadline:
                raise DeadlinePassedError(LATE)
            if len(request) > limits.max_message_bytes:
                raise limits.too_large(len(request))
            if self.stopping:
                raise UnavailableError(STOPPING)
            if len(self.open) - len(self.coming) > limits.max_calls:
                raise BusyError(f"all {limits.max_calls} calls of this server are in use", retry_after=0.1)
            if request.startswith(COMPRESSED):
                short = decompressed_if_short(request)
                if short is None:
                    self._decompressing.submit(call.attempt, partial(self._take_long, call, handler))
                    return
                limits.check_size(short)
                call.request = request = short
            if len(request) >= COUNTED_BYTES:
                call.hold(len(request))
            handler(call)
        except Exception as error:
            call.fail(error)

    def _take_long(self, call: BatchedCall, handler: Handler) -> None:
        """Decompresses a call's request, in a thread of its own, and hands it on."""
        if not call.answered:
            call.request = decompressed(call.request, self._limits.max_message_bytes, self.memory)
            if len(call.request) >= COUNTED_BYTES:
                call.hold(len(call.request))
            handler(call)

    def finish(self) -> None:
        """Does what the handlers of the batch left to do. Metrics come after the quickest answers, which would wait."""
        if self._gathered:
            gathered, self._gathered = self._gathered, {}
            for take, items in gathered.items():
                _run(take, items)
        if self._began:
            began, self._began = self._began, {}
            for method, count in began.items():
                self._observer.calls_began(method, count)
        if self._works:
            works, self._works = self._works, {}
            for work in works:
                _run(work)
        self.tell()

    def tell(self) -> None:
        """Has the observer count calls that have ended."""
        ended: list[Ended] = []
        while self._ended:
            try:
                ended.append(self._ended.popleft())
            except IndexError:
                # Another thread reports as well, what it took.
                break
        if ended:
            self._observer.calls_ended(ended)

    def afterwards(self, work: Callable[[], None]) -> None:
        """See transport.call.Call."""
        if threading.get_ident() == self._thread:
            self._works[work] = None
        else:
            work()

    def gather(self, work: Callable[[Sequence[Any]], None], item: object) -> None:
        """See transport.call.Call."""
        if threading.get_ident() == self._thread:
            self._gathered.setdefault(work, []).append(item)
        else:
            work((item,))

    def may_block(self, work: Callable[[], None]) -> None:
        """Runs work in another thread."""
        self._blocking.submit(work)

    def work(self, call: BatchedCall, handler: Handler) -> None:
        """Runs a handler that isn't prompt, in another thread."""
        self._working.submit(call.attempt, partial(handler, call))

    def ended(self, call: Ended) -> None:
        """A call has its answer."""
        if threading.get_ident() == self._thread:
            self._ended.append(call)
        else:
            self._observer.calls_ended((call,))

    def close(self) -> None:
        """Ends the calls that are still open: another server may answer them."""
        for call in tuple(self.open):
            call.fail(UnavailableError(STOPPING))
        for pool in (self._blocking, self._working, self._decompressing):
            pool.shutdown(wait=False, cancel_futures=True)


def _run(work: Callable[..., None], *arguments: object) -> None:
    try:
        work(*arguments)
    except Exception:
        logger.exception("work for a batch of calls")


class BatchedCall:
    """A unary call for which no thread waits (see transport.call.Call)."""

    __slots__ = ("_batches", "_gone", "_held", "_once", "arrived", "deadline", "method", "model", "request", "version")

    def __init__(
        self, batches: EventBatches, method: str, request: bytes, arrived: float, deadline: float | None
    ) -> None:
        self._batches = batches
        self.method = method
        self.request = request
        self.arrived = arrived
        self.deadline = deadline
        self.model = ""
        self.version = ""
        self._gone: Callable[[], None] | None = None
        #: Bytes of it that count against the memory of all.
        self._held = 0
        # Taken by whoever answers: two threads can't both.
        self._once = threading.Lock()

    def send(self, message: bytes) -> None:
        """Puts the answer on the wire. A transport's own."""
        raise NotImplementedError

    def send_failure(self, wire: Failure) -> None:
        """Puts an error on the wire. A transport's own."""
        raise NotImplementedError

    def client(self) -> object:
        """See transport.call.Call. A transport's own."""
        raise NotImplementedError

    @property
    def answered(self) -> bool:
        return self._once.locked()

    def on_gone(self, callback: Callable[[], None]) -> None:
        self._gone = callback
        if self._once.locked():
            self._gone = None
            callback()

    def reply(self, encode: Callable[[], bytes]) -> None:
        try:
            message = encode()
        except Exception as error:
            self.fail(error)
        else:
            self.answer(message)

    def hold(self, size: int) -> None:
        """Counts a message of `size` bytes against the memory of all calls, until `drop`. Raises BusyError."""
        self._batches.memory.take(size)
        self._held += size

    def drop(self) -> None:
        """Counts it no more: its answer is out of the transport's hands."""
        if self._held:
            held, self._held = self._held, 0
            self._batches.memory.give(held)

    def answer(self, message: bytes) -> None:
        if len(message) >= COUNTED_BYTES and not self._once.locked():
            try:
                self.hold(len(message))
            except BusyError as error:
                self.fail(error)
                return
        if self._once.acquire(False):
            # First, as all else can wait.
            self.send(message)
            self._end("OK")
            self._batches.open.discard(self)
        else:
            # The caller went away meanwhile, and the message was counted here only.
            self.drop()

    def fail(self, error: Exception) -> None:
        if not self._once.locked():
            self.refuse(failure(error, self.method))

    def refuse(self, wire: Failure) -> None:
        """Answers with an error as it goes over the wire."""
        if self._once.acquire(False):
            self._end(wire.code.name)
            self.send_failure(wire)
            self._batches.open.discard(self)

    def about(self, model: str, version: int) -> None:
        self.model, self.version = model, str(version)

    def afterwards(self, work: Callable[[], None]) -> None:
        self._batches.afterwards(work)

    def gather(self, work: Callable[[Sequence[Any]], None], item: object) -> None:
        self._batches.gather(work, item)

    def may_block(self, work: Callable[[], None]) -> None:
        self._batches.may_block(partial(self.attempt, work))

    def attempt(self, work: Callable[[], None]) -> None:
        """Runs work; an error in it is the call's."""
        try:
            work()
        except Exception as error:
            self.fail(error)

    def gone(self) -> None:
        """The caller has cancelled, or its deadline has passed."""
        if self._once.acquire(False):
            # Only metrics see it.
            wire = failure(gone_error(self.deadline), self.method)
            callback = self._gone
            self._end(wire.code.name)
            self.send_failure(wire)
            self._batches.open.discard(self)
            if callback is not None:
                callback()

    def _end(self, status: str) -> None:
        # The callback refers to whoever answers, and that to this call: a circle that only the collector would undo.
        self._gone = None
        seconds = time.monotonic() - self.arrived
        self._batches.ended(Ended(self.method, self.model, self.version, status, seconds))
