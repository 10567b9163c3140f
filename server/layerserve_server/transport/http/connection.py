"""Connections of HTTP: httptools' parser in an asyncio protocol, with limits on time, sizes and numbers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any, Protocol

import httptools

from layerserve_server.transport.certificates import names_in_certificate
from layerserve_server.transport.chunking import CHUNK_BYTES
from layerserve_server.transport.client_address import counted_by, host_of
from layerserve_server.transport.http.exchange import Headers, HttpReply, head_of
from layerserve_server.transport.http.head import HttpHead, HttpHeads
from layerserve_server.transport.http.statuses import error_reply
from layerserve_server.transport.http.without_upgrades import WithoutUpgrades
from layerserve_server.transport.perimeter.limits import (
    HTTP_PIPELINED,
    HTTP_REQUESTS,
    METADATA_BYTES,
    PROMPT_BYTES,
    Limits,
)

#: The first line of a successful reply.
OK = b"HTTP/1.1 200 OK\r\n"
CLOSE = b"connection: close\r\n"
#: The reply of a server that has failed itself.
FAULT = error_reply("internal error; see the server's log", 500, "internal")


def first_line(status: int) -> bytes:
    """Returns the first line of a reply."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


def lines_of(headers: Headers) -> bytes:
    """Returns headers as bytes. They have no control characters."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers]).encode("latin-1")


class OpenRequest(Protocol):
    """A request that was begun and isn't answered."""

    def gone(self) -> None:
        """Called when the client has left."""


class Received:
    """A request, as far as it has come."""

    __slots__ = ("begun", "call", "complete", "head", "parts", "relayed", "size")

    def __init__(self, head: HttpHead) -> None:
        self.head = head
        #: Parts of the body that came so far, and their size.
        self.parts: list[bytes] = []
        self.size = 0
        self.complete = False
        #: Whether its turn has come.
        self.begun = False
        #: Whether another process answers it.
        self.relayed = False
        self.call: OpenRequest | None = None

    @property
    def waiting(self) -> int:
        """Bytes of the body that came and weren't taken."""
        return sum(map(len, self.parts))

    def add(self, part: bytes) -> None:
        """Adds a part of the body."""
        self.parts.append(part)
        self.size += len(part)

    def take(self) -> bytes:
        """Returns what came of the body, once."""
        parts, self.parts = self.parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)


class Application(Protocol):
    """What answers requests."""

    def begin(self, connection: HttpConnection, request: Received) -> None:
        """Begins the request whose turn it is, of which at least the head has come. May answer it."""

    def proceed(self, request: Received) -> None:
        """Takes what has come of the body of a request that was begun. May answer it."""


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
        #: Those by which workers pass on requests, each counted there.
        self.relayed: set[HttpConnection] = set()
        #: The others. Oldest use first.
        self._open: dict[Counted, None] = {}
        self._peers: Counter[str] = Counter()
        #: Whether connections close after their next reply.
        self.closing = False
        self.heads = HttpHeads()
        #: The header with the time of replies.
        self.date = b""

    def all_idle(self) -> bool:
        """Whether all replies have been sent."""
        open_now = [*self._open, *self.relayed]
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
        for connection in (*self._open, *self.relayed):
            connection.transport.abort()

    def _close_idle(self, peer: str | None) -> bool:
        for connection in self._open:
            if connection.idle and peer in (None, connection.peer):
                self.closed(connection)
                connection.transport.abort()
                return True
        return False


