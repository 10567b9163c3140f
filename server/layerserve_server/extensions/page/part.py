"""A part of the page as a route: a gRPC method whose reply becomes HTML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from google.protobuf.message import Message

from layerserve_server.extensions.page.fields import Fields
from layerserve_server.extensions.page.guard import Guard
from layerserve_server.transport.http.exchange import HttpReply, HttpRequest, HttpRoute, Translated

#: Before the path of each part.
PARTS = "/ui/parts/"
#: Makes HTML of a reply. Raises ServerError.
Show: TypeAlias = Callable[[Any], HttpReply]
#: Returns a method's request, and what makes HTML of its reply. Raises ServerError.
Ask: TypeAlias = Callable[[Fields, HttpRequest], tuple[Message, Show]]


def shown(guard: Guard, name: str, method: str, reply: type[Message], ask: Ask) -> HttpRoute:
    """Returns the route of a part that shows something."""
    return _route(guard, "GET", name, method, reply, ask)


def changed(guard: Guard, name: str, method: str, reply: type[Message], ask: Ask) -> HttpRoute:
    """Returns the route of a part that changes something: a form in the body, and the page's secret."""
    return _route(guard, "POST", name, method, reply, ask)


def _route(guard: Guard, verb: str, name: str, method: str, reply: type[Message], ask: Ask) -> HttpRoute:
    changes = verb == "POST"

    def translate(request: HttpRequest) -> Translated:
        guard.check(request, changes=changes)
        fields = Fields.of_form(request) if changes else Fields.of_query(request)
        message, show = ask(fields, request)
        return Translated(message.SerializeToString(), lambda answer: show(reply.FromString(answer)))

    return HttpRoute(verb, PARTS + name, method, translate, slow_replies=True)
