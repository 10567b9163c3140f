"""Models and their graphs on the page: many of them, and large ones."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from urllib.parse import urlencode

import pytest
from layerserve.v1 import graph_pb2, models_pb2
from layerserve_server.access.caller import ANYONE
from layerserve_server.extensions.drawings import graph, layout
from layerserve_server.extensions.page import model_parts
from layerserve_server.extensions.page.part import PARTS
from layerserve_server.extensions.page.rates import History
from layerserve_server.extensions.page.serving import Page
from layerserve_server.transport.http.exchange import HttpRequest
from layerserve_server.transport.http.hosts import Hosts
from page_facts import Stub

SERVED = Stub()
PAGE = Page(SERVED, Hosts(), SimpleNamespace())
ROUTES = {route.path.removeprefix(PARTS): route for route in PAGE.routes()}


def show(part: str, reply, routes=None, **fields) -> str:
    request = HttpRequest({}, urlencode(fields), {"host": "localhost"}, b"", ANYONE, True)
    return (routes or ROUTES)[part].translate(request).reply(reply.SerializeToString()).body.decode()


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
    assert "version 2<" in first
    assert "0 models" in show("models", models_pb2.ListModelsResponse())


def test_the_list_has_the_canary_and_what_is_asked_now(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(model_parts, "History", lambda: History(lambda: now[0]))
    served = Stub()
    routes = {route.path.removeprefix(PARTS): route for route in Page(served, Hosts(), SimpleNamespace()).routes()}
    versions = [models_pb2.ModelVersion(name="m", version=version, state=2) for version in (3, 2)]
    versions[1].served_by_default = versions[1].pinned = True
    versions.append(models_pb2.ModelVersion(name="m", version=1, state=models_pb2.VERSION_STATE_FAILED))
    reply = models_pb2.ListModelsResponse(versions=versions)
    first = show("models", reply, routes)
    assert first.count('<td class="n">\N{EN DASH}</td>') == 2, "nothing is known of the time before"
    served.requests, reply.versions[0].canary_share = [30], 0.125
    now[0] += 5
    text = show("models", reply, routes)
    assert "version 2, pinned<" in text
    assert "canary: version 3, 12.5%" in text
    # Of the two versions that answer.
    assert '<td class="n">12</td>' in text
    assert '<td class="n">1 ms</td>' in text


def versions_of(*states: int, default: int = 0) -> models_pb2.ListModelsResponse:
    """Versions 1, 2, ... in these states, newest first."""
    versions = [
        models_pb2.ModelVersion(name="m", version=number, state=state, served_by_default=number == default)
        for number, state in enumerate(states, 1)
    ]
    return models_pb2.ListModelsResponse(versions=versions[::-1])


READY, FAILED, AVAILABLE = (
    models_pb2.VERSION_STATE_READY, models_pb2.VERSION_STATE_FAILED, models_pb2.VERSION_STATE_AVAILABLE,
)  # fmt: skip


@pytest.mark.parametrize(
    ("states", "default", "target"),
    [
        ((AVAILABLE, AVAILABLE, READY), 3, 2),
        ((AVAILABLE, FAILED, READY, READY), 3, 1),
        ((READY,), 1, 0),
        ((FAILED, READY), 2, 0),
        ((READY, READY), 1, 0),
        ((FAILED, FAILED), 0, 0),
    ],
)
def test_a_rollback_says_where_to_and_is_off_where_nothing_is_below(states, default, target):
    text = show("versions", versions_of(*states, default=default), name="m")
    if target:
        assert f"Roll back from version {default} to version {target}?" in text
        assert f'<input type="hidden" name="version" value="{target}"><button>Roll back to version {target}<' in text
        assert "disabled" not in text
    else:
        assert '<button type="button" disabled aria-describedby="no-rollback">Roll back<' in text
        assert 'data-post="RollBack"' not in text


def test_a_version_leads_to_the_run_or_the_sweep_that_published_it():
    reply = versions_of(READY, READY, READY, default=3)
    reply.versions[0].training_run, reply.versions[1].training_run = "a", "sweep-b"
    text = show("versions", reply, name="m")
    assert 'of run <a href="#run?id=a">a<' in text
    assert 'of sweep <a href="#sweep?id=sweep-b">sweep-b<' in text


def test_the_version_that_answers_is_named_and_described():
    reply = versions_of(READY, READY, READY, default=2)
    for version in reply.versions:
        version.inputs.add(name=f"input_of_{version.version}", dtype=11, shape=[-1, 4])
    assert "<b>Version 2 answers</b>" in show("versions", reply, name="m")
    tensors = show("tensors", reply, name="m")
    assert "Of version 2, which answers requests that name none." in tensors
    assert "input_of_2" in tensors
    assert "(None, 4)" in tensors
    assert "input_of_3" not in tensors


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


def test_outputs_have_boxes_with_their_names_and_layers_their_parameters():
    response = chain(3)
    response.layers[1].parameter_count, response.layers[2].parameter_count = 1, 12_345
    response.outputs.add(name="score", dtype=11, shape=[-1, 4])
    response.outputs.add(name="inner", dtype=11, shape=[-1, 4])
    response.output_tensors.add(layer="layer_2", shape=[-1, 4], dtype=11)
    response.output_tensors.add(layer="layer_1", shape=[-1, 4], dtype=11)
    (drawing,), _ = graph.drawings(response)
    assert [list(call.lines) for call in drawing.calls] == [
        ["layer_0", "Dense", "(None, 4)"],
        ["layer_1", "Dense", "(None, 4)", "1 parameter"],
        ["layer_2", "Dense", "(None, 4)", "12,345 parameters"],
        ["score", "output", "(None, 4)"],
        ["inner", "output", "(None, 4)"],
    ]
    assert len(drawing.layout.paths) == 4
    boxes = drawing.layout.boxes
    assert boxes[3].y > boxes[2].y
    assert boxes[4].y > boxes[1].y
    text = show("graph", response, name="m")
    assert text.count('class="call output"') == 2
    assert "output=layer_1%3A0%3A0" in text
    nested = response.layers.add(path="sub", name="sub", class_name="Functional")
    nested.nested_outputs.add(layer="sub/a", shape=[-1, 2])
    response.layers.add(path="sub/a", name="a", class_name="Dense").nodes.add()
    assert [list(call.lines) for call in graph.drawings(response, "sub")[0][0].calls][-1] == ["output", "(None, 2)"]
