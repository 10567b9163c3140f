"""Requests over HTTP with the standard library's client, which has no opinion on protocols."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Http:
    """A connection to a server."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def __call__(self, verb: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Sends a request, whose body may be a value for JSON. Names of headers have "_" for "-"."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        self._connection.request(verb, path, data, {name.replace("_", "-"): text for name, text in headers.items()})
        reply = self._connection.getresponse()
        return Reply(reply.status, {name.lower(): text for name, text in reply.getheaders()}, reply.read())

    def close(self) -> None:
        self._connection.close()


def exchange(port: int, *parts: bytes, seconds: float = 30) -> bytes:
    """What a server answers to these bytes until it closes the connection."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        try:
            for part in parts:
                connection.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has been closed before all was sent
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
    return received
