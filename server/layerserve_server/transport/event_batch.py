"""Event batches: calls that arrived together are dispatched together, by the one thread that receives calls.

Work that their handlers deferred then runs once for the whole batch in the same thread, so that requests that arrived
together form a batch of rows. Metrics are updated once per batch, too.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from layerserve_server.access.caller import Caller
from layerserve_server.access.gate import Gate, Pairs
from layerserve_server.errors import (
    STOPPING,
    BusyError,
    DeadlinePassedError,
    UnavailableError,
)
from layerserve_server.transport.call import FORWARDED, Ended, Handler, Observer, OpenStream, Telemetry, Trace
from layerserve_server.transport.list_call_queue import ListCallQueue
from layerserve_server.transport.perimeter.compression import COMPRESSED, decompressed, decompressed_if_short
from layerserve_server.transport.perimeter.limits import BLOCKING_THREADS, COUNTED_BYTES, DECOMPRESSING_THREADS, Limits
from layerserve_server.transport.perimeter.memory import MemoryBudget
from layerserve_server.transport.request_ids import KEY as REQUEST_ID_KEY
from layerserve_server.transport.request_ids import echo, id_of
from layerserve_server.transport.status import LATE, Failure, failure, gone_error
from layerserve_server.transport.timing import ASK as ASK_TIMES
from layerserve_server.transport.timing import KEY as TIMES_KEY
from layerserve_server.transport.timing import CallTimes

logger = logging.getLogger(__name__)

#: Keys of metadata that a successful reply answers with some of its own.
_WITH_TAIL = frozenset({REQUEST_ID_KEY, ASK_TIMES})

#: Time after which a thread that computes in Python gives up Python's lock if another one waits for it. A request waits
#: for the lock several times; with Python's 5 ms it would take 20 times as long beside a thread that makes lists.
SWITCH_SECONDS = 0.0002
#: A longer remaining time means that there is no deadline, in seconds: libraries give a huge one then.
FOREVER_SECONDS = 1e9


def deadline_in(remaining: float | None, now: float) -> float | None:
    """Returns the deadline `remaining` seconds after `now`, on the same clock; None if there is no deadline."""
    return None if remaining is None or remaining > FOREVER_SECONDS else now + remaining


class EventBatches:
    """The open calls of a receiving thread, and the work that is deferred to the end of its current event batch."""

    def __init__(
        self, observer: Observer, limits: Limits, memory: MemoryBudget, gate: Gate, telemetry: Telemetry | None = None
    ) -> None:
        """`telemetry` is None if there are neither traces nor an access log."""
        self._observer = observer
        self._telemetry = telemetry
        self._gate = gate
        self._limits = limits
        self.memory = memory
        self._thread = 0
        self._gathered: dict[Callable[[Sequence[Any]], None], list[object]] = {}
        self._works: dict[Callable[[], None], None] = {}
        self._began: dict[str, int] = {}
        self._ended: deque[Ended] = deque()
        self._blocking = ThreadPoolExecutor(BLOCKING_THREADS, "blocking")
        self._working = ThreadPoolExecutor(limits.rpc_threads, "rpc")
        self._lists = ListCallQueue()
        self._decompressing = ThreadPoolExecutor(DECOMPRESSING_THREADS, "decompress")
        observer.before_collect(self.report)
        #: Calls that aren't answered yet.
        self.open: set[BatchedCall] = set()
        #: Those of them whose request is still being received. Set by the transport.
        self.receiving: Collection[BatchedCall] = ()
        #: Whether further calls are refused.
        self.stopping = False

    def bind_to_thread(self) -> None:
        """Makes the current thread the receiving thread, and shortens its waits for Python's lock."""
        self._thread = threading.get_ident()
        sys.setswitchinterval(SWITCH_SECONDS)

    def in_thread(self) -> bool:
        """Whether the current thread is the receiving thread."""
        return threading.get_ident() == self._thread

    def begin(self, call: BatchedCall) -> None:
        """Registers a call that arrived, perhaps without its request yet."""
        self._began[call.method] = self._began.get(call.method, 0) + 1
        self.open.add(call)

    def take(self, call: BatchedCall, handler: Handler) -> None:
        """Passes a registered call to its handler.

        Fails it if its caller may not call the method, a limit is exceeded, or the server is stopping.
        """
        try:
            request, limits = call.request, self._limits
            if self._telemetry is not None:
                call.trace = self._telemetry.begin(call.method, call.metadata, call.arrived)
            for key, _ in call.metadata:
                if key in _WITH_TAIL:
                    call.has_tail = True
                    # Once, however often a client repeats it.
                    if key == ASK_TIMES and not isinstance(call.trace, CallTimes):
                        call.trace = CallTimes(call.trace, call.arrived)
            # First, and with nothing of the request looked at.
            self.admit(call)
            if call.deadline is not None and time.monotonic() >= call.deadline:
                raise DeadlinePassedError(LATE)
            if len(request) > limits.max_message_bytes:
                limits.check_size(len(request))  # raises; called for these alone, as each request comes along here
            if self.stopping:
                raise UnavailableError(STOPPING)
            if len(self.open) - len(self.receiving) > limits.max_calls:
                raise BusyError(f"all {limits.max_calls} calls of this server are in use", retry_after=0.1)
            if request.startswith(COMPRESSED):
                short = decompressed_if_short(request)
                if short is None:
                    self._decompressing.submit(call.attempt, partial(self._take_long, call, handler))
                    return
                limits.check_size(len(short))
                call.request = request = short
            if len(request) >= COUNTED_BYTES:
                call.hold(len(request))
            handler(call)
        except Exception as error:
            call.fail(error)

    def admit(self, call: BatchedCall) -> None:
        """Sets the caller of a call. Raises UnauthenticatedError or ForbiddenError if it may not call the method."""
        call.caller = self._gate.trusted or self._gate.admit(call)

    def _take_long(self, call: BatchedCall, handler: Handler) -> None:
        """Decompresses a large request in a pool thread, then calls the handler."""
        if not call.answered:
            call.request = decompressed(call.request, self._limits.max_message_bytes, self.memory)
            call.hold(len(call.request))
            handler(call)

    def finish(self) -> None:
        """Runs the work that the batch's handlers deferred. Metrics are updated after it, to not delay replies."""
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
        self.report()

    def report(self) -> None:
        """Reports the calls that have ended to the observer."""
        ended: list[Ended] = []
        while self._ended:
            try:
                ended.append(self._ended.popleft())
            except IndexError:
                # Another thread took the last ones, and reports them.
                break
        if ended:
            self._observer.calls_ended(ended)

    def after_batch(self, work: Callable[[], None]) -> None:
        """See transport.call.Call."""
        if threading.get_ident() == self._thread:
            self._works[work] = None
        else:
            work()

    def coalesce(self, work: Callable[[Sequence[Any]], None], item: object) -> None:
        """See transport.call.Call."""
        if threading.get_ident() == self._thread:
            self._gathered.setdefault(work, []).append(item)
        else:
            work((item,))

    def in_pool(self, work: Callable[[], None]) -> None:
        """Runs `work` in a pool thread."""
        self._blocking.submit(work)

    def work(self, call: BatchedCall, handler: Handler, *, lists: bool) -> None:
        """Runs a handler that may block in a pool thread; one of `Routes.lists` in its turn."""
        if lists:
            self._lists.submit(call, handler)
        else:
            self._working.submit(call.attempt, partial(handler, call))

    def ended(self, call: BatchedCall, status: str) -> None:
        """Records a call that ended, for the observer and telemetry."""
        seconds = time.monotonic() - call.arrived
        trace = call.trace
        if call.forwarded:
            status, trace = FORWARDED, None
        ended = Ended(call.method, call.model, call.version, status, seconds, "" if trace is None else trace.trace_id)
        if threading.get_ident() == self._thread:
            self._ended.append(ended)
        else:
            self._observer.calls_ended((ended,))
        if self._telemetry is not None and not call.forwarded:
            self._telemetry.ended(call, status, seconds)

    def close(self) -> None:
        """Fails the open calls with UnavailableError, so that clients try another server."""
        for call in tuple(self.open):
            call.fail(UnavailableError(STOPPING))
        for pool in (self._blocking, self._working, self._decompressing):
            pool.shutdown(wait=False, cancel_futures=True)
        self._lists.close()


