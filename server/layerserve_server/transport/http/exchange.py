"""Requests and replies of HTTP, and the routes that translate them to messages of gRPC methods and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from layerserve_server.access.caller import Caller

Headers: TypeAlias = Sequence[tuple[str, str]]

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
    translate: Callable[[HttpRequest], Translated]
    #: Whether replies are made in a pool thread however short the message is: making them may take milliseconds.
    slow_replies: bool = False
