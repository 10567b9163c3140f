"""Serves all calls of a grpcio server from the thread that polls its completion queue.

grpcio passes each call from its polling thread to a pool thread, back, and to the pool thread again. These thread
switches cost several times what a small model does, and each of its streams occupies a thread. Here the polling thread
takes all events that have arrived, runs the handlers of prompt calls as a batch, and passes other unary calls to a pool
and the events of streams to their event loop.

This uses private names of grpcio, whose range the extra `server` limits: tests pass with 1.74.0 and 1.85.3. grpc.aio,
the public way without pool threads, answered 0.4, 0.4 and 0.3 times as many requests of 1, 16 and 64 callers of an echo
service, for 2.5 to 6.7 times the processor time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
from grpc import _server
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from layerserve_server.access.gate import Pairs
from layerserve_server.errors import BusyError, IdleStreamError, UnknownMethodError
from layerserve_server.transport.call import UNKNOWN_METHOD, Call, Handler, Routes, StreamHandler
from layerserve_server.transport.certificates import names_in
from layerserve_server.transport.client_address import endpoint, host_of
from layerserve_server.transport.event_batch import BatchedCall, EventBatches, deadline_in
from layerserve_server.transport.perimeter.connections import Connections, Traffic
from layerserve_server.transport.perimeter.limits import BATCH_CALLS, Limits
from layerserve_server.transport.perimeter.memory import RETRY_SECONDS
from layerserve_server.transport.request_ids import echo
from layerserve_server.transport.status import Failure
from layerserve_server.transport.streams import ServerStream, Streams

logger = logging.getLogger(__name__)

#: Names used from grpcio's server module.
INTERNALS = ("_REQUEST_CALL_TAG", "_ServerStage", "_process_event_and_continue", "_request_call", "_stop_serving")
#: Attributes used of a server's state.
STATE = ("completion_queue", "due", "lock", "rpc_states", "server", "stage")
#: Maximum time that a poll waits for an event, and time between two checks for stalled calls, in seconds.
IDLE_SECONDS = 1.0
#: Number of calls that the core can pass on without a new request for a call. With one, each call waits for the request
#: that follows the call before; with 32, calls arrive in smaller batches.
REQUESTED_CALLS = 4
#: Clients cancel a call when its deadline passes, up to this long before it passes on the server, in seconds.
DEADLINE_SLACK_SECONDS = 0.1
#: Time that a reply may stay unsent while messages occupy more than half of the memory budget, in seconds.
PRESSED_SECONDS = 1.0


class UnsupportedGrpcioError(ValueError):
    """The installed release of grpcio lacks private names that `Poller` uses."""


class Poller:
    """Polls the completion queue of a grpcio server in one thread, and dispatches its events."""

    def __init__(
        self,
        server: grpc.Server,
        routes: Routes,
        batches: EventBatches,
        streams: Streams,
        connections: Connections,
        limits: Limits,
        fallback: StreamHandler | None = None,
        read_metadata: Callable[[Any], Pairs] = tuple,
    ) -> None:
        """`fallback` handles methods that aren't in `routes`; without it they end with UNIMPLEMENTED.

        `read_metadata` returns what counts of a call's metadata.

        Raises UnsupportedGrpcioError if grpcio lacks one of the private names.
        """
        state: Any = getattr(server, "_state", None)
        self._state = state
        missing = [name for name in INTERNALS if not hasattr(_server, name)]
        missing += [name for name in STATE if not hasattr(state, name)]
        if missing:
            raise UnsupportedGrpcioError(
                f"grpcio {grpc.__version__} isn't supported, as it has no {', '.join(missing)}; "
                "install a release that the extra 'server' allows: pip install '.[server]' in the repository's folder"
            )
        self.batches = batches
        self.streams = streams
        self.connections = connections
        self.lock = state.lock
        self._fallback = fallback
        self.read_metadata = read_metadata
        self._limits = limits
        #: Number of requests for calls that the core has, whose events have the tag `_REQUEST_CALL_TAG`.
        self._requested = REQUESTED_CALLS
        self._unary: dict[bytes, tuple[str, Handler]] = {}
        for method, handler in routes.unary.items():
            run = handler if method in routes.prompt else partial(self._work, handler, method in routes.lists)
            self._unary[method.encode()] = method, run
        self._streaming = {method.encode(): (method, handler) for method, handler in routes.streams.items()}
        #: Arrival times of calls whose request is still being received; and, of replies that are still being sent, the
        #: time at which sending began, in seconds, and the size in bytes.
        self.receiving: dict[PolledCall, float] = {}
        self.sending: dict[PolledCall, tuple[float, int]] = {}
        batches.receiving = self.receiving.keys()

    def start(self) -> None:
        """Starts the server as grpcio's own `start` does, with this poller's thread in place of grpcio's."""
        with self._state.lock:
            self._state.server.start()
            self._state.stage = _server._ServerStage.STARTED
            for _ in range(REQUESTED_CALLS):
                _server._request_call(self._state)
        threading.Thread(target=self._serve, name="grpcio", daemon=True).start()

    def _serve(self) -> None:
        self.batches.bind_to_thread()
        poll, nothing = self._state.completion_queue.poll, cygrpc.CompletionType.queue_timeout
        going_on, checked = True, time.monotonic()
        while going_on:
            event = poll(time.time() + IDLE_SECONDS)
            taken = 0
            while going_on and event.completion_type != nothing:
                try:
                    going_on = self._take(event)
                except Exception:
                    # A bug, or a call that the core has given up. Other calls must not suffer.
                    logger.exception("failed to process a grpcio event")
                taken += 1
                # Released before the next poll: a reference to a call that was shut down would keep the queue busy.
                event = None
                if not going_on or taken >= 3 * BATCH_CALLS:
                    break
                event = poll(0)
            self.batches.finish()
            if time.monotonic() - checked >= IDLE_SECONDS:
                checked = time.monotonic()
                self._end_stalled(checked)

    def receive(self, call: PolledCall) -> None:
        """Registers a call whose request is still to be received.

        If more than `max_calls` are pending, the oldest is refused, so that clients that send no requests don't block
        those that do.
        """
        self.receiving[call] = call.arrived
        if len(self.receiving) > self._limits.max_calls:
            oldest = next(iter(self.receiving))
            oldest.fail(BusyError("too many calls are waiting for their request messages", retry_after=RETRY_SECONDS))

    def traffic(self, peer: str) -> Traffic:
        """Returns the counts that messages of a peer belong to."""
        return self.connections.unattributed if peer.startswith("unix:") else self.connections.of(peer)

    def count_reset(self, peer: str, deadline: float | None) -> None:
        """Counts a call that its client cancelled, unless the deadline was about to pass: that is no misbehaviour."""
        if deadline is None or deadline - time.monotonic() > DEADLINE_SLACK_SECONDS:
            self.connections.count_reset(self.connections.of(peer))

    def relieve(self, where: tuple[str, int]) -> bool:
        """Refuses the calls of a connection whose requests are still being received. Returns whether there were any."""
        calls = [call for call in self.receiving.copy() if endpoint(call.peer) == where]
        for call in calls:
            call.fail(BusyError("incomplete messages occupy the whole memory budget", retry_after=RETRY_SECONDS))
        return bool(calls)

    def _end_stalled(self, now: float) -> None:
        """Ends calls whose clients send no request or don't read the reply: they occupy memory."""
        limits, memory = self._limits, self.batches.memory
        pressed = memory.held > memory.limit / 2
        for call, (since, size) in self.sending.copy().items():
            patience = min(PRESSED_SECONDS, limits.stalled_seconds) if pressed else limits.patience(size)
            if now - since > patience:
                call.cancel()
        for call, since in self.receiving.copy().items():
            if now - since > limits.stream_idle_seconds:
                call.fail(IdleStreamError(f"no request message received within {limits.stream_idle_seconds:g} seconds"))

    def _work(self, handler: Handler, lists: bool, call: Call) -> None:
        assert isinstance(call, PolledCall)
        self.batches.work(call, handler, lists=lists)

    def _take(self, event: Any) -> bool:
        """Processes an event. Returns False after the last one."""
        tag = event.tag
        # Only the tags of calls can be called; the others are grpcio's own.
        if callable(tag):
            ended = tag(event)
            return ended is None or self._forget(ended)
        if tag is _server._REQUEST_CALL_TAG:
            if event.success:
                self._begin(event)
                return True
            if self._state.stage is not _server._ServerStage.STARTED:
                self._requested -= 1
                if self._requested:
                    # grpcio's own code expects one such event when a server stops.
                    return True
        return bool(_server._process_event_and_continue(self._state, event))

    def _forget(self, call: Operations) -> bool:
        """Removes a call that has ended. Returns False after the last one of a server that stops."""
        with self._state.lock:
            self._state.rpc_states.remove(call)
            return not _server._stop_serving(self._state)

    def _begin(self, event: Any) -> None:
        state = self._state
        with state.lock:
            # First, so that a failure below doesn't reduce the number of calls that can arrive.
            if state.stage is _server._ServerStage.STARTED:
                state.server.request_call(state.completion_queue, state.completion_queue, event.tag)
            else:
                self._requested -= 1
                if not self._requested:
                    state.due.discard(event.tag)
            peer = event.call.peer().decode()
            call = self._call_of(event, peer)
            # grpcio doesn't stop the server before these have ended.
            state.rpc_states.add(call)
            call.start()

    def _call_of(self, event: Any, peer: str) -> PolledCall | PolledStream:
        name = event.call_details.method
        found = self._unary.get(name)
        if found is not None:
            return PolledCall(self, event, peer, *found)
        unknown = name.decode("utf-8", "replace")
        method, handler = self._streaming.get(name) or (unknown, self._fallback)
        if handler is None:
            return PolledCall(self, event, peer, UNKNOWN_METHOD, partial(_unknown, unknown))
        stream = PolledStream(self, event, peer, method, handler)
        stream.counted = handler is not self._fallback
        return stream