def _run(work: Callable[..., None], *arguments: object) -> None:
    try:
        work(*arguments)
    except Exception:
        logger.exception("deferred work of an event batch failed")


class BatchedCall:
    """A unary call that occupies no thread while it waits (see transport.call.Call). Transports implement `send*`."""

    __slots__ = (
        "_batches",
        "_equal",
        "_gone",
        "_held",
        "_once",
        "arrived",
        "caller",
        "deadline",
        "forwarded",
        "has_tail",
        "method",
        "model",
        "request",
        "request_id",
        "trace",
        "version",
    )

    #: Set when the call is admitted, and not before.
    caller: Caller
    #: See transport.call.Call.
    stream: OpenStream | None = None

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
        self.trace: Trace | None = None
        self.request_id = ""
        #: See transport.call.Call.
        self.forwarded = False
        #: Whether its metadata asks for trailing metadata.
        self.has_tail = False
        self._gone: Callable[[], None] | None = None
        #: Further calls that get the same answer.
        self._equal: Sequence[BatchedCall] = ()
        #: Bytes of it that count towards the memory budget.
        self._held = 0
        # Acquired by the thread that answers, so that only one does.
        self._once = threading.Lock()

    def send(self, message: bytes) -> None:
        """Sends the reply. Implemented by the transport."""
        raise NotImplementedError

    def send_failure(self, wire: Failure) -> None:
        """Sends an error status. Implemented by the transport."""
        raise NotImplementedError

    def client(self) -> object:
        """See transport.call.Call. Implemented by the transport."""
        raise NotImplementedError

    @property
    def metadata(self) -> Pairs:
        """The client's metadata. Implemented by the transport."""
        raise NotImplementedError

    def certificate_names(self) -> Sequence[str]:
        """See transport.call.Stream. Overridden by transports with TLS."""
        return ()

    def tail(self) -> tuple[tuple[str, str], ...]:
        """Returns the trailing metadata of a successful call: the id that the client sent, and times if it asks."""
        if not self.has_tail:
            return ()
        times = ((TIMES_KEY, self.trace.text()),) if isinstance(self.trace, CallTimes) else ()
        return (*echo(self.metadata), *times)

    @property
    def answered(self) -> bool:
        return self._once.locked()

    def on_gone(self, callback: Callable[[], None]) -> None:
        self._gone = callback
        if self._once.locked():
            self._gone = None
            callback()

    def hold(self, size: int) -> None:
        """Counts `size` bytes towards the memory budget until `drop`. Raises BusyError if the budget is used up."""
        self._batches.memory.take(size)
        self._held += size

    def drop(self) -> None:
        """Returns the call's bytes to the memory budget: its reply has been sent."""
        if self._held:
            held, self._held = self._held, 0
            self._batches.memory.give(held)

    def answer_together(self, handler: Handler, equal: Sequence[BatchedCall]) -> None:
        """Runs a handler for this call and equal ones: once if it answers now, whether or not this one is cancelled."""
        self._equal = equal
        try:
            handler(self)
        except Exception as error:
            self.fail(error)
        self._equal = ()
        for call in equal:
            # Only if it wasn't answered, as the handler waits for something.
            call.attempt(partial(handler, call))

    def answer(self, message: bytes) -> bool:
        for call in self._equal:
            call.answer(message)
        if len(message) >= COUNTED_BYTES and not self._once.locked():
            try:
                self.hold(len(message))
            except BusyError as error:
                self.fail(error)
                return False
        if self._once.acquire(False):
            # Sent before any bookkeeping, for latency.
            self.send(message)
            self._end("OK")
            self._batches.open.discard(self)
            return True
        # The client cancelled meanwhile; the message was counted only above.
        self.drop()
        return False

    def fail(self, error: Exception) -> None:
        for call in self._equal:
            call.fail(error)
        if not self._once.locked():
            self.request_id = id_of(self.metadata)
            trace_id = "" if self.trace is None else self.trace.trace_id
            self.refuse(failure(error, self.method, self.request_id, trace_id))

    def refuse(self, wire: Failure) -> None:
        """Answers with an error that has its wire form."""
        if self._once.acquire(False):
            self._end(wire.code.name)
            self.send_failure(wire)
            self._batches.open.discard(self)

    def set_metric_labels(self, model: str, version: int) -> None:
        self.model, self.version = model, str(version)

    def after_batch(self, work: Callable[[], None]) -> None:
        self._batches.after_batch(work)

    def coalesce(self, work: Callable[[Sequence[Any]], None], item: object) -> None:
        self._batches.coalesce(work, item)

    def in_pool(self, work: Callable[[], None]) -> None:
        self._batches.in_pool(partial(self.attempt, work))

    def attempt(self, work: Callable[[], None]) -> None:
        """Runs `work`, unless the call was answered or cancelled. If it raises, the call fails with that error."""
        if self.answered:
            return
        try:
            work()
        except Exception as error:
            self.fail(error)

    def gone(self) -> None:
        """Called when the client has cancelled or the deadline has passed."""
        if self._once.acquire(False):
            # The client doesn't receive this error; it counts in metrics.
            wire = failure(gone_error(self.deadline), self.method)
            callback = self._gone
            self._end(wire.code.name)
            self.send_failure(wire)
            self._batches.open.discard(self)
            if callback is not None:
                callback()

    def _end(self, status: str) -> None:
        # The callback refers to the queued request, and that to this call: a cycle that only the garbage collector
        # would free.
        self._gone = None
        self._batches.ended(self, status)
