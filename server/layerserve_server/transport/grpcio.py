"""The reference transport: grpcio's server. Prompt calls run in the polling thread, streams in an event loop."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from layerserve_server.access.gate import Gate
from layerserve_server.transport.call import Observer, Routes, Telemetry
from layerserve_server.transport.certificates import Certificates
from layerserve_server.transport.client_address import without_address
from layerserve_server.transport.completion_queue import Poller
from layerserve_server.transport.event_batch import EventBatches
from layerserve_server.transport.forwarding import Forwarder
from layerserve_server.transport.health import Health
from layerserve_server.transport.perimeter import compression
from layerserve_server.transport.perimeter.connections import Connections
from layerserve_server.transport.perimeter.limits import PING_STRIKES, Limits
from layerserve_server.transport.perimeter.memory import HeapTrimmer, MemoryBudget
from layerserve_server.transport.ports import address, claim
from layerserve_server.transport.shutdown import Shutdown, wait_for
from layerserve_server.transport.streams import Streams

logger = logging.getLogger(__name__)

#: Time to send the pending replies at shutdown, in seconds.
LEAVE_SECONDS = 1.0
#: Maximum number of calls that wait for the polling thread: the largest that grpcio accepts.
MAX_PENDING = 2**31 - 1


@dataclass(frozen=True, slots=True)
class SharedPort:
    """A port that several processes listen on. The others forward the calls that they don't handle to the owner."""

    #: Unix socket on which the owner also listens.
    socket: Path
    #: Whether this process is the owner.
    owner: bool
    #: Set in the other processes when the owner has ended all calls.
    ended: threading.Event = field(default_factory=threading.Event)


class Front(NamedTuple):
    """Monitor of the client connections, and the memory budget for their messages."""

    connections: Connections
    memory: MemoryBudget

    @classmethod
    def of(cls, limits: Limits) -> Front:
        """Makes a monitor and a budget for these limits."""
        connections = Connections(limits)
        memory = MemoryBudget(limits.max_buffered_bytes, connections.buffered)
        connections.after_check = HeapTrimmer(memory).check
        return cls(connections, memory)


class GrpcioServer:
    """Serves routes and health on one port."""

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
        front: Front | None = None,
        models: Callable[[str], bool | None] = lambda name: None,
        telemetry: Telemetry | None = None,
    ) -> None:
        """`certificates` are for TLS; `front` belongs to a transport in front of this one; `gate` admits callers.

        `models` returns whether a model answers, for its health; None if there is none.

        Raises OSError if the port is taken, MissingRightError if a route isn't in the gate's table, and
        UnsupportedGrpcioError.
        """
        self._shutdown = Shutdown()
        #: Whether clients connect to this transport, not to one in front of it.
        self._at_the_front = front is None
        self._connections, self.memory = front or Front.of(limits)
        self._batches = EventBatches(observer, limits, self.memory, gate, telemetry)
        self._streams = Streams(observer, limits, self.memory, gate, telemetry)
        self._health = Health(routes.services(), models)
        everything = Routes()
        everything.add(routes)
        self._forwarder: Forwarder | None = None
        if shared is not None and not shared.owner:
            self._forwarder = Forwarder(shared.socket, gate, limits.max_connection_calls)
        else:
            everything.add(self._health.routes())
        #: Full names of all methods, sorted.
        self.methods = sorted([*everything.unary, *everything.streams])
        gate.require_rights(self.methods)
        # grpcio requires a pool; nothing runs in it.
        self._server: Any = grpc.server(
            ThreadPoolExecutor(1), options=options(limits, shared=shared is not None, front=front is not None)
        )
        self._poller = Poller(
            self._server,
            everything,
            self._batches,
            self._streams,
            self._connections,
            limits,
            fallback=None if self._forwarder is None else self._forwarder.forward,
            read_metadata=tuple if self._at_the_front else without_address,
        )
        if self._at_the_front:
            self._connections.relieve = self._poller.relieve
        if shared is not None and shared.owner:
            claim(host, port)
            self._bind(address(f"unix:{shared.socket}", 0), None)
        self.port = self._bind(address(host, port), certificates)

    def start(self) -> None:
        """Starts to receive calls. Health stays NOT_SERVING until `set_serving`."""
        self._poller.start()
        if self._at_the_front:
            self._connections.start(self.port)

    def set_serving(self, serving: bool) -> None:
        """Sets the health status of every service and of the whole server."""
        self._health.set(serving)

    def models_changed(self) -> None:
        """Notifies those that watch the health of models. Thread-safe; never blocks."""
        self._health.changed()

    def stop(self, grace: float) -> None:
        """Refuses further calls with UNAVAILABLE, ends the streams, and waits up to `grace` seconds for open calls.

        The port stays open meanwhile: grpcio cancels calls that arrive at a closed one, and clients don't retry
        cancelled calls.
        """
        self._shutdown.run(grace, self._end)

    def _end(self) -> None:
        self.refuse()
        if not self._shutdown.wait(lambda: not self.busy()):
            logger.warning("grace period over: ending %d open calls", len(self._batches.open) + self._streams.count)
        self._batches.close()
        self._streams.close(None if self._forwarder is None else self._forwarder.close)
        wait_for(lambda: not self._poller.sending, LEAVE_SECONDS)
        if self._at_the_front:
            self._connections.stop()
        self._server.stop(0).wait(LEAVE_SECONDS)
        self._streams.stop()

    def refuse(self) -> None:
        """Refuses further calls and notifies the open streams that the server is stopping."""
        self._batches.stopping = True
        self._streams.end()

    def busy(self) -> bool:
        """Whether calls or streams are open."""
        return bool(self._batches.open or self._streams.count)

    def _bind(self, address: str, certificates: Certificates | None) -> int:
        try:
            if certificates is None:
                return int(self._server.add_insecure_port(address))
            return int(self._server.add_secure_port(address, certificates.credentials()))
        except RuntimeError as error:
            raise OSError(f"can't listen on {address}: is the port taken?") from error


