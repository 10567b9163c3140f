"""Every part with hostile text in every field of its reply: it stays text."""

from __future__ import annotations

from html.parser import HTMLParser
from types import SimpleNamespace
from urllib.parse import urlencode

import numpy as np
import pytest
from google.protobuf import symbol_database
from google.protobuf.message import Message
from layerserve.v1.explanations_pb2 import ExplainResponse
from layerserve.values.tensors import encode
from layerserve_server.access.caller import ANYONE
from layerserve_server.extensions.page.pages import shape
from layerserve_server.extensions.page.part import PARTS
from layerserve_server.extensions.page.serving import Page
from layerserve_server.extensions.page.try_parts import input_field
from layerserve_server.protocols.inference.inference_pb2 import (
    ModelInferResponse,
    ModelMetadataResponse,
)
from layerserve_server.transport.http.exchange import HttpRequest, HttpRoute
from layerserve_server.transport.http.hosts import Hosts
from page_facts import Stub

HOSTILE = "<script>x</script>\"'><img src=x onerror=x>{{7919*7927}}{% raw %}\u202e\x00javascript:x&amp;#"
TAGS = frozenset(
    (
        *(
            "h1",
            "h2",
            "h3",
            "h4",
            "p",
            "a",
            "b",
            "form",
            "input",
            "button",
            "label",
            "div",
            "section",
            "nav",
            "ul",
            "li",
        ),
        "pre",
        *(
            "table",
            "caption",
            "thead",
            "tbody",
            "tr",
            "th",
            "td",
            "span",
            "small",
            "time",
            "dl",
            "dt",
            "dd",
            "progress",
        ),
        *("select", "option", "fieldset", "legend", "textarea", "canvas", "figure", "figcaption", "img", "kbd"),
        *("svg", "g", "rect", "path", "line", "polyline", "circle", "text", "title", "defs", "marker"),
    )
)
#: Attributes that could run or load something.
LOADING = ("src", "srcset", "action", "formaction", "xlink:href", "style", "data", "srcdoc", "poster")


class Seen(HTMLParser):
    """The elements of a part."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attributes]


def filled(kind: type[Message], depth: int = 0) -> Message:
    """A message with hostile text in every field, and two of everything that there may be several of."""
    message = kind()
    for field in message.DESCRIPTOR.fields:
        if field.type == field.TYPE_MESSAGE:
            if depth > 4 or field.message_type.GetOptions().map_entry:
                continue
            value = filled(field.message_type._concrete_class, depth + 1)
            if field.is_repeated:
                getattr(message, field.name).extend([value, value])
            else:
                getattr(message, field.name).CopyFrom(value)
        else:
            value = {field.TYPE_STRING: HOSTILE, field.TYPE_BYTES: HOSTILE.encode()}.get(field.type, 1)
            if field.is_repeated:
                getattr(message, field.name).extend([value, value])
            elif field.containing_oneof is None:
                setattr(message, field.name, value)
    return message


SERVED = Stub(HOSTILE)
PAGE = Page(SERVED, Hosts(), SimpleNamespace(is_long=lambda size: False))
ROUTES = {route.path.removeprefix(PARTS): route for route in PAGE.routes()}
FIELDS = {"name": HOSTILE, "id": HOSTILE, "label": HOSTILE, "checkpoint": HOSTILE, "output": HOSTILE, "version": 1}


def reply_of(route: HttpRoute) -> Message:
    """A reply of the route's method."""
    if route.method.endswith("/ModelMetadata"):
        return filled(ModelMetadataResponse)
    service, method = route.method[1:].split("/")
    found = symbol_database.Default().pool.FindServiceByName(service).FindMethodByName(method)
    return filled(found.output_type._concrete_class)


def shown(route: HttpRoute, body: bytes, reply: Message) -> str:
    """The HTML for a reply."""
    headers = {"host": "localhost", "x-layerserve-page": PAGE._guard.secret}
    request = HttpRequest({}, urlencode(FIELDS), headers, body, ANYONE, True)
    return route.translate(request).reply(reply.SerializeToString()).body.decode()


@pytest.mark.parametrize("name", [*(name for name in ROUTES if name not in ("predict", "explain")), "try images"])
def test_hostile_text_stays_text(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "try images":
        monkeypatch.setattr(SERVED, "encoded", {HOSTILE: "image"})
        name = "try"
    text = shown(ROUTES[name], urlencode(FIELDS).encode(), reply_of(ROUTES[name]))
    seen = Seen(text)
    assert seen.tags <= TAGS, seen.tags - TAGS
    assert str(7919 * 7927) not in text
    for attribute, value in seen.attributes:
        assert not attribute.startswith("on"), (attribute, value)
        assert attribute not in LOADING, (attribute, value)
        if attribute == "href":
            assert value.startswith("#"), value
    # It is shown; a part that has no text would pass all of the above.
    if name not in ("curves", "rates"):  # which has numbers alone
        assert "&lt;script&gt;" in text or "%3Cscript%3E" in text


def test_names_and_text_in_answers_stay_text() -> None:
    body = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}'
    reply = ModelInferResponse(model_name=HOSTILE, model_version=HOSTILE)
    reply.outputs.add(name=HOSTILE, datatype="BYTES", shape=[1])
    reply.raw_output_contents.append(len(HOSTILE.encode()).to_bytes(4, "little") + HOSTILE.encode())
    reply.outputs.add(name=HOSTILE, datatype="FP32", shape=[1, 2])
    reply.raw_output_contents.append(b"\0" * 8)
    text = shown(ROUTES["predict"], body, reply)
    seen = Seen(text)
    assert seen.tags <= TAGS
    (source,) = [value for name, value in seen.attributes if name == "src"]
    assert source.startswith("data:image/png;base64,")
    assert not any(name.startswith("on") for name, _ in seen.attributes)
    assert text.count("&lt;script&gt;") >= 4


def test_names_in_explanations_stay_text() -> None:
    body = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}'
    numbers = encode(np.zeros((1, 2), "float32"), HOSTILE)
    one = encode(np.zeros(1, "float32"), HOSTILE)
    reply = ExplainResponse(attributions=[numbers], outputs=one, baseline_outputs=one, convergence_delta=one)
    text = shown(ROUTES["explain"], body, reply)
    seen = Seen(text)
    assert seen.tags <= TAGS
    assert not any(name.startswith("on") for name, _ in seen.attributes)
    assert text.count("&lt;script&gt;") >= 2


def test_a_shape_of_a_hostile_length_is_short() -> None:
    spec = ModelMetadataResponse.TensorMetadata(name="x", datatype="FP32", shape=[-1, 2**62, 2**62, *[1] * 100_000])
    assert len(shape(spec.shape)) < 200
    assert input_field(spec).example == ""


@pytest.mark.parametrize(
    ("lengths", "example"),
    [([-1, 2], "[[0.0, 0.0]]"), ([2, 1], "[[0.0], [0.0]]"), ([-1], "[0.0]"), ([-1, -1], "[[0.0, 0.0, 0.0, 0.0]]")],
)
def test_an_example_has_a_row_or_as_many_as_the_model_fixes(lengths: list[int], example: str) -> None:
    spec = ModelMetadataResponse.TensorMetadata(name="x", datatype="FP32", shape=lengths)
    assert input_field(spec).example == example