def _deadline(event: Any, now: float) -> float | None:
    # Without a deadline grpcio gives the end of its clock, centuries from now.
    return deadline_in(event.call_details.deadline - time.time(), now)


def _unknown(method: str, call: Call) -> None:
    raise UnknownMethodError(f"method '{method}' doesn't exist on this server")


class Operations:
    """Operations of grpcio's core, whose events the poller receives. Base of calls and streams.

    The tag of an operation is the method that takes its event. It returns the call after its last event, else None.
    """

    # Subclasses declare the slots.
    __slots__ = tuple[str, ...]()

    if TYPE_CHECKING:
        _poller: Poller
        _core: Any
        #: Number of operations started, and of their events processed.
        _started: int
        _finished: int
        _cancelled: bool

    def begin(self, operations: tuple[Any, ...], tag: Callable[[Any], Operations | None]) -> bool:
        """Starts operations; `tag` is called with their event. Returns False, and starts none, after a cancellation."""
        with self._poller.lock:
            # The core may have released a cancelled call.
            if self._cancelled:
                return False
            # Counted before it starts: its event may arrive at once, and is processed without the lock.
            self._started += 1
            try:
                self._core.start_server_batch(operations, tag)
            except BaseException:
                self._started -= 1
                raise
            return True

    def end_event(self, event: Any = None) -> Operations | None:
        """Accounts for an event. Also a tag itself, for operations without a result."""
        self._finished += 1
        if self._finished != self._started:
            return None
        self.over()
        return self

    def over(self) -> None:
        """Called after the last event."""

    def cancel(self) -> None:
        """Ends the call, whatever operations are pending."""
        self._core.cancel(cygrpc.StatusCode.unavailable, "the client read no data for too long")


