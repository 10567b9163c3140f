"""Connections of HTTP: uvicorn's protocol, with limits on time, sizes and numbers that it lacks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from layerserve_server.transport.client_address import counted_by
from layerserve_server.transport.event_batch import BatchedCall
from layerserve_server.transport.http.exchange import HttpReply
from layerserve_server.transport.http.statuses import error_reply
from layerserve_server.transport.perimeter.limits import HTTP_PIPELINED, HTTP_REQUESTS, METADATA_BYTES, Limits

#: Key of a connection in the scope of its requests.
KEY = "layerserve.connection"
PHRASES = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


class Counted(Protocol):
    """A connection that counts towards the limits."""

    transport: Any
    #: What the client's connections are counted by.
    peer: str

    @property
    def idle(self) -> bool:
        """Whether it may be closed for another one."""


class HttpConnections:
    """The open connections of a server. Used in the event loop only."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        #: Oldest use first.
        self._open: dict[Counted, None] = {}
        self._peers: Counter[str] = Counter()
        #: Whether connections close after their next reply.
        self.closing = False

    def all_idle(self) -> bool:
        """Whether all replies have been sent."""
        open_now = list(self._open)
        return all(one.idle and not one.transport.get_write_buffer_size() for one in open_now)

    def opened(self, connection: Counted) -> bool:
        """Registers a connection. Over a limit, an idle one is closed for it; returns False if there is none."""
        limits, peer = self.limits, connection.peer
        if self._peers[peer] >= limits.max_peer_connections and not self._close_idle(peer):
            return False
        if len(self._open) >= limits.max_connections and not self._close_idle(None):
            return False
        self._open[connection] = None
        self._peers[peer] += 1
        return True

    def used(self, connection: Counted) -> None:
        """Makes a connection the last that is closed for others."""
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def closed(self, connection: Counted) -> None:
        """Forgets a connection."""
        if connection in self._open:
            del self._open[connection]
            self._peers[connection.peer] -= 1
            if not self._peers[connection.peer]:
                del self._peers[connection.peer]

    def abort(self) -> None:
        """Ends all connections."""
        for connection in list(self._open):
            connection.transport.abort()

    def _close_idle(self, peer: str | None) -> bool:
        for connection in self._open:
            if connection.idle and peer in (None, connection.peer):
                self.closed(connection)
                connection.transport.abort()
                return True
        return False


class JoinedWrites:
    """A transport whose writes can be joined: uvicorn writes head and body of a reply one after the other."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        #: What isn't written yet; None if writes aren't being joined.
        self._parts: list[bytes] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def join(self) -> None:
        """Keeps what is written, until `flush`."""
        self._parts = []

    def flush(self) -> None:
        """Writes what was kept."""
        parts, self._parts = self._parts, None
        if parts:
            self._transport.write(b"".join(parts))

    def write(self, data: bytes) -> None:
        """Writes, or keeps for `flush`."""
        if self._parts is None:
            self._transport.write(data)
        else:
            self._parts.append(data)

    def close(self) -> None:
        """Closes after everything was written."""
        self.flush()
        self._transport.close()


class WithoutUpgrades:
    """A parser that reads requests which ask for another protocol as if they didn't.

    Java's client and curl ask for HTTP/2 so, also in requests with a body. For httptools all that follows their headers
    is in the other protocol.
    """

    def __init__(self, protocol: HttpToolsProtocol, head: Callable[[], bytes]) -> None:
        """`head` returns the line and the headers of the request that asked; nothing if the rest isn't to be read."""
        self._protocol = protocol
        self._head = head
        self._parser = self._new()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def feed_data(self, data: bytes) -> None:
        """Parses further bytes."""
        while data:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as asked:
                head = self._head()
                data = head and head + data[asked.args[0] :]
                # For the old one the connection may be closed.
                self._parser = self._new()

    def _new(self) -> Any:
        made = httptools.HttpRequestParser(self._protocol)
        # As uvicorn's.
        made.set_dangerous_leniencies(lenient_data_after_close=True)
        return made


