"""The fast transport: HTTP/2 outside of the GIL, and one Python thread that takes calls in bursts.

pygrpc-native's front carries the prompt unary methods. All else (streams, health, reflection, methods that may read a
disk) goes through it to a grpcio server on a Unix socket, so that one port answers everything. What came together is
handed to the handlers in one go, and what they left to do is done once for all of it: a burst is a batch.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from layerserve.errors import OWN_PUSHBACK_KEY, PUSHBACK_KEY

from layerserve_server.errors import (
    BusyError,
    CallCancelledError,
    DeadlinePassedError,
    TooLargeError,
    UnavailableError,
)
from layerserve_server.transport.call import Handler, Observer, Routes
from layerserve_server.transport.grpcio import FOREVER_SECONDS, GONE, LATE, GrpcioServer, Limits, address
from layerserve_server.transport.status import failure

logger = logging.getLogger(__name__)

#: Calls taken at once. More would let the first of them wait for the parsing of the last.
MAX_BURST = 256
#: Threads for calls that have to wait for something, such as a version that is read from disk.
BLOCKING_THREADS = 8
#: Time between two looks whether all calls have ended, while stopping, in seconds.
LOOK_SECONDS = 0.01


class NativeUnavailableError(ValueError):
    """The native transport can't run here, or can't do what is asked. The text says why."""


class NativeServer:
    """Serves routes, health and reflection on one port (see GrpcioServer)."""

    def __init__(
        self,
        routes: Routes,
        observer: Observer,
        limits: Limits,
        *,
        host: str,
        port: int,
        reflect: bool = True,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        """Raises OSError for a port that is taken, NativeUnavailableError."""
        native = _load_extension()
        if certificate is not None:
            raise NativeUnavailableError("transport 'native' has no TLS: take 'grpcio', or end TLS in front of it")
        self._event_call: int = native.EVENT_CALL
        self._observer = observer
        self._limits = limits
        self._methods = sorted(routes.prompt)
        self._handlers: list[Handler] = [routes.unary[method] for method in self._methods]
        self._calls: dict[int, NativeCall] = {}
        self._stopping = False
        self._burst: dict[Callable[[], None], None] = {}
        self._blocking = ThreadPoolExecutor(BLOCKING_THREADS, "blocking")
        try:
            self._front = native.NativeGrpcFront(
                address(host, port),
                [(method, False) for method in self._methods],
                # One thread outside of the GIL carries what a Python thread takes; on few cores two only compete.
                io_threads=1 if (os.cpu_count() or 1) <= 4 else 2,
                call_details=True,
                max_concurrent_streams=limits.max_calls,
            )
        except OSError as error:
            raise OSError(f"can't listen on {address(host, port)}: is the port taken?") from error
        self.port: int = self._front.bound_port
        self._folder = Path(tempfile.mkdtemp(prefix="layerserve-"))
        socket = self._folder / "grpcio.sock"
        self._behind = GrpcioServer(routes, observer, limits, host=f"unix:{socket}", port=0, reflect=reflect)
        self._front.set_fallback(str(socket))
        self._thread = threading.Thread(target=self._serve, name="native", daemon=True)

    def start(self) -> None:
        """Starts to take calls. Health stays NOT_SERVING until `set_serving`."""
        self._behind.start()
        self._front.start()
        self._thread.start()

    def set_serving(self, serving: bool) -> None:
        """Sets what health says, for each service and overall."""
        self._behind.set_serving(serving)

    def stop(self, grace: float) -> None:
        """Takes no more calls, ends the streams, and gives calls under way `grace` seconds to finish."""
        end = time.monotonic() + grace
        self._stopping = True
        self._behind.stop(grace)
        while self._calls and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
        self._front.close()
        if self._thread.is_alive():
            self._thread.join()
        for call in list(self._calls.values()):
            call.gone()
        self._blocking.shutdown(wait=False, cancel_futures=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _serve(self) -> None:
        while (events := self._front.recv_batch_details(MAX_BURST)) is not None:
            for event in events:
                try:
                    self._take(*event)
                except Exception:
                    logger.exception("an event of the native front")
            if self._burst:
                works, self._burst = self._burst, {}
                for work in works:
                    try:
                        work()
                    except Exception:
                        logger.exception("work for a burst of calls")

    def _take(
        self, kind: int, id: int, number: int, request: bytes | None, _: object, details: Sequence[Any] | None
    ) -> None:
        if kind != self._event_call or request is None:
            call = self._calls.get(id)
            if call is not None:
                call.gone()
            return
        remaining = details[2] if details is not None else None
        call = NativeCall(self, self._methods[number], id, request, remaining)
        self._observer.call_began(call.method)
        self._calls[id] = call
        try:
            self._check(request)
            self._handlers[number](call)
        except Exception as error:
            call.fail(error)

    def _check(self, request: bytes) -> None:
        if len(request) > self._limits.max_message_bytes:
            raise TooLargeError(f"got {len(request)} bytes, expected at most {self._limits.max_message_bytes}")
        if self._stopping:
            raise UnavailableError("the server is stopping")
        if len(self._calls) > self._limits.max_calls:
            raise BusyError(f"all {self._limits.max_calls} calls of this server are in use", retry_after=0.1)

    # ---- for the calls

    def _afterwards(self, work: Callable[[], None]) -> None:
        if threading.current_thread() is self._thread:
            self._burst[work] = None
        else:
            work()

    def _end(self, call: NativeCall, status: str) -> bool:
        """Whether the call is still to be answered: true once."""
        if self._calls.pop(call.id, None) is None:
            return False
        seconds = time.perf_counter() - call.began
        self._observer.call_ended(call.method, call.model, call.version, status, seconds)
        return True


class NativeCall:
    """A unary call for which no thread waits (see transport.call.Call)."""

    __slots__ = ("_gone", "_server", "began", "deadline", "id", "method", "model", "request", "version")

    lend = None

    def __init__(self, server: NativeServer, method: str, id: int, request: bytes, remaining: float | None) -> None:
        self._server = server
        self.method = method
        self.id = id
        self.request = request
        self.model = ""
        self.version = ""
        self.began = time.perf_counter()
        self.deadline = None if remaining is None or remaining > FOREVER_SECONDS else time.monotonic() + remaining
        self._gone: Callable[[], None] | None = None

    def on_gone(self, callback: Callable[[], None]) -> None:
        self._gone = callback
        if self.id not in self._server._calls:
            callback()

    def reply(self, encode: Callable[[], bytes]) -> None:
        try:
            message = encode()
        except Exception as error:
            self.fail(error)
            return
        if self._server._end(self, "OK"):
            self._server._front.respond(self.id, message)

    def fail(self, error: Exception) -> None:
        if self.id not in self._server._calls:
            return
        wire = failure(error, self.method)
        if self._server._end(self, wire.code.name):
            # The front keeps gRPC's own key for itself; the client looks for ours as well.
            metadata = [(OWN_PUSHBACK_KEY if key == PUSHBACK_KEY else key, value) for key, value in wire.metadata]
            self._server._front.fail(self.id, wire.code.value[0], wire.text, trailing_metadata=metadata)

    def about(self, model: str, version: int) -> None:
        self.model, self.version = model, str(version)

    def afterwards(self, work: Callable[[], None]) -> None:
        self._server._afterwards(work)

    def may_block(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except Exception as error:
                self.fail(error)

        self._server._blocking.submit(run)

    def gone(self) -> None:
        """The caller has cancelled, or its deadline has passed; the front tells it so by itself."""
        late = self.deadline is not None and time.monotonic() >= self.deadline
        self.fail(DeadlinePassedError(LATE) if late else CallCancelledError(GONE))
        if self._gone is not None:
            self._gone()


def _load_extension() -> Any:
    try:
        import pygrpc_native
    except ImportError as error:
        raise NativeUnavailableError(
            "transport 'native' needs the package pygrpc-native: pip install 'layerserve[fast]'"
        ) from error
    return pygrpc_native
