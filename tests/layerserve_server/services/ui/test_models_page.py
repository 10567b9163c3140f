"""Models and their graphs on the page: many of them, and large ones."""

from __future__ import annotations

import time
from itertools import combinations, pairwise
from types import SimpleNamespace
from urllib.parse import urlencode

import pytest
from layerserve.v1 import graph_pb2, models_pb2
from layerserve_server.access.caller import ANYONE
from layerserve_server.services.ui import graph, layout
from layerserve_server.services.ui.part import PARTS
from layerserve_server.services.ui.serving import Page
from layerserve_server.transport.http.exchange import HttpRequest
from layerserve_server.transport.http.hosts import Hosts

PAGE = Page("0", Hosts(), SimpleNamespace())
ROUTES = {route.path.removeprefix(PARTS): route for route in PAGE.routes()}


def show(part: str, reply, **fields) -> str:
    request = HttpRequest({}, urlencode(fields), {"host": "localhost"}, b"", ANYONE, True)
    return ROUTES[part].translate(request).reply(reply.SerializeToString()).body.decode()


def listed(count: int) -> models_pb2.ListModelsResponse:
    versions = [
        models_pb2.ModelVersion(name=f"m{number:03}", version=version, state=2, served_by_default=version == 2)
        for number in range(count)
        for version in (3, 2, 1)
    ]
    return models_pb2.ListModelsResponse(versions=versions)


def names(text: str) -> list[str]:
    return [piece.split("<")[0] for piece in text.split('">')[1:] if piece.startswith("m") and "</a>" in piece]


def test_three_hundred_models_come_in_pages_and_are_searched():
    reply = listed(300)
    first, last = show("models", reply), show("models", reply, page=99)
    assert "300 models" in first
    assert names(first) == [f"m{number:03}" for number in range(50)]
    assert names(last) == [f"m{number:03}" for number in range(250, 300)]
    assert "Page 6 of 6" in last
    found = show("models", reply, search="M29")
    assert names(found) == [f"m29{digit}" for digit in range(10)]
    assert "Page" not in found
    # Of each model the version that answers.
    assert "<td>2</td>" in first
    assert "0 models" in show("models", models_pb2.ListModelsResponse())


def chain(count: int, *, fan: int = 1) -> graph_pb2.GetNodeShapesResponse:
    """Layers that each take tensors of the `fan` layers before them."""
    response = graph_pb2.GetNodeShapesResponse()
    for number in range(count):
        layer = response.layers.add(path=f"layer_{number}", name=f"layer_{number}", class_name="Dense")
        node = layer.nodes.add()
        node.outputs.add(layer=layer.path, shape=[-1, 4], dtype=11)
        for before in range(max(0, number - fan), number):
            node.inputs.add(layer=f"layer_{before}", shape=[-1, 4], dtype=11, argument="inputs")
    return response


def test_calls_stand_below_what_they_take():
    (drawing,), rest = graph.drawings(chain(6, fan=2))
    boxes = drawing.layout.boxes
    assert rest == []
    assert [box.y for box in boxes] == sorted(box.y for box in boxes)
    assert len({box.y for box in boxes}) == 6
    assert len(drawing.layout.paths) == 9
    # Boxes of one row don't overlap.
    placed = layout.layout([100.0] * 5, [(0, 2), (1, 2), (0, 3), (1, 4)])
    rows: dict[float, list[layout.Box]] = {}
    for box in placed.boxes:
        rows.setdefault(box.y, []).append(box)
    for row in rows.values():
        row.sort(key=lambda box: box.x)
        assert all(left.x + left.width < right.x for left, right in pairwise(row))
    assert all(box.x >= 0 and box.x + box.width <= placed.width for box in placed.boxes)


def test_rows_are_sorted_so_that_lines_do_not_cross():
    # Two chains side by side whose calls are listed in turns the other way round.
    placed = layout.layout([100.0] * 4, [(0, 3), (1, 2)]).boxes
    assert (placed[0].x < placed[1].x) == (placed[3].x < placed[2].x)


def test_lines_of_several_rows_do_not_cross_where_they_need_not():
    lines = [(0, 4), (0, 5), (1, 3), (1, 5), (2, 4), (4, 6), (5, 7)]
    boxes = layout.layout([100.0] * 8, lines).boxes
    for (a, b), (c, d) in combinations(lines, 2):
        if boxes[a].y == boxes[c].y:
            assert (boxes[a].x - boxes[c].x) * (boxes[b].x - boxes[d].x) >= 0


def test_shared_layers_and_nested_models_are_drawn():
    response = chain(2)
    response.layers[1].nodes.add(index=1).outputs.add(layer="layer_1", node_index=1)
    response.layers[1].nodes[1].inputs.add(layer="layer_1", node_index=0)
    nested = response.layers.add(path="sub/model", name="sub/model", class_name="Functional")
    nested.nodes.add().inputs.add(layer="layer_1", node_index=1)
    response.layers.add(path="sub/model/a/b", name="a/b", class_name="Dense").nodes.add()
    (whole, inner), _ = graph.drawings(response)
    assert [call.address for call in whole.calls] == ["layer_0:0", "layer_1:0", "layer_1:1", "sub/model:0"]
    assert whole.colours == [-1, 0, 0, -1]
    assert [call.nested for call in whole.calls] == [False, False, False, True]
    assert (inner.path, inner.class_name, [call.layer.path for call in inner.calls]) == (
        "sub/model", "Functional", ["sub/model/a/b"],
    )  # fmt: skip
    assert [drawing.path for drawing in graph.drawings(response, "sub/model")[0]] == ["sub/model"]
    assert "Dense · call 1" in show("graph", response, name="m")


def test_a_large_graph_is_cut_and_stays_fast():
    response = chain(20_000, fan=8)
    began = time.process_time()
    text = show("graph", response, name="m")
    assert time.process_time() - began < 10
    assert f"{20_000 - graph.MAX_BOXES:,}".replace(",", "") + " calls" in text
    assert text.count("<rect") == graph.MAX_BOXES
    assert text.count('class="edge"') == graph.MAX_LINES
    assert len(text) < 4_000_000


def test_a_layer_of_many_calls_is_cut():
    response = chain(2)
    for index in range(1, 3 * graph.MAX_BOXES):
        response.layers[1].nodes.add(index=index).inputs.add(layer="layer_0", shape=[-1], argument="inputs")
    (drawing,), _ = graph.drawings(response)
    assert len(drawing.calls) == graph.MAX_BOXES
    assert drawing.calls_left_out == 2 * graph.MAX_BOXES + 1


@pytest.mark.parametrize("kind", ["cycle", "unknown", "itself", "long", "wide", "many models"])
def test_odd_graphs_are_drawn(kind):
    response = chain(3)
    if kind == "cycle":
        response.layers[0].nodes[0].inputs.add(layer="layer_2")
    elif kind == "unknown":
        response.layers[0].nodes[0].inputs.add(layer="nowhere", node_index=7)
    elif kind == "itself":
        response.layers[0].nodes[0].inputs.add(layer="layer_0")
    elif kind == "long":
        response.layers[0].path = response.layers[0].name = "x" * 1_000_000
    elif kind == "wide":
        for number in range(5000):
            response.layers[2].nodes[0].inputs.add(layer="layer_0", tensor_index=number)
    else:
        for number in range(3000):
            response.layers.add(path=f"m{number}/a", name="a", class_name="Dense").nodes.add()
    text = show("graph", response, name="m")
    assert len(text) < 400_000
    assert text.count("<rect") >= 3
