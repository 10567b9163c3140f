"""The server: connections in an event loop of its own thread."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from email.utils import formatdate

from layerserve_server.access.gate import Gate
from layerserve_server.transport.call import Observer, Routes, Telemetry
from layerserve_server.transport.certificates import Certificates, RenewedContext
from layerserve_server.transport.event_batch import EventBatches
from layerserve_server.transport.grpcio import SharedPort
from layerserve_server.transport.http.app import HttpApp
from layerserve_server.transport.http.call import HttpObserver
from layerserve_server.transport.http.connection import HttpConnection, HttpConnections
from layerserve_server.transport.http.exchange import HttpRoute, Plain
from layerserve_server.transport.http.handshake import Handshake, limit_buffers
from layerserve_server.transport.http.hosts import Hosts
from layerserve_server.transport.http.relay import Introduction, socket_of
from layerserve_server.transport.perimeter.limits import Limits
from layerserve_server.transport.perimeter.memory import MemoryBudget
from layerserve_server.transport.ports import address, claim
from layerserve_server.transport.shutdown import Shutdown, wait_for

#: Listen backlog.
BACKLOG = 1024
#: Time to send the last replies at shutdown, in seconds.
LEAVE_SECONDS = 1.0


def listening(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Returns a listening socket; "::" is all addresses, also those of IPv4. Raises OSError if the port is taken.

    A `shared` port may have further sockets, also in other processes.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            (host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both, reuse_port=shared
        )
    except OSError as error:
        raise OSError(f"can't listen on {address(host, port)}: is the port taken?") from error


class HttpServer:
    """Serves routes over HTTP on one port."""

    def __init__(
        self,
        routes: Sequence[HttpRoute],
        plain: Mapping[str, Plain],
        handlers: Routes,
        observer: Observer,
        limits: Limits,
        memory: MemoryBudget,
        gate: Gate,
        *,
        host: str,
        port: int,
        certificates: Certificates | None = None,
        telemetry: Telemetry | None = None,
        hosts: Hosts | None = None,
        shared: SharedPort | None = None,
    ) -> None:
        """`plain` are the replies of paths without rights; `handlers` has the methods of the routes.

        `hosts` has the names under which browsers reach the server, by default none but addresses and "localhost".
        Processes that share the port pass on to its owner what they have no route for.

        Raises OSError if the port is taken.
        """
        main = None if shared is None else socket_of(shared.socket.parent)
        owns = shared is not None and shared.owner
        if owns:
            claim(host, port)
        self._socket = listening(host, port, shared=shared is not None)
        #: The Unix socket on which other processes pass on requests.
        self._relays = main if owns else None
        self.port = int(self._socket.getsockname()[1])
        self._shutdown = Shutdown()
        self._limits = limits
        self._tls = None if certificates is None else RenewedContext.of(certificates)
        self._batches = EventBatches(HttpObserver(observer), limits, memory, gate, telemetry)
        self._loop = asyncio.new_event_loop()
        self._app = HttpApp(
            routes,
            plain,
            handlers,
            self._batches,
            limits,
            hosts or Hosts(),
            self._loop,
            None if owns else main,
        )
        self._connections = HttpConnections(limits)
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._servers: list[asyncio.Server] = []

    def start(self) -> None:
        """Starts to receive requests."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    def drain(self) -> None:
        """Has each connection closed after its next reply, so that clients connect to another server.

        Not before, since an idle connection may be about to have a request.
        """
        self._connections.closing = True

    def stop(self, grace: float) -> None:
        """Refuses further requests with 503, and waits up to `grace` seconds for open ones (see GrpcioServer.stop)."""
        self._shutdown.run(grace, self._end)

    def _end(self) -> None:
        self._batches.stopping = True
        self.drain()
        self._shutdown.wait(lambda: not self._batches.open and not self._app.sending)
        self._batches.close()
        self._app.close()
        if self._thread.is_alive():
            wait_for(self._connections.all_idle, LEAVE_SECONDS)
            asyncio.run_coroutine_threadsafe(self._leave(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        else:
            self._loop.close()
        self._socket.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._batches.bind_to_thread()
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _listen(self) -> None:
        def date() -> None:
            self._connections.date = f"date: {formatdate(time.time(), usegmt=True)}\r\n".encode()
            self._loop.call_later(1.0, date)

        date()

        def connection() -> HttpConnection:
            return HttpConnection(self._app, self._connections, self._loop)

        def arriving() -> asyncio.Protocol:
            if self._tls is None:
                return connection()
            return Handshake(connection, self._connections, self._tls, self._loop)

        if self._tls is not None:
            limit_buffers()
        self._servers.append(await self._loop.create_server(arriving, sock=self._socket, backlog=BACKLOG))
        if self._relays is not None:
            path = str(self._relays)
            self._servers.append(
                await self._loop.create_unix_server(lambda: Introduction(connection), path, backlog=BACKLOG)
            )

    async def _leave(self) -> None:
        for server in self._servers:
            server.close()
        self._connections.abort()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
