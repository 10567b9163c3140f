"""Requests that a worker passes on to the main process as they are: those of paths that aren't predictions.

Each has a connection of its own to the Unix socket of the main process. Its first line tells whose request follows, so
that limits, rights and logs there are the client's. Requests and replies are passed on part by part, as they come.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httptools

from layerserve_server.errors import STOPPING, UnavailableError
from layerserve_server.transport.chunking import CHUNK_BYTES
from layerserve_server.transport.http.connection import HttpConnection, Received, lines_of
from layerserve_server.transport.http.exchange import HttpReply
from layerserve_server.transport.http.statuses import error_reply


def socket_of(folder: Path) -> Path:
    """Returns the Unix socket of the main process, in the folder that the processes of a server share."""
    return folder / "http.sock"


class RelayedRequest:
    """A request of a client of this process that the main process answers."""

    def __init__(self, connection: HttpConnection, request: Received, socket: Path) -> None:
        """`request` is the one whose turn it is on the connection."""
        self._connection = connection
        self._request = request
        self._socket = socket
        self._came = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Begins to pass it on."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self._task

    def proceed(self) -> None:
        """Passes on what has come of the body."""
        self._came.set()

    def gone(self) -> None:
        """Called when the client has left."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        connection = self._connection
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
        except OSError:
            connection.send(_stopping(), unread=not self._request.complete)
            return
        writer.write(connection.introduction() + b"\n" + self._head())
        sending = asyncio.ensure_future(self._send(writer))
        try:
            await self._receive(reader)
        finally:
            sending.cancel()
            writer.transport.abort()

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        """Sends the body, in chunks if it came so."""
        request, chunked = self._request, self._request.head.length < 0
        try:
            while True:
                self._came.clear()
                if data := request.take():
                    writer.write(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
                    await writer.drain()
                    self._connection.read_on()
                elif request.complete:
                    break
                else:
                    await self._came.wait()
            if chunked:
                writer.write(b"0\r\n\r\n")
        except OSError:
            pass  # it has answered before it read all, or has ended

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        """Passes on the reply."""
        connection, reply = self._connection, _Reply(self._request.head.verb)
        began = False
        while not reply.complete:
            try:
                data = await reader.read(CHUNK_BYTES)
            except OSError:
                data = b""
            if not data and began:
                connection.transport.abort()
                return
            if not data:
                connection.send(_stopping(), unread=not self._request.complete)
                return
            began = True
            reply.feed(data)
            await connection.pass_on(data)
        connection.end_passed_on(closes=reply.closes)

    def _head(self) -> bytes:
        head = self._request.head
        headers = [(name, str(value)) for name, value in head.pairs]
        return b"".join((head.line, b"\r\n", lines_of(headers), b"\r\n"))


class _Reply:
    """Where a reply ends."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._parser: Any = httptools.HttpResponseParser(self)
        self.complete = False
        #: Whether the connection ends with it.
        self.closes = False

    def feed(self, data: bytes) -> None:
        """Takes further bytes."""
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called with a header."""
        if (name.lower(), value) == (b"connection", b"close"):
            self.closes = True

    def on_headers_complete(self) -> None:
        """Called before the body, which a reply to HEAD doesn't have."""
        self.complete = self._verb == "HEAD" and self._is_final()

    def on_message_complete(self) -> None:
        """Called at the end: of the reply, or of one before it that tells the client to send the body."""
        self.complete = self._is_final()

    def _is_final(self) -> bool:
        status: int = self._parser.get_status_code()
        return status >= 200


class Introduction(asyncio.Protocol):
    """A connection from another process of this server, until it has told whose request follows."""

    def __init__(self, make: Callable[[], HttpConnection]) -> None:
        """`make` makes what continues after that."""
        self._make = make
        self._came = b""
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called when the other process has connected."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Called with further bytes."""
        self._came += data
        line, found, rest = self._came.partition(b"\n")
        if not found:
            return
        connection = self._make()
        connection.introduce(**json.loads(line))
        self.transport.set_protocol(connection)
        connection.connection_made(self.transport)
        if rest:
            connection.data_received(rest)


def _stopping() -> HttpReply:
    return error_reply(STOPPING, 503, UnavailableError.reason, ("retry-after", "1"))