def options(limits: Limits, *, shared: bool, front: bool) -> list[tuple[str, Any]]:
    """Returns the options of grpcio's server (https://grpc.github.io/grpc/core/group__grpc__arg__keys.html)."""
    # The connection of a front carries the calls of many clients.
    calls = limits.max_calls + limits.max_streams if front else limits.max_connection_calls
    return [
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        compression.OPTION,
        ("grpc.max_send_message_length", -1),
        # Two servers on one port would silently share its calls.
        ("grpc.so_reuseport", int(shared)),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
        ("grpc.http2.max_ping_strikes", PING_STRIKES),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", milliseconds(limits.keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", milliseconds(limits.keepalive_timeout_seconds)),
        # Without it, a ping that isn't answered closes the connection after a minute, whatever the option above has.
        ("grpc.http2.ping_timeout_ms", milliseconds(limits.keepalive_timeout_seconds)),
        ("grpc.max_concurrent_streams", calls),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.max_connection_idle_ms", milliseconds(limits.connection_idle_seconds)),
        ("grpc.server_handshake_timeout_ms", round(limits.handshake_seconds * 1000)),
        # The limits of HTTP/2 don't bind a client before it has acknowledged the settings.
        ("grpc.http2.settings_timeout", round(limits.handshake_seconds * 1000)),
        # Above these numbers of waiting calls grpcio cancels random ones, also those of other clients than the one that
        # floods the server.
        ("grpc.server.max_pending_requests", MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
        *_age_options(limits, front=front),
    ]


def _age_options(limits: Limits, *, front: bool) -> list[tuple[str, Any]]:
    # The connection of a front carries the calls of many clients, to whom its age means nothing.
    if front or not limits.max_connection_age_seconds:
        return []
    found = [("grpc.max_connection_age_ms", milliseconds(limits.max_connection_age_seconds))]
    if limits.max_connection_age_grace_seconds:
        found.append(("grpc.max_connection_age_grace_ms", milliseconds(limits.max_connection_age_grace_seconds)))
    return found


def milliseconds(seconds: float) -> int:
    """Returns a time in milliseconds, at least 1."""
    return max(1, round(seconds * 1000))