class PolledCall(BatchedCall, Operations):
    """A unary call in grpcio's core."""

    __slots__ = ("_cancelled", "_core", "_finished", "_handler", "_poller", "_started", "metadata", "peer")

    def __init__(self, poller: Poller, event: Any, peer: str, method: str, handler: Handler) -> None:
        """`peer` is the client's address, as gRPC writes it."""
        now = time.monotonic()
        super().__init__(poller.batches, method, b"", now, _deadline(event, now))
        self._poller = poller
        self._core = event.call
        self._handler = handler
        self._started = self._finished = 0
        self._cancelled = False
        self.peer = peer
        self.metadata: Pairs = poller.read_metadata(event.invocation_metadata)

    def start(self) -> None:
        """Starts to receive the request, and the event of the call's end."""
        poller = self._poller
        self._batches.begin(self)
        poller.receive(self)
        self._core.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(0),), self._closed)
        self._core.start_server_batch((cygrpc.ReceiveMessageOperation(0),), self._received)
        self._started = 2

    def client(self) -> object:
        return self.peer

    def certificate_names(self) -> Sequence[str]:
        return names_in(cygrpc.auth_context(self._core))

    def send(self, message: bytes) -> None:
        operations = (
            cygrpc.SendInitialMetadataOperation((), 0),
            cygrpc.SendMessageOperation(message, 0),
            cygrpc.SendStatusFromServerOperation(self.tail(), cygrpc.StatusCode.ok, b"", 0),
        )
        self._poller.sending[self] = time.monotonic(), len(message)
        if not self.begin(operations, self.end_event):
            self.over()

    def send_failure(self, wire: Failure) -> None:
        self._poller.receiving.pop(self, None)
        code, text = wire.code.value[0], wire.text.encode()
        operations = (
            cygrpc.SendInitialMetadataOperation((), 0),
            cygrpc.SendStatusFromServerOperation(wire.metadata, code, text, 0),
        )
        if not self.begin(operations, self.end_event):
            self.over()

    def over(self) -> None:
        self._poller.sending.pop(self, None)
        if self._held:
            self.drop()

    # Events.

    def _received(self, event: Any) -> Operations | None:
        poller = self._poller
        poller.receiving.pop(self, None)
        request = event.batch_operations[0].message()
        if request is not None:
            poller.traffic(self.peer).count(len(request))
            self.request = request
            self._batches.take(self, self._handler)
        else:
            # Too large, which the core reports itself; or the client sent none; or it cancelled.
            self.fail(UnknownMethodError(f"method '{self.method}' takes exactly one request message"))
        return self.end_event()

    def _closed(self, event: Any) -> Operations | None:
        if event.batch_operations[0].cancelled():
            with self._poller.lock:
                self._cancelled = True
            self._poller.receiving.pop(self, None)
            self._poller.count_reset(self.peer, self.deadline)
            self.gone()
        return self.end_event()