class HttpConnection(asyncio.Protocol):
    """A connection of a client. It ends if headers are too large or come too slowly, or a reply isn't read.

    Requests are answered one after the other, in their order.
    """

    def __init__(self, app: Application, pool: HttpConnections, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self.pool = pool
        self.loop = loop
        self.transport: Any = None
        #: What the client's connections are counted by, and its address as gRPC writes it.
        self.peer = ""
        self._address = ""
        self.certificate_names: Sequence[str] = ()
        #: The request that is being answered.
        self.call: OpenRequest | None = None
        self._parser: Any = WithoutUpgrades(self, self._head_without_upgrade)
        #: Of the request that is being parsed.
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        #: Whether it asks for another protocol, and is read again without that.
        self._asks_upgrade = False
        #: Whether a request was begun that isn't complete, and whether its headers aren't.
        self._begun = False
        self._in_headers = True
        #: Size of what came since the last step: headers, or what a body has between its chunks and after them.
        self._framing_bytes = 0
        #: Number of steps so far: heads, parts of bodies, and ends of requests.
        self._steps = 0
        #: Requests that aren't answered: the first is being answered. And the one whose body is being parsed.
        self._received: deque[Received] = deque()
        self._parsed: Received | None = None
        #: The one with a known head whose body is being received.
        self._known: Received | None = None
        #: Parts of the body that is being parsed in what came last. Many small chunks are joined.
        self._pieces: list[bytes] = []
        self._requests = 0
        self._opened = self._answered = loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._refused = False
        #: Whether a reply is being written in several steps.
        self._replying = False
        #: Whether the connection closes after the reply that is being written.
        self._closes = False
        #: Whether the client hasn't read what was written.
        self.write_paused = False
        self._drained: asyncio.Future[None] | None = None
        self._read_paused = False

    def __str__(self) -> str:
        return self._address

    @property
    def idle(self) -> bool:
        """Whether it has no request with complete headers that isn't answered."""
        return not self._received

    @property
    def closed(self) -> bool:
        """Whether nothing is answered any more."""
        return self._refused

    # Between the processes of a server (see `relay`).

    def introduction(self) -> bytes:
        """Returns whose connection it is, for `introduce` in another process."""
        names = list(self.certificate_names)
        return json.dumps({"address": self._address, "certificate_names": names, "closes": self._last()}).encode()

    def introduce(self, address: str, certificate_names: Sequence[str], *, closes: bool) -> None:
        """Makes it the connection of a worker's client. If it `closes`, it does after the first reply."""
        self.peer, self._address, self.certificate_names = host_of(address), address, certificate_names
        self._closes = closes
        self.pool.relayed.add(self)

    async def pass_on(self, part: bytes) -> None:
        """Sends a part of a reply, and waits until the client has read most of it."""
        if not self._refused:
            self._replying = True
            self.transport.write(part)
            await self.writable(len(part))

    def end_passed_on(self, *, closes: bool) -> None:
        """Ends a reply that was passed on. It says whether the connection closes."""
        self._replying = False
        self._closes = closes
        if not self._refused:
            self.call = None
            self._end_reply()

    # The transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called when the client has connected."""
        self.transport = transport
        connected = transport.get_extra_info("socket")
        if connected is not None and connected.family in (socket.AF_INET, socket.AF_INET6):
            # asyncio does so only for sockets with a number of their protocol, which `socket.create_server` makes none.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address = transport.get_extra_info("peername")
        if address:
            host, port = address[:2]
            self.peer = counted_by(host)
            self._address = f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
        certificate = transport.get_extra_info("ssl_object")
        if isinstance(certificate, ssl.SSLObject):
            self.certificate_names = names_in_certificate(certificate.getpeercert() or {})
        if self not in self.pool.relayed and not self.pool.opened(self):
            self._refused = True
            self.transport.abort()
            return
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called when the connection has ended, by whichever side."""
        self.pool.closed(self)
        self.pool.relayed.discard(self)
        self._refused = True
        self._stop_timer()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        call, self.call = self.call, None
        self._received.clear()
        self._parsed = self._known = None
        self.resume_writing()
        if call is not None:
            call.gone()

    def pause_writing(self) -> None:
        """Called when much of what was written waits to be sent."""
        self.write_paused = True

    def resume_writing(self) -> None:
        """Called when most of it was sent."""
        self.write_paused = False
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Called with further bytes of the client."""
        if self._refused:
            return
        self.pool.used(self)
        if self._known is not None:
            data = self._take_known(self._known, data)
        elif not self._begun and not self._received:
            # Most reads begin with a known head.
            end = data.find(b"\r\n\r\n") + 4
            head = self.pool.heads.find(data[:end])
            if head is not None:
                data = self._take_known(self._begin_known(head), data[end:])
            else:
                self._parse(data)
                self._learn(data, end)
                data = b""
        if data:
            self._parse(data)
        self._advance()

    def _learn(self, data: bytes, end: int) -> None:
        """Keeps the head of what was parsed, if nothing but a body, or a part of it, follows these bytes."""
        if len(self._received) == 1 and not self._refused:
            (one,) = self._received
            if one.size == len(data) - end <= one.head.length and one.complete != self._begun:
                self.pool.heads.learn(data[:end], one.head)

    # The parser.

    def _parse(self, data: bytes) -> None:
        steps = self._steps
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._close_with(error_reply("the request isn't valid HTTP", 400, "invalid_request"))
            return
        self._pass_pieces()
        # If there was a step in them, only a part of the bytes would count, fewer than asyncio reads at once.
        if self._steps != steps:
            self._framing_bytes = 0
        elif not self._refused:
            self._framing_bytes += len(data)
            if self._framing_bytes > METADATA_BYTES:
                self._refuse_headers()
        if self._timer is None and self._in_headers and (self._begun or self._framing_bytes) and not self._refused:
            self._await_headers()

    def on_message_begin(self) -> None:
        """Called at the first byte of a request."""
        self._begun = True
        self._url = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        """Called with a part of the address."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called with a header, or with one after the chunks of a body, of which none is needed."""
        if self._in_headers:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Called before the body."""
        parser = self._parser
        self._asks_upgrade = any(name == b"upgrade" for name, _ in self._headers) and parser.should_upgrade()
        if self._asks_upgrade:
            return
        self._in_headers = False
        self._stop_timer()
        size = len(self._url) + sum(len(name) + len(value) for name, value in self._headers)
        if size > METADATA_BYTES or len(self._received) > HTTP_PIPELINED:
            self._refuse_headers()
        if self._refused:
            return
        verb, version = parser.get_method().decode("ascii"), parser.get_http_version()
        keeps = parser.should_keep_alive()
        head = HttpHead(verb, self._url, self._headers, version=version, keeps_alive=keeps)
        self._parsed = Received(head)
        self._received.append(self._parsed)
        self._requests += 1
        self._steps += 1

    def on_body(self, body: bytes) -> None:
        """Called with a part of the body."""
        self._steps += 1
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        """Called at the end of a request."""
        if self._asks_upgrade:
            return
        self._in_headers = True
        self._begun = False
        self._steps += 1
        self._pass_pieces()
        if self._parsed is not None:
            self._parsed.complete = True
            self._parsed = None

    def _pass_pieces(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces and self._parsed is not None and not self._refused:
            self._parsed.add(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    # Requests, one after the other.

    def _begin_known(self, head: HttpHead) -> Received:
        """Registers a request whose head was parsed earlier."""
        if self._timer is not None:
            self._stop_timer()
        self._requests += 1
        self._framing_bytes = 0
        self._begun = True
        self._known = request = Received(head)
        self._received.append(request)
        return request

    def _take_known(self, request: Received, data: bytes) -> bytes:
        """Takes further bytes of the body of such a request. Returns those that follow it and may be answered."""
        missing = request.head.length - request.size
        if missing > len(data):
            request.add(data)
            return b""
        request.add(data[:missing])
        request.complete = True
        self._begun = False
        self._known = None
        return data[missing:] if request.head.keeps_alive else b""

    def _advance(self) -> None:
        """Begins and continues the requests whose turn it is."""
        while self._received and not self._refused:
            request = self._received[0]
            if not request.begun:
                request.begun = True
                self._app.begin(self, request)
            elif request.call is not None:
                self._app.proceed(request)
            if self._received and self._received[0] is request:
                break
        if len(self._received) > 1 or self._read_paused or (self._received and self._received[0].relayed):
            self.read_on()

    def read_on(self) -> None:
        """Stops reading while much of what came waits for its turn, or to be passed on."""
        ahead = sum(one.waiting for one in self._received if one.relayed or not one.begun)
        if (ahead > PROMPT_BYTES) != self._read_paused and not self.transport.is_closing():
            self._read_paused = not self._read_paused
            (self.transport.pause_reading if self._read_paused else self.transport.resume_reading)()

    # Replies. Each is that to the first of the requests that aren't answered.

    def send_written(self, reply: bytes, further: Headers) -> None:
        """Sends a successful reply, from its headers on, with further ones."""
        if self._refused:
            return
        self.transport.write(self._begin_reply(OK, lines_of(further), reply))
        self._end_reply()

    def send(self, reply: HttpReply, *, unread: bool = False) -> None:
        """Sends a reply. After a request of which a part is `unread` the connection is closed."""
        if self._refused:
            return
        self._closes = self._closes or unread
        body = b"" if self._received[0].head.verb == "HEAD" else reply.body
        self.transport.write(self._begin_reply(first_line(reply.status), head_of(reply), body))
        self._end_reply()

    async def send_long_written(self, reply: bytes, further: Headers) -> None:
        """Sends a long successful reply, from its headers on, with further ones."""
        if self._refused:
            return
        size = reply.index(b"\r\n\r\n") + 4
        head = self._begin_reply(OK, lines_of(further), reply[:size])
        await self._send_chunks(head, memoryview(reply)[size:])

    async def send_long(self, reply: HttpReply) -> None:
        """Sends a reply with a long body."""
        if self._refused:
            return
        body = b"" if self._received[0].head.verb == "HEAD" else reply.body
        await self._send_chunks(self._begin_reply(first_line(reply.status), head_of(reply)), memoryview(body))

    def fail(self) -> None:
        """Answers that the server itself has failed, and closes the connection."""
        if self._received and not self._replying and not self._refused:
            self.send(FAULT, unread=True)
        else:
            self.transport.abort()

    async def writable(self, size: int) -> None:
        """Waits until the client has read what was written before, and ends the connection if that takes too long.

        `size` is the number of those bytes.
        """
        if self.write_paused:
            with self._patience(size):
                await self._drain()

    def late_body(self) -> None:
        """Called when the body hasn't come in time."""
        seconds = self.pool.limits.stream_idle_seconds
        self._close_with(error_reply(f"the request wasn't complete after {seconds:g} seconds", 408, "idle"))

    async def _send_chunks(self, head: bytes, body: memoryview) -> None:
        """Sends a long body in chunks, each when the client has read most of the last: asyncio copies what waits."""
        self._replying = True
        self.transport.write(head)
        with self._patience(len(body)):
            for at in range(0, len(body), CHUNK_BYTES):
                await self._drain()
                if self._refused:
                    return
                self.transport.write(body[at : at + CHUNK_BYTES])
        self._replying = False
        self._end_reply()

    def _begin_reply(self, line: bytes, *rest: bytes) -> bytes:
        """Returns the beginning of a reply: the line, the headers that all have, and the rest."""
        if not self._closes:
            self._closes = not self._received[0].head.keeps_alive or self._last()
        return b"".join((line, self.pool.date, CLOSE if self._closes else b"", *rest))

    def _end_reply(self) -> None:
        request = self._received.popleft()
        if self._closes:
            self._close(unread=not request.complete)
            return
        self._answered = self.loop.time()
        if self._idle_timer is None:
            self._await_use(self.pool.limits.connection_idle_seconds)
        if self._received:
            self.loop.call_soon(self._advance)

    def _close(self, *, unread: bool) -> None:
        """Answers nothing more, and closes the connection: at once, unless a part of a request is `unread`.

        The client would then fail to send that part, and lose the reply, as the kernel resets the connection. So the
        part is read, and dropped. A worker closes its connection itself, after the reply.
        """
        self._refused = True
        if self in self.pool.relayed:
            return
        if not unread:
            self.transport.close()
            return
        self.read_on()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._stop_timer()
        self._timer = self.loop.call_later(self.pool.limits.stalled_seconds, self.transport.abort)

    def _last(self) -> bool:
        """Whether the connection closes after the reply to its current request."""
        age = self.pool.limits.max_connection_age_seconds
        old = age > 0 and self.loop.time() - self._opened >= age
        return self.pool.closing or old or self._requests >= HTTP_REQUESTS

    async def _drain(self) -> None:
        while self.write_paused:
            if self._drained is None:
                self._drained = self.loop.create_future()
            await self._drained

    @contextlib.contextmanager
    def _patience(self, size: int) -> Iterator[None]:
        """Ends the connection if the block takes longer than a client has to read `size` bytes."""
        timer = self.loop.call_later(self.pool.limits.patience(size), self.transport.abort)
        try:
            yield
        finally:
            timer.cancel()

    # Times.

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

    def _await_use(self, seconds: float) -> None:
        self._idle_timer = self.loop.call_later(seconds, self._unused)

    def _unused(self) -> None:
        """Closes the connection if it has had no request for long enough, and else waits for that."""
        seconds = self.pool.limits.connection_idle_seconds
        left = self._answered + seconds - self.loop.time()
        if left <= 0 and self.idle and not self._begun:
            self._refused = True
            self.transport.close()
        else:
            self._await_use(left if left > 0 else seconds)

    # What isn't answered as a request.

    def _head_without_upgrade(self) -> bytes:
        """Returns the head of the current request without its wish for another protocol."""
        if self._refused:
            return b""
        method, version = self._parser.get_method(), self._parser.get_http_version().encode()
        headers = [b"%s: %s" % one for one in self._headers if one[0] != b"upgrade"]
        return b"\r\n".join([b"%s %s HTTP/%s" % (method, self._url, version), *headers, b"", b""])

    def _refuse_headers(self) -> None:
        text = f"got more than {METADATA_BYTES} bytes of headers, or {HTTP_PIPELINED} requests ahead, the maximum"
        self._close_with(error_reply(text, 431, "too_large"))

    def _close_with(self, reply: HttpReply) -> None:
        """Answers outside of any request, unless a reply is being written, and closes the connection."""
        if self._refused or self.transport.is_closing():
            return
        if self._replying or len(self._received) > 1:
            self._refused = True
            self.transport.abort()
            return
        self.transport.write(b"".join((first_line(reply.status), CLOSE, head_of(reply), reply.body)))
        self._close(unread=True)
