"""Explanations on the page: what is asked for, and how attributions are drawn."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from layerserve.v1 import explanations_pb2 as pb
from layerserve.values.tensors import decode, encode
from layerserve_server.access.caller import ANYONE
from layerserve_server.errors import InvalidRequestError
from layerserve_server.extensions.page.serving import Page
from layerserve_server.transport.http.exchange import HttpRequest
from layerserve_server.transport.http.hosts import Hosts
from page_facts import Stub

PAGE = Page(Stub(), Hosts(), SimpleNamespace(is_long=lambda size: False))
BODY = {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}]}


def asked(query: str, **more: object):
    """Returns the message of the part for a body, and what shows the reply."""
    (route,) = [route for route in PAGE.routes() if route.path.endswith("/explain")]
    headers = {"host": "localhost", "x-layerserve-page": PAGE._guard.secret}
    request = HttpRequest({}, query, headers, json.dumps({**BODY, **more}).encode(), ANYONE, True)
    translated = route.translate(request)
    return pb.ExplainRequest.FromString(translated.message), translated


def test_the_form_is_the_request():
    message, _ = asked("name=m&version=3&target=1,+2&to=x%0A+dense:0%0A&row=1", outputs=[{"name": "y"}])
    assert (message.model.name, message.model.version, message.output) == ("m", 3, "y")
    assert (list(message.target), list(message.to), message.steps) == ([1, 2], ["x", "dense:0"], 0)
    assert decode(message.inputs[0]).tolist() == [[1, 2], [3, 4]]
    plain, _ = asked("name=m")
    assert (plain.model.WhichOneof("version_choice"), list(plain.target), list(plain.to)) == (None, [], [])


@pytest.mark.parametrize(
    ("query", "more", "text"),
    [
        ("name=m&target=one", {}, "element: got 'one', expected indices such as 3 or 0, 3"),
        ("name=m", {"outputs": [{"name": "a"}, {"name": "b"}]}, "outputs: got 2, expected one to explain"),
        ("", {}, "name: got nothing"),
    ],
)
def test_what_is_wrong_with_the_form_is_told(query, more, text):
    with pytest.raises(InvalidRequestError, match=text):
        asked(query, **more)


def test_the_channels_of_images_are_added_up():
    _, translated = asked("name=m&row=1")
    images = np.zeros((2, 5, 4, 3), "float32")
    images[1, 2, 3] = [1, 2, 4]
    reply = pb.ExplainResponse(
        attributions=[encode(images, "image"), encode(np.ones((2, 3), "float32"), "facts")],
        outputs=encode(np.array([0.25, 0.75], "float32")),
        baseline_outputs=encode(np.array([0.5, 0.125], "float32")),
        convergence_delta=encode(np.array([0, 0.0625], "float32")),
    )
    reply.model.version = 3
    html = translated.reply(reply.SerializeToString()).body.decode()
    assert "Explanation by version 3, row 1" in html
    assert "row 1, channel 0" in html
    assert "channel 1" not in html
    assert "bright is 7" in html
    for text in ("What image adds", "(2, 5, 4, 3)", "What facts adds", ">0.75<", ">0.125<", ">0.0625<"):
        assert text in html


@pytest.mark.parametrize(("rows", "row", "shown"), [(1, 7, 0), (0, 0, 0)])
def test_a_row_that_isnt_there_is_the_last_one(rows, row, shown):
    _, translated = asked(f"name=m&row={row}")
    numbers = encode(np.ones(rows, "float32"))
    reply = pb.ExplainResponse(
        attributions=[encode(np.ones((rows, 5, 4, 3), "float32"), "image")],
        outputs=numbers,
        baseline_outputs=numbers,
        convergence_delta=numbers,
    )
    html = translated.reply(reply.SerializeToString()).body.decode()
    assert f"row {shown}</h2>" in html
    assert html.count(">1<") == 3 * rows
