"""The reference transport: grpcio's server. Calls are answered where they are polled, streams in an event loop."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import grpc

from layerserve_server.transport import compression
from layerserve_server.transport.aio import AioHandlers
from layerserve_server.transport.call import Observer, Routes, StreamHandler
from layerserve_server.transport.completion_queue import OtherInternalsError, Poller
from layerserve_server.transport.connections import Connections
from layerserve_server.transport.ending import Ending, wait_for
from layerserve_server.transport.event_batch import EventBatches
from layerserve_server.transport.forwarding import Forwarder
from layerserve_server.transport.health import SERVICE as HEALTH
from layerserve_server.transport.health import Health
from layerserve_server.transport.limits import Limits
from layerserve_server.transport.memory import HeapTrimmer, MemoryBudget
from layerserve_server.transport.reflection import Reflection
from layerserve_server.transport.streams import Streams

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Time that answers which are on their way have to leave, once no more are made, in seconds.
LEAVE_SECONDS = 1.0
#: Maximum number of calls that wait to be taken: the largest that grpcio accepts.
MAX_PENDING = 2**31 - 1
#: Pings in quick succession, without anything sent meanwhile, that end a connection.
MAX_PING_STRIKES = 100


@dataclass(frozen=True, slots=True)
class SharedPort:
    """A port that several processes listen on. One of them, the owner, answers what the others don't."""

    #: Where the owner listens besides.
    socket: Path
    owner: bool


class Front(NamedTuple):
    """What counts callers' connections, and what is kept for them."""

    connections: Connections
    memory: MemoryBudget

    @classmethod
    def of(cls, limits: Limits) -> Front:
        """A new one."""
        connections = Connections(limits)
        memory = MemoryBudget(limits.max_buffered_bytes, connections.kept)
        connections.after_look = HeapTrimmer(memory).look
        return cls(connections, memory)


class GrpcioServer:
    """Serves routes, health and reflection on one port."""

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
        shared: SharedPort | None = None,
        front: Front | None = None,
    ) -> None:
        """`front` is what a transport in front of this one counts with. Raises OSError for a port that is taken."""
        self._ending = Ending()
        #: Whether callers' connections end here, and not at a front.
        self._at_the_front = front is None
        self._connections, self.memory = front or Front.of(limits)
        self._batches = EventBatches(observer, limits, self.memory)
        self._streams = Streams(observer, limits, self.memory)
        self._health = Health(routes.services())
        everything = Routes()
        everything.add(routes)
        self._forwarder: Forwarder | None = None
        if shared is not None and not shared.owner:
            self._forwarder = Forwarder(shared.socket)
        else:
            everything.add(self._health.routes())
            if reflect:
                everything.add(Reflection([*routes.services(), HEALTH]).routes())
        elsewhere = self._forwarder.forward if self._forwarder is not None else None
        self._make_server(
            everything, limits, elsewhere, options(limits, shared=shared is not None, front=front is not None)
        )
        if shared is not None and shared.owner:
            claim(host, port)
            self._bind(address(f"unix:{shared.socket}", 0), None)
        self.port = self._bind(address(host, port), certificate)

    def start(self) -> None:
        """Starts to take calls. Health stays NOT_SERVING until `set_serving`."""
        if self._poller is not None:
            self._poller.start()
        else:
            self._in_loop(self._server.start())
        if self._at_the_front:
            self._connections.start(self.port)

    def set_serving(self, serving: bool) -> None:
        """Sets what health says, for each service and overall."""
        self._health.set(serving)

    def stop(self, grace: float) -> None:
        """Refuses further calls with UNAVAILABLE, ends the streams, and gives calls under way `grace` seconds.

        The port stays open meanwhile: a call that comes to a closed one is cancelled by grpcio, which callers don't
        take for a reason to try again.
        """
        self._ending.run(grace, self._end)

    def _end(self) -> None:
        self.refuse()
        if not self._ending.wait(lambda: not self.busy()):
            logger.warning("calls that the grace was too short for: %d", len(self._batches.open) + self._streams.count)
        self._batches.close()
        self._streams.close(None if self._forwarder is None else self._forwarder.close)
        if (poller := self._poller) is not None:
            wait_for(lambda: not poller.sending, LEAVE_SECONDS)
        if self._at_the_front:
            self._connections.stop()
        if poller is not None:
            self._server.stop(0).wait(LEAVE_SECONDS)
        else:
            self._in_loop(self._server.stop(0))
        self._streams.stop()

    def refuse(self) -> None:
        """Takes no more calls; streams learn that the server is stopping."""
        self._batches.stopping = True
        self._streams.end()

    def busy(self) -> bool:
        """Whether calls are under way."""
        return bool(self._batches.open or self._streams.count)

    def _make_server(
        self, routes: Routes, limits: Limits, elsewhere: StreamHandler | None, options: list[tuple[str, Any]]
    ) -> None:
        # A server must have a pool; nothing runs in it.
        self._server: Any = grpc.server(ThreadPoolExecutor(1), options=options)
        self._poller: Poller | None = None
        try:
            self._poller = Poller(
                self._server, routes, self._batches, self._streams, self._connections, limits, elsewhere
            )
            if self._at_the_front:
                self._connections.relieve = self._poller.relieve
        except OtherInternalsError as error:
            logger.warning("small models are answered more slowly than they could be: %s", error)

            async def make() -> Any:
                return grpc.aio.server(
                    handlers=[AioHandlers(routes, self._batches, self._streams, elsewhere)], options=options
                )

            self._server = self._in_loop(make())

    def _in_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._streams.loop).result()

    def _bind(self, address: str, certificate: tuple[Path, Path] | None) -> int:
        try:
            if certificate is None:
                return int(self._server.add_insecure_port(address))
            chain, key = (path.read_bytes() for path in certificate)
            return int(self._server.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)])))
        except RuntimeError as error:
            raise OSError(f"can't listen on {address}: is the port taken?") from error


def options(limits: Limits, *, shared: bool, front: bool) -> list[tuple[str, Any]]:
    """Options of grpcio's server (https://grpc.github.io/grpc/core/group__grpc__arg__keys.html)."""
    # One connection brings the calls of many callers where another process, or a front, hands them on.
    calls = limits.max_calls + limits.max_streams if shared or front else limits.max_connection_calls
    return [
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        compression.OPTION,
        ("grpc.max_send_message_length", -1),
        # Two servers on one port would share its calls without a word.
        ("grpc.so_reuseport", int(shared)),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5000),
        # A client on a slow machine measures its connection with several pings while it takes one large reply.
        ("grpc.http2.max_ping_strikes", MAX_PING_STRIKES),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.max_concurrent_streams", calls),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.max_connection_idle_ms", round(limits.connection_idle_seconds * 1000)),
        ("grpc.server_handshake_timeout_ms", round(limits.handshake_seconds * 1000)),
        # Until they are acknowledged a client isn't bound by them.
        ("grpc.http2.settings_timeout", round(limits.handshake_seconds * 1000)),
        # Where more calls wait to be taken than these, grpcio cancels some at random, of whoever: a flood would cancel
        # its neighbours' calls.
        ("grpc.server.max_pending_requests", MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
    ]


def claim(host: str, port: int) -> None:
    """Makes sure that nobody listens on a port that is about to be shared. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(f"can't listen on {address(host, port)}: is the port taken?") from error


def address(host: str, port: int) -> str:
    """Where to listen, as gRPC writes it. A host "unix:PATH" is a socket in the file system."""
    if host.startswith("unix:"):
        return host
    # An IPv6 address has colons of its own.
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
