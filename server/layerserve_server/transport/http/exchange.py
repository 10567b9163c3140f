"""Requests and replies of HTTP, and the routes that translate them to messages of gRPC methods and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from layerserve_server.access.caller import Caller
from layerserve_server.transport.call import Handler

Headers: TypeAlias = Sequence[tuple[str, str]]

#: What ends a header, or isn't allowed in one.
_CONTROL = re.compile("[\\x00-\\x08\\x0a-\\x1f\\x7f]")
JSON = ("content-type", "application/json")


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request with its whole body, decompressed."""

    #: Parts of the path by the names that the route has for them.
    names: Mapping[str, str]
    #: What follows "?" in the address, as it came.
    query: str
    #: By name in lower case.
    headers: Mapping[str, str]
    body: bytes
    caller: Caller
    #: Whether the translation may block, for instance to load a version.
    may_block: bool


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A reply with its whole body."""

    body: bytes
    headers: Headers = (JSON,)
    status: int = 200


#: Makes the reply of a path without rights, of the request's header `accept`: browsers ask for HTML.
Plain: TypeAlias = Callable[[str], HttpReply]


class Translated(NamedTuple):
    """The request message of a gRPC method, and what makes the HTTP reply of its reply message."""

    message: bytes
    reply: Callable[[bytes], HttpReply]


class UnwrittenReply(bytes):
    """A long reply message, which another thread than the one that made it writes."""

    write: Callable[[bytes], HttpReply]


def written(reply: HttpReply) -> bytes:
    """Returns a successful reply as bytes, from its headers on."""
    return b"".join((head_of(reply), reply.body))


def head_of(reply: HttpReply) -> bytes:
    """Returns the headers of a reply, with the size of its body and the empty line. Raises ValueError."""
    if reply.headers == (JSON,):
        return b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(reply.body)
    lines = [f"{name}: {value}" for name, value in reply.headers]
    text = "\r\n".join([*lines, f"content-length: {len(reply.body)}", "", ""])
    if _CONTROL.search("".join(lines)):
        raise ValueError(f"got a header with control characters: {text!r}")
    return text.encode("latin-1")


class WouldBlockError(Exception):
    """A translation has to block, and may not."""


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """A path that is answered by a gRPC method, with the method's rights, limits and handler."""

    #: "GET" or "POST".
    verb: str
    #: Parts in braces stand for any text without "/".
    path: str
    #: Full name of the method.
    method: str
    #: Raises ServerError if the request isn't valid, and WouldBlockError.
    translate: Callable[[HttpRequest], Translated] | None = None
    #: In place of `translate` and the method's handler: makes the handler of the requests with these names and headers.
    #: It never blocks, its calls have the body as their message, and it answers them with a `written` reply.
    handler: Callable[[Mapping[str, str], Mapping[str, str]], Handler] | None = None
    #: Whether replies are made in a pool thread however short the message is: making them may take milliseconds.
    slow_replies: bool = False
