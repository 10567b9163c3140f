"""The fast transport: HTTP/2 outside the GIL, and one Python thread that receives calls in batches.

pygrpc-native's front serves the prompt unary methods. It forwards all others (streams, health, reflection, methods that
may read from disk) to a grpcio server on a Unix socket, so that one port serves everything. Calls that arrived together
are dispatched as one event batch (see `event_batch`).
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from layerserve.errors import OWN_PUSHBACK_KEY, PUSHBACK_KEY

from layerserve_server.access.gate import Gate, Pairs
from layerserve_server.errors import MessageTooLargeError
from layerserve_server.transport.call import Handler, Observer, Routes, Telemetry
from layerserve_server.transport.certificates import Certificates
from layerserve_server.transport.event_batch import BatchedCall, EventBatches, deadline_in
from layerserve_server.transport.grpcio import Front, GrpcioServer, SharedPort, milliseconds
from layerserve_server.transport.perimeter.connections import Traffic
from layerserve_server.transport.perimeter.limits import BATCH_CALLS, METADATA_BYTES, Limits
from layerserve_server.transport.ports import address, claim
from layerserve_server.transport.shutdown import Shutdown
from layerserve_server.transport.status import Failure

logger = logging.getLogger(__name__)

#: Time that the receiving thread polls for the next call after a single one before it sleeps, in seconds: a client that
#: sends one request after another doesn't wait for a core to wake up.
BUSY_SECONDS = 150e-6
#: Maximum length of the path of the folder for temporary files, in bytes: that of a socket in it has at most 107.
MAX_FOLDER_BYTES = 74
#: Name of the front's threads, as Linux has it.
FRONT_THREAD = "grpc-native-io"
#: The front has passed on all replies when its threads have slept for this time, in seconds; and the maximum time to
#: wait for that, as clients may go on calling.
QUIET_SECONDS = 0.1
PASS_ON_SECONDS = 2.0
#: Time after the grace period for the port's owner to end the calls that this process has forwarded, in seconds.
OWNER_SECONDS = 10.0


class NativeUnavailableError(ValueError):
    """The native transport isn't installed, or doesn't support a setting. The text gives the reason."""


class NativeServer:
    """Serves routes and health on one port (see GrpcioServer)."""

    def __init__(
        self,
        routes: Routes,
        observer: Observer,
        limits: Limits,
        *,
        gate: Gate,
        host: str,
        port: int,
        certificates: Certificates | None = None,
        shared: SharedPort | None = None,
        models: Callable[[str], bool | None] = lambda name: None,
        telemetry: Telemetry | None = None,
    ) -> None:
        """Raises OSError if the port is taken.

        Raises NativeUnavailableError if the package is missing, or TLS or a maximum age of connections is requested.
        """
        native = _load_extension()
        if certificates is not None:
            raise NativeUnavailableError(
                "transport 'native' doesn't support TLS: use 'grpcio', or terminate TLS in a proxy"
            )
        if limits.max_connection_age_seconds:
            raise NativeUnavailableError(
                "transport 'native' doesn't support max_connection_age_seconds: use 'grpcio', or set it in a proxy"
            )
        temporary = tempfile.gettempdir()
        if shared is None and len(os.fsencode(temporary)) > MAX_FOLDER_BYTES:
            raise NativeUnavailableError(
                f"transport 'native': can't make a socket in {temporary}, whose path is too long: expected at most "
                f"{MAX_FOLDER_BYTES} bytes; set TMPDIR to another folder"
            )
        self._event_call: int = native.EVENT_CALL
        self._shutdown = Shutdown()
        front = Front.of(limits)
        self._connections, self.memory = front
        gate.require_rights(routes.prompt)
        self._batches = EventBatches(observer, limits, self.memory, gate, telemetry)
        self._methods = sorted(routes.prompt)
        self._handlers: list[Handler] = [routes.unary[method] for method in self._methods]
        #: Open calls by the front's number.
        self._calls: dict[int, NativeCall] = {}
        if shared is not None and shared.owner:
            claim(host, port)
        try:
            self._front = native.NativeGrpcFront(
                address(host, port),
                [(method, False) for method in self._methods],
                # One thread outside the GIL is enough for one Python thread; on few cores two would only compete.
                io_threads=1 if (os.cpu_count() or 1) <= 4 else 2,
                call_details=True,
                max_concurrent_streams=limits.max_connection_calls,
                keepalive_time_ms=milliseconds(limits.keepalive_seconds),
                keepalive_timeout_ms=milliseconds(limits.keepalive_timeout_seconds),
                # The front refuses larger metadata with an HTTP status, which clients see as UNKNOWN.
                max_metadata_size=4 * METADATA_BYTES,
                reuse_port=shared is not None,
            )
        except OSError as error:
            raise OSError(f"can't listen on {address(host, port)}: is the port taken?") from error
        self.port: int = self._front.bound_port
        self._folder = Path(tempfile.mkdtemp(prefix="layerserve-"))
        socket = shared.socket if shared is not None else self._folder / "grpcio.sock"
        self._behind: GrpcioServer | None = None
        if shared is None or shared.owner:
            self._behind = GrpcioServer(
                routes,
                observer,
                limits,
                host=f"unix:{socket}",
                port=0,
                front=front,
                gate=gate,
                models=models,
                telemetry=telemetry,
            )
        #: Full names of all methods of this process, sorted.
        self.methods = sorted(routes.unary if self._behind is None else self._behind.methods)
        self._front.set_fallback(str(socket))
        self._owner_ended = shared.ended if shared is not None and not shared.owner else None
        self._has_cores = (os.cpu_count() or 1) > 1
        self._thread = threading.Thread(target=self._serve, name="native", daemon=True)

    def start(self) -> None:
        """Starts to receive calls. Health stays NOT_SERVING until `set_serving`."""
        if self._behind is not None:
            self._behind.start()
        self._front.start()
        self._thread.start()
        self._connections.start(self.port)

    def set_serving(self, serving: bool) -> None:
        """Sets the health status of every service and of the whole server."""
        if self._behind is not None:
            self._behind.set_serving(serving)

    def models_changed(self) -> None:
        """See GrpcioServer.models_changed."""
        if self._behind is not None:
            self._behind.models_changed()

    def stop(self, grace: float) -> None:
        """See GrpcioServer.stop."""
        self._shutdown.run(grace, self._end)

    def _end(self) -> None:
        self._batches.stopping = True
        if self._behind is not None:
            self._behind.refuse()
        self._shutdown.wait(lambda: not self._batches.open and not (self._behind and self._behind.busy()))
        self._batches.close()
        if self._behind is not None:
            self._behind.stop(0)
        if self._owner_ended is not None:
            # Forwarded calls are known to the owner only.
            self._shutdown.wait(self._owner_ended.is_set, OWNER_SECONDS)
        _wait_until_quiet()
        self._connections.stop()
        self._front.close()
        if self._thread.is_alive():
            self._thread.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _serve(self) -> None:
        self._batches.bind_to_thread()
        arrived: int | None = 0
        while arrived is not None:
            arrived = self._serve_batch(busily=arrived == 1)

    def _serve_batch(self, *, busily: bool) -> int | None:
        """Waits for events and processes them. Returns their number, or None after the front is closed.

        Messages must not outlive it: the next one may come hours later.
        """
        events = self._arrived(busily=busily)
        if events is None:
            return None
        now = time.monotonic()
        for kind, number, method, request, client, details in events:
            try:
                if kind == self._event_call:
                    self._take(number, method, request, client, details, now)
                elif (call := self._calls.get(number)) is not None:
                    call.gone()
            except Exception:
                logger.exception("failed to process an event of the native front")
        self._batches.finish()
        return len(events)

    def _arrived(self, *, busily: bool) -> list[tuple[Any, ...]] | None:
        """Waits for events, at first by polling if `busily`. Returns None after the front is closed."""
        receive = self._front.recv_batch_details
        until = time.monotonic() + BUSY_SECONDS if busily and self._has_cores else 0.0
        while time.monotonic() < until:
            if (events := receive(BATCH_CALLS, 0)) != []:
                return events  # type: ignore[no-any-return]
        return receive(BATCH_CALLS)  # type: ignore[no-any-return]

    def _take(self, number: int, method: int, request: bytes, client: str, details: Any, now: float) -> None:
        metadata, _, remaining = details
        traffic = self._connections.of(client)
        traffic.count(len(request))
        call = NativeCall(
            self, self._methods[method], number, request, now, deadline_in(remaining, now), client, traffic, metadata
        )
        self._calls[number] = call
        self._batches.begin(call)
        size = sum(map(len, chain.from_iterable(metadata)))
        if size > METADATA_BYTES:
            call.fail(MessageTooLargeError(f"got {size} bytes of metadata, expected at most {METADATA_BYTES}"))
        else:
            self._batches.take(call, self._handlers[method])


class NativeCall(BatchedCall):
    """A unary call received by the front."""

    __slots__ = ("_number", "_peer", "_server", "_traffic", "metadata")

    def __init__(
        self,
        server: NativeServer,
        method: str,
        number: int,
        request: bytes,
        arrived: float,
        deadline: float | None,
        peer: str,
        traffic: Traffic,
        metadata: Pairs,
    ) -> None:
        super().__init__(server._batches, method, request, arrived, deadline)
        self._server = server
        self._number = number
        self._peer = peer
        self._traffic = traffic
        self.metadata: Pairs = metadata

    def client(self) -> object:
        return self._peer

    def send(self, message: bytes) -> None:
        self._server._calls.pop(self._number, None)
        self._server._connections.count_reply(self._traffic, len(message))
        if tail := self.tail():
            self._server._front.respond(self._number, message, trailing_metadata=tail)
        else:
            self._server._front.respond(self._number, message)
        self.drop()

    def send_failure(self, wire: Failure) -> None:
        self._server._calls.pop(self._number, None)
        # The front reserves gRPC's own key; the client reads ours as well.
        metadata = [(OWN_PUSHBACK_KEY if key == PUSHBACK_KEY else key, value) for key, value in wire.metadata]
        self._server._front.fail(self._number, wire.code.value[0], wire.text, trailing_metadata=metadata)
        self.drop()


def _wait_until_quiet() -> None:
    """Waits until the front has passed on the last replies, which it doesn't report."""
    last: list[str] | None = None
    end = time.monotonic() + PASS_ON_SECONDS
    while ((now := _switches()) is None or now != last) and time.monotonic() < end:
        last = now
        time.sleep(QUIET_SECONDS)


def _switches() -> list[str] | None:
    """Returns how often each thread of the front has gone to sleep so far; None while one of them runs, or could."""
    found = []
    for file in sorted(Path("/proc/self/task").glob("*/status")):
        with suppress(OSError):  # the thread has ended
            status = dict(line.split(":\t", 1) for line in file.read_text().splitlines() if ":\t" in line)
            if status["Name"] == FRONT_THREAD:
                if not status["State"].startswith("S"):
                    return None
                found.append(status["voluntary_ctxt_switches"])
    return found


def _load_extension() -> Any:
    try:
        import pygrpc_native
    except ImportError as error:
        raise NativeUnavailableError(
            "transport 'native' requires pygrpc-native: pip install 'pygrpc-native>=0.5,<0.6'"
        ) from error
    return pygrpc_native
