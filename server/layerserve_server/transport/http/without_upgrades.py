"""httptools' parser for requests that ask for another protocol, such as HTTP/2."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httptools

if TYPE_CHECKING:
    from layerserve_server.transport.http.connection import HttpConnection


class WithoutUpgrades:
    """A parser that reads requests which ask for another protocol as if they didn't.

    Java's client and curl ask for HTTP/2 so, also in requests with a body. For httptools all that follows their headers
    is in the other protocol.
    """

    def __init__(self, protocol: HttpConnection, head: Callable[[], bytes]) -> None:
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
        # What follows a request that is the last of its connection is no error; it isn't answered.
        made.set_dangerous_leniencies(lenient_data_after_close=True)
        return made