class PolledStream(Operations, ServerStream):
    """A stream in grpcio's core. The poller passes its events on to the event loop."""

    def __init__(self, poller: Poller, event: Any, peer: str, method: str, handler: StreamHandler) -> None:
        metadata = poller.read_metadata(event.invocation_metadata)
        self._client = peer
        super().__init__(
            poller.streams,
            method,
            host_of(self._client, metadata),
            _deadline(event, time.monotonic()),
            metadata,
        )
        self._poller = poller
        self._core = event.call
        self._handler = handler
        self._started = self._finished = 0
        self._cancelled = False
        self._begun = False

    def start(self) -> None:
        """Starts to receive the event of the stream's end, and starts the handler."""
        self.begin((cygrpc.ReceiveCloseOnServerOperation(0),), self._closed)
        self._streams.serve(self, self._handler)

    def client(self) -> object:
        return self._client

    def certificate_names(self) -> Sequence[str]:
        return names_in(cygrpc.auth_context(self._core))

    # Called in the event loop.

    def receive_one(self) -> None:
        self.begin((cygrpc.ReceiveMessageOperation(0),), self._message_received)

    def send_one(self, message: bytes) -> None:
        head = () if self._begun else (cygrpc.SendInitialMetadataOperation((), 0),)
        self._begun = True
        self.begin((*head, cygrpc.SendMessageOperation(message, 0)), self._message_sent)

    def end(self, wire: Failure | None) -> None:
        code, text = (cygrpc.StatusCode.ok, b"") if wire is None else (wire.code.value[0], wire.text.encode())
        head = () if self._begun else (cygrpc.SendInitialMetadataOperation((), 0),)
        metadata = echo(self.metadata) if wire is None else wire.metadata
        self.begin((*head, cygrpc.SendStatusFromServerOperation(metadata, code, text, 0)), self.end_event)

    # Events.

    def _message_received(self, event: Any) -> Operations | None:
        message = event.batch_operations[0].message()
        if message is not None:
            self._poller.traffic(self._client).count(len(message))
        self._streams.post(partial(self.received, message))
        return self.end_event()

    def _message_sent(self, event: Any) -> Operations | None:
        self._streams.post(self.sent)
        return self.end_event()

    def _closed(self, event: Any) -> Operations | None:
        if event.batch_operations[0].cancelled():
            with self._poller.lock:
                self._cancelled = True
            self._poller.count_reset(self._client, self.deadline)
            self.left = True
            self._streams.post(self.gone)
        return self.end_event()