class HttpConnection(HttpToolsProtocol):
    """A connection of a client. It ends if headers are too large or come too slowly, or a reply isn't read."""

    #: Set for each server in a subclass of its own: uvicorn makes connections.
    pool: HttpConnections

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.parser: Any = WithoutUpgrades(self, self._head_without_upgrade)
        #: Whether the request asks for another protocol, and is read again without that.
        self._asks_upgrade = False
        #: What the client's connections are counted by.
        self.peer = ""
        self.certificate_names: Sequence[str] = ()
        #: The call of the request that is being answered.
        self.call: BatchedCall | None = None
        #: Whether a request was begun whose headers aren't complete.
        self._in_headers = True
        #: Size of what came since the last step: headers, or what a body has between its chunks and after them.
        self._framing_bytes = 0
        #: Parts of the body that haven't been passed on.
        self._parts: list[bytes] = []
        self._opened = self.loop.time()
        self._requests = 0
        #: Number of steps so far: heads, parts of bodies, and ends of requests.
        self._steps = 0
        self._timer: asyncio.TimerHandle | None = None
        self._refused = False

    def __str__(self) -> str:
        """The client's address, as gRPC writes it."""
        host, port = self.client or ("", 0)
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"

    @property
    def idle(self) -> bool:
        """Whether it has no request with complete headers that isn't answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called when the client has connected."""
        self.writes = JoinedWrites(transport)
        super().connection_made(self.writes)  # type: ignore[arg-type]
        connected = transport.get_extra_info("socket")
        if connected is not None and connected.family in (socket.AF_INET, socket.AF_INET6):
            # asyncio does so only for sockets with a number of their protocol, which `socket.create_server` makes none.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peer = counted_by(self.client[0]) if self.client else ""
        certificate = transport.get_extra_info("ssl_object")
        if isinstance(certificate, ssl.SSLObject):
            self.certificate_names = names_in(certificate.getpeercert() or {})
        if not self.pool.opened(self):
            self._refused = True
            self.transport.abort()
            return
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the connection has ended, by whichever side."""
        self.pool.closed(self)
        self._stop_timer()
        call, self.call = self.call, None
        super().connection_lost(exc)
        if call is not None:
            call.gone()

    def data_received(self, data: bytes) -> None:
        """Called with further bytes of the client."""
        if self._refused:
            return
        self.pool.used(self)
        if self._timer is None and self._in_headers:
            self._await_headers()
        steps = self._steps
        super().data_received(data)
        self._pass_parts()
        # If there was a step in them, only a part of the bytes would count, fewer than asyncio reads at once.
        if self._steps != steps:
            self._framing_bytes = 0
        elif not self._refused:
            self._framing_bytes += len(data)
            if self._framing_bytes > METADATA_BYTES:
                self._refuse_headers()

    def on_message_begin(self) -> None:
        """Called at the first byte of a request."""
        super().on_message_begin()
        self.scope[KEY] = self  # type: ignore[literal-required]

    def on_headers_complete(self) -> None:
        """Called before the body."""
        self._asks_upgrade = any(name == b"upgrade" for name, _ in self.headers) and self.parser.should_upgrade()
        if self._asks_upgrade:
            return
        self._in_headers = False
        self._stop_timer()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > METADATA_BYTES or len(self.pipeline) >= HTTP_PIPELINED:
            self._refuse_headers()
            return
        if self._refused:
            return
        self._requests += 1
        self._steps += 1
        super().on_headers_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called with a header, or with one after the chunks of a body, of which none is needed."""
        if self._in_headers:
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        """Called with a part of the body."""
        # Many small chunks are passed on together: uvicorn copies all of the body for each part.
        if not self._refused:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """Called at the end of a request."""
        if self._asks_upgrade:
            return
        self._pass_parts()
        self._in_headers = True
        self._steps += 1
        if not self._refused:
            super().on_message_complete()

    async def writable(self, size: int) -> None:
        """Waits until the client has read what was written before, and ends the connection if that takes too long.

        `size` is the number of those bytes.
        """
        if self.flow.write_paused:
            with self.patience(size):
                await self.flow.drain()

    @contextlib.contextmanager
    def patience(self, size: int) -> Iterator[None]:
        """Ends the connection if the block takes longer than a client has to read `size` bytes."""
        timer = self.loop.call_later(self.pool.limits.patience(size), self.transport.abort)
        try:
            yield
        finally:
            timer.cancel()

    def late_body(self) -> None:
        """Called when the body hasn't come in time."""
        seconds = self.pool.limits.stream_idle_seconds
        self._close_with(error_reply(f"the request wasn't complete after {seconds:g} seconds", 408, "idle"))

    @property
    def last(self) -> bool:
        """Whether the connection closes after the reply to its current request."""
        age = self.pool.limits.max_connection_age_seconds
        old = age > 0 and self.loop.time() - self._opened >= age
        return self.pool.closing or old or self._requests >= HTTP_REQUESTS

    def send_400_response(self, msg: str) -> None:
        """Answers bytes that aren't HTTP, and closes the connection."""
        self._close_with(error_reply("the request isn't valid HTTP", 400, "invalid_request"))

    def _head_without_upgrade(self) -> bytes:
        """Returns the head of the current request without its wish for another protocol."""
        if self._refused:
            return b""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        headers = [b"%s: %s" % one for one in self.headers if one[0] != b"upgrade"]
        return b"\r\n".join([b"%s %s HTTP/%s" % (method, self.url, version), *headers, b"", b""])

    def _pass_parts(self) -> None:
        """Passes the parts of the body on."""
        parts, self._parts = self._parts, []
        if parts and not self._refused:
            self._steps += 1
            super().on_body(b"".join(parts))

    def _await_headers(self) -> None:
        self._timer = self.loop.call_later(self.pool.limits.handshake_seconds, self._late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if not self._framing_bytes:
            # A client that has asked nothing yet would take an error for the reply to what it asks next.
            self._refused = True
            self.transport.close()
            return
        seconds = self.pool.limits.handshake_seconds
        self._close_with(error_reply(f"the headers weren't complete after {seconds:g} seconds", 408, "idle"))

    def _refuse_headers(self) -> None:
        text = f"got more than {METADATA_BYTES} bytes of headers, or {HTTP_PIPELINED} requests ahead, the maximum"
        self._close_with(error_reply(text, 431, "too_large"))

    def _close_with(self, reply: HttpReply) -> None:
        """Answers outside of any request, unless a reply is being written, and closes the connection."""
        self._refused = True
        if self.transport.is_closing():
            return
        if not self.idle and (self.cycle.response_started or self.pipeline):
            self.transport.abort()
            return
        lines = [b"HTTP/1.1 %d %s" % (reply.status, PHRASES[reply.status])]
        headers = (*reply.headers, ("content-length", str(len(reply.body))), ("connection", "close"))
        lines += [f"{name}: {value}".encode("latin-1") for name, value in headers]
        self.transport.write(b"\r\n".join([*lines, b"", reply.body]))
        self.transport.close()
        # What a client that reads nothing leaves in the buffer would keep the connection.
        self.loop.call_later(self.pool.limits.stalled_seconds, self.transport.abort)


def names_in(certificate: Any) -> list[str]:
    """Returns the names of a certificate, as `ssl.SSLSocket.getpeercert` describes it: the subject's, then others."""
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    return names + [value for _, value in certificate.get("subjectAltName", ())]
