"""The line and the headers of a request. Clients repeat them byte by byte, so that each is read once."""

from __future__ import annotations

import urllib.parse
from collections import Counter
from collections.abc import Mapping, Sequence

import httptools

from layerserve_server.access.gate import Pairs
from layerserve_server.errors import InvalidRequestError
from layerserve_server.transport.call import Handler
from layerserve_server.transport.http.routes import Found
from layerserve_server.transport.request_ids import echo

#: Header with the time that the client waits, as in gRPC: up to eight digits and a unit.
TIMEOUT = "grpc-timeout"
#: Headers of which a request may have one. Of several, another server on the way might take another one.
SINGLE = ("host", "origin", "transfer-encoding", "content-encoding", TIMEOUT, "inference-header-content-length")
#: Headers that are looked at before the body.
CHECKED = frozenset({"origin", "transfer-encoding", "content-encoding", TIMEOUT})
#: Maximum number of heads that are kept, and of bytes of one. Clients choose both, so there have to be limits.
MAX_HEADS = 1024
MAX_HEAD_BYTES = 2048


class HttpHead:
    """The line and the headers of a request."""

    __slots__ = (
        "found",
        "handler",
        "headers",
        "ids",
        "keeps_alive",
        "length",
        "line",
        "pairs",
        "path",
        "plain",
        "query",
        "verb",
    )

    def __init__(
        self, verb: str, url: bytes, headers: Sequence[tuple[bytes, bytes]], *, version: str, keeps_alive: bool
    ) -> None:
        """Names of headers are in lower case. Raises HttpParserError, and UnicodeDecodeError if a path isn't ASCII."""
        parsed = httptools.parse_url(url)
        path: str = parsed.path.decode("ascii")
        self.line = b"%s %s HTTP/%s" % (verb.encode(), url, version.encode())
        self.verb = verb
        self.path = urllib.parse.unquote(path) if "%" in path else path
        self.query: str = (parsed.query or b"").decode("latin-1")
        self.pairs: Pairs = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in headers)
        self.headers: Mapping[str, str] = dict(self.pairs)  # type: ignore[arg-type]
        #: Whether the connection stays open after the reply.
        self.keeps_alive = keeps_alive and version != "1.0"
        #: Size of the body in bytes; -1 if it comes in chunks.
        # httptools refuses what isn't a number of 64 bits, but not thousands of zeros before it.
        self.length = int(self.headers.get("content-length", "").lstrip("0") or 0)
        if "transfer-encoding" in self.headers:
            self.length = -1
        #: The header with the request's id that its reply has, if any.
        self.ids = echo(self.pairs)
        names = [name for name, _ in self.pairs]
        #: Whether it has nothing to look at before the body.
        self.plain = CHECKED.isdisjoint(names) and len(set(names)) == len(names)
        #: What answers its path, and its requests if that depends on the head; None until it is looked up.
        self.found: Found | None = None
        self.handler: Handler | None = None

    def expects_continue(self) -> bool:
        """Whether the client sends the body only when it is told to."""
        return self.headers.get("expect", "").lower() == "100-continue"

    def refuse_several(self) -> None:
        """Raises InvalidRequestError if a header of which a request may have one is given several times."""
        counts = Counter(name for name, _ in self.pairs if name in SINGLE)
        for name, count in counts.items():
            if count > 1:
                raise InvalidRequestError(f"header '{name}': got {count} headers, expected one")


class HttpHeads:
    """The heads of earlier requests, by their bytes with the empty line. Used in the event loop only."""

    def __init__(self) -> None:
        self._known: dict[bytes, HttpHead] = {}
        self.find = self._known.get

    def learn(self, content: bytes, head: HttpHead) -> None:
        """Keeps a head."""
        if len(content) > MAX_HEAD_BYTES:
            return
        if len(self._known) >= MAX_HEADS:
            self._known.clear()
        self._known[content] = head
