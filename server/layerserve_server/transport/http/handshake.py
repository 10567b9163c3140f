"""Connections whose TLS handshake isn't complete: they count towards the limits on connections, too."""

from __future__ import annotations

import asyncio
import ssl
from asyncio import sslproto
from collections.abc import Callable
from typing import Any

from layerserve_server.transport.client_address import counted_by
from layerserve_server.transport.http.connection import HttpConnection, HttpConnections
from layerserve_server.transport.perimeter.limits import TLS_BUFFER_BYTES


def limit_buffers() -> None:
    """Makes asyncio's buffers for TLS smaller, in the whole process."""
    # Python 3.10 has no such buffer.
    if hasattr(sslproto.SSLProtocol, "max_size"):
        sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES


class Handshake(asyncio.Protocol):
    """A new connection, until its handshake is complete. asyncio's servers report a connection only then."""

    #: Closed if others need its place.
    idle = True

    def __init__(
        self,
        make: Callable[[], HttpConnection],
        pool: HttpConnections,
        context: ssl.SSLContext,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`make` makes what continues after the handshake."""
        self._make = make
        self._pool = pool
        self._context = context
        self._loop = loop
        self._task: asyncio.Task[None] | None = None
        #: What came together with the end of the handshake.
        self._early: list[bytes] = []
        self._lost = False
        self.transport: Any = None
        self.peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called when the client has connected."""
        self.transport = transport
        address = transport.get_extra_info("peername")
        self.peer = counted_by(address[0]) if address else ""
        if self._pool.opened(self):
            self._task = self._loop.create_task(self._complete())
        else:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Called with decrypted bytes."""
        self._early.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the connection has ended after the handshake, by whichever side."""
        self._lost = True

    async def _complete(self) -> None:
        seconds = self._pool.limits.handshake_seconds
        try:
            secured = await self._loop.start_tls(
                self.transport, self, self._context, server_side=True, ssl_handshake_timeout=seconds
            )
        except OSError:
            return  # the client's fault; the connection is closed
        finally:
            self._pool.closed(self)
        if secured is None or self._lost:
            return
        connection = self._make()
        secured.set_protocol(connection)
        connection.connection_made(secured)
        for data in self._early:
            connection.data_received(data)
