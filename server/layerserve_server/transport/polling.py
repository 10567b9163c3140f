"""Prompt calls of a grpcio server, taken in the very thread that polls its completion queue.

grpcio hands each call from its polling thread to a pooled one, back, and again to the pooled one: switches of threads
that cost several times what a small model does. Here the polling thread reads all that has arrived, hands the prompt
calls to their handlers as a burst, and leaves everything else to grpcio. This takes names that grpcio doesn't publish
(the same from 1.74 to 1.85 at least); where they are missing, the server goes grpcio's own way.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Mapping
from typing import Any

import grpc

from layerserve_server.transport.burst import MAX_BURST, BurstCall, Bursts
from layerserve_server.transport.call import Handler
from layerserve_server.transport.status import Failure

#: What is taken from grpcio's server module.
INTERNALS = ("_REQUEST_CALL_TAG", "_ServerStage", "_process_event_and_continue", "_request_call")
#: What is taken from a server's state.
STATE = ("completion_queue", "due", "lock", "rpc_states", "server", "stage")
#: Time between two looks at nothing, in seconds.
IDLE_SECONDS = 1.0
#: More than any caller means by a deadline, in seconds.
FOREVER_SECONDS = 1e9


class OtherInternalsError(Exception):
    """This release of grpcio isn't made as those that are known."""


class Poller:
    """The thread that polls for a grpcio server, and answers its prompt calls."""

    def __init__(self, server: grpc.Server, handlers: Mapping[str, Handler], bursts: Bursts) -> None:
        """Raises OtherInternalsError."""
        try:
            self._grpcio: Any = importlib.import_module("grpc._server")
            self.core: Any = importlib.import_module("grpc._cython.cygrpc")
        except ImportError as error:
            raise OtherInternalsError(str(error)) from error
        state: Any = getattr(server, "_state", None)
        self._state = state
        missing = [name for name in INTERNALS if not hasattr(self._grpcio, name)]
        missing += [name for name in STATE if not hasattr(state, name)]
        if missing:
            raise OtherInternalsError(f"grpcio {grpc.__version__} has no {', '.join(missing)}")
        self._handlers = {method.encode(): (method, handler) for method, handler in handlers.items()}
        self.bursts = bursts
        self.lock = state.lock

    def start(self) -> None:
        """Starts the server, as grpcio's own `start`, with this thread in place of grpcio's."""
        with self._state.lock:
            self._state.server.start()
            self._state.stage = self._grpcio._ServerStage.STARTED
            self._grpcio._request_call(self._state)
        threading.Thread(target=self._serve, name="grpcio", daemon=True).start()

    def _serve(self) -> None:
        self.bursts.here()
        poll, nothing = self._state.completion_queue.poll, self.core.CompletionType.queue_timeout
        going_on = True
        while going_on:
            event = poll(time.time() + IDLE_SECONDS)
            taken = 0
            while going_on and event.completion_type != nothing:
                going_on = self._take(event)
                taken += 1
                # Released before the next poll: one that holds a call that is shut down would keep the queue busy.
                event = None
                if not going_on or taken >= 3 * MAX_BURST:
                    break
                event = poll(0)
            self.bursts.finish()

    def _take(self, event: Any) -> bool:
        """Deals with one event; gives False after the last."""
        if event.tag is self._grpcio._REQUEST_CALL_TAG and event.success:
            found = self._handlers.get(event.call_details.method)
            if found is not None:
                self._begin(event, *found)
                return True
        # Tags of prompt calls are made as grpcio's own, so it deals with them as well.
        return bool(self._grpcio._process_event_and_continue(self._state, event))

    def _begin(self, event: Any, method: str, handler: Handler) -> None:
        call = PolledCall(self, event, method, handler)
        with self._state.lock:
            # The server isn't stopped before these have ended.
            self._state.rpc_states.add(call)
            self._state.due.discard(event.tag)
            if self._state.stage is self._grpcio._ServerStage.STARTED:
                self._grpcio._request_call(self._state)
        call.start()


class PolledCall(BurstCall):
    """A unary call in grpcio's core, whose events come to the poller."""

    __slots__ = ("_cancelled", "_core", "_due", "_handler", "_poller")

    def __init__(self, poller: Poller, event: Any, method: str, handler: Handler) -> None:
        now, remaining = time.monotonic(), event.call_details.deadline - time.time()
        # Without a deadline grpcio gives the centuries left until the end of its clock.
        super().__init__(poller.bursts, method, b"", now, None if remaining > FOREVER_SECONDS else now + remaining)
        self._poller = poller
        self._core = event.call
        self._handler = handler
        #: Events to come.
        self._due = 0
        self._cancelled = False

    def start(self) -> None:
        """Asks for the request, and to be told of the end."""
        core = self._poller.core
        self._bursts.begin(self)
        self._begin((core.ReceiveCloseOnServerOperation(0),), self._closed)
        self._begin((core.ReceiveMessageOperation(0),), self._received)

    def client(self) -> object:
        return self._core.peer()

    def send(self, message: bytes) -> None:
        core = self._poller.core
        self._begin(
            (
                core.SendInitialMetadataOperation((), 0),
                core.SendMessageOperation(message, 0),
                core.SendStatusFromServerOperation((), core.StatusCode.ok, b"", 0),
            ),
            self._sent,
        )

    def send_failure(self, wire: Failure) -> None:
        core = self._poller.core
        code, text = wire.code.value[0], wire.text.encode()
        self._begin(
            (
                core.SendInitialMetadataOperation((), 0),
                core.SendStatusFromServerOperation(wire.metadata, code, text, 0),
            ),
            self._sent,
        )

    # ---- events: each gives what grpcio expects of a tag, the call once it has ended, and callbacks

    def _received(self, event: Any) -> tuple[PolledCall | None, tuple[()]]:
        request = event.batch_operations[0].message()
        if request is not None:
            self.request = request
            self._bursts.take(self, self._handler)
        else:
            # The core refused it as too large, which it says itself, or the caller sent none, or has gone.
            text = f'"{self.method}" requires exactly one request message.'
            self.refuse(Failure(grpc.StatusCode.UNIMPLEMENTED, text, ()))
        return self._end_event()

    def _closed(self, event: Any) -> tuple[PolledCall | None, tuple[()]]:
        if event.batch_operations[0].cancelled():
            with self._poller.lock:
                self._cancelled = True
            self.gone()
        return self._end_event()

    def _sent(self, event: Any) -> tuple[PolledCall | None, tuple[()]]:
        return self._end_event()

    def _begin(self, operations: tuple[Any, ...], tag: Any) -> None:
        with self._poller.lock:
            # Whoever is gone hears nothing, and the core may be as well.
            if not self._cancelled:
                self._due += 1
                self._core.start_server_batch(operations, tag)

    def _end_event(self) -> tuple[PolledCall | None, tuple[()]]:
        with self._poller.lock:
            self._due -= 1
            return (self if self._due == 0 else None), ()
