"""Drawings of models, with and without graphviz."""

from __future__ import annotations

import re
import shutil
import subprocess
from xml.etree import ElementTree

import pytest
from layerserve import InvalidArgument, LayerNode, LayerNodes, ModelGraph, NodeShapes, NodeTensor
from layerserve.values.tensor_spec import TensorSpec

graphviz = pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz isn't installed")
SVG = "{http://www.w3.org/2000/svg}"
#: Names as hostile files have them: markup of DOT, HTML and XML, escapes of graphviz, control characters.
HOSTILE = [
    '"]; x [label="',
    "</text><script>alert(1)</script>",
    r"\N\G\\",
    "&lt;b&gt;",
    "<b>x</b>",
    "\x1b[31m\ufffe\u202e",
    "a\nb",
]


def tensor(path: str, node: int = 0, width: int = 3) -> NodeTensor:
    return NodeTensor(path, node, 0, (None, width), "float32", "", masked=False)


def layer(path: str, *inputs: list[NodeTensor], parent: str = "", kind: str = "Dense", nested=()) -> LayerNodes:
    nodes = tuple(LayerNode(i, tuple(given), (tensor(path, i),)) for i, given in enumerate(inputs))
    return LayerNodes(path, path.removeprefix(parent), kind, nodes, 0, True, tuple(nested))


def shapes(layers: list[LayerNodes], outputs: list[NodeTensor], model: str = "m") -> NodeShapes:
    specs = [TensorSpec(f"out{i}", one.shape, one.dtype) for i, one in enumerate(outputs)]
    return NodeShapes(model, 1, layers, [], specs, outputs)


@pytest.fixture(name="nested")
def _nested() -> NodeShapes:
    """A nested model that is called twice, whose first layer has the name of one outside."""
    inner = [
        layer("vision/x", [], parent="vision/", kind="InputLayer"),
        layer("vision/deep", [tensor("vision/x")], parent="vision/"),
    ]
    return shapes(
        [
            layer("x", [], kind="InputLayer"),
            layer("vision", [tensor("x")], [tensor("vision")], kind="Functional", nested=[tensor("vision/deep")]),
            *inner,
            layer("head", [tensor("vision", 1)]),
        ],
        [tensor("head"), tensor("vision")],
    )


def labels(text: str) -> dict[str, str]:
    """The label of each id of a drawing."""
    return dict(re.findall(r'^\s*(\w+) \[label="((?:[^"\\]|\\.)*)"', text, re.MULTILINE))


def arrows(text: str) -> list[tuple[str, str]]:
    """The arrows of tensors, by the first lines of the labels."""
    named = {id: label.split("\\n")[0] for id, label in labels(text).items()}
    return [(named[one], named[other]) for one, other in re.findall(r"^  (\w+) -> (\w+)$", text, re.MULTILINE)]


def test_calls_inputs_outputs_and_nested_nodes_are_connected(nested):
    drawn = ModelGraph(nested).dot()
    assert arrows(drawn) == [
        ("x", "vision, node 0 of 2"),
        ("vision, node 0 of 2", "vision, node 1 of 2"),
        ("deep", "output 0"),
        ("x", "deep"),
        ("vision, node 1 of 2", "head"),
        ("head", "out0"),
        ("vision, node 0 of 2", "out1"),
    ]
    frame = drawn[drawn.index("subgraph") : drawn.index("}\n")]
    inside = labels(frame)
    assert [label.split("\\n")[0] for label in inside.values()] == ["output 0", "x", "deep"]
    # The arrow within the frame leaves the input of the nested model, not the one of the same name outside of it.
    source = re.search(rf"(\w+) -> {list(inside)[2]}$", drawn, re.MULTILINE)[1]
    assert source == list(inside)[1]
    assert drawn.count("style=dotted") == 2
    assert drawn.count("style=dashed") == 1


def test_some_layers_have_arrows_from_what_was_not_asked_for(nested):
    some = NodeShapes("m", 1, [nested["head"]], [], [])
    assert arrows(ModelGraph(some).dot()) == [("vision:1", "head")]


def test_a_layer_without_a_call_is_drawn():
    assert "never called" in ModelGraph(shapes([layer("unused")], [])).dot()


def test_large_graphs_are_cut_with_a_number():
    chain = [layer("l0", [])] + [layer(f"l{i}", [tensor(f"l{i - 1}")]) for i in range(1, 3000)]
    drawn = ModelGraph(shapes(chain, [tensor("l2999")]), limit=100).dot()
    assert len(labels(drawn)) == 100 + 2
    assert "2900 more nodes" in drawn
    wide = layer("sum", [tensor(f"l{i}") for i in range(2000)])
    drawn = ModelGraph(shapes([*chain[:100], wide], []), limit=101).dot()
    assert len(arrows(drawn)) <= 404
    assert "1996 more" in drawn


@graphviz
def test_hostile_names_are_shown_as_they_are_and_change_nothing(tmp_path):
    layers = [layer(name, []) for name in HOSTILE] + [layer("q" * 100_000, [tensor(HOSTILE[0])])]
    graph = ModelGraph(shapes(layers, [tensor(HOSTILE[0])], model=HOSTILE[0]))
    root = ElementTree.fromstring(graph.svg())
    found = [text.text for text in root.iter(f"{SVG}text")]
    assert {*HOSTILE[:5], r"\x1b[31m\ufffe\u202e", "a b"} <= set(found)
    assert not any(one.tag.removeprefix(SVG) in ("script", "a", "image") for one in root.iter())
    nodes = [one for one in root.iter(f"{SVG}g") if one.get("class") == "node"]
    assert len(nodes) == len(layers) + 1
    assert max(map(len, filter(None, found))) <= 60


@graphviz
def test_files_have_the_format_of_their_suffix(nested, tmp_path):
    graph = ModelGraph(nested, "LR")
    heads = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF", "dot": b"digraph"}
    for kind, head in heads.items():
        assert graph.save(tmp_path / f"m.{kind}").read_bytes().startswith(head)
    assert "rankdir=LR" in (tmp_path / "m.dot").read_text()
    assert graph._repr_html_().startswith('<div style="overflow: auto"><svg')


def test_without_graphviz_there_are_dot_files_and_tables(nested, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    graph = ModelGraph(nested)
    assert graph.save(tmp_path / "m.dot").read_text() == graph.dot()
    with pytest.raises(InvalidArgument, match=r"requires graphviz \(apt install graphviz.*\); expected .dot"):
        graph.save(tmp_path / "m.png")
    assert graph._repr_html_() == nested.table().html()
    assert not (tmp_path / "m.png").exists()


def test_graphviz_that_fails_or_takes_too_long_is_an_error(nested, tmp_path, monkeypatch):
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\necho 'no   fonts' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(InvalidArgument, match="graphviz failed: no fonts"):
        ModelGraph(nested).svg()

    def late(command, **options):
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(subprocess, "run", late)
    with pytest.raises(InvalidArgument, match="took longer than 60 s, expected a smaller limit than 1000 nodes"):
        ModelGraph(nested).svg()


@pytest.mark.parametrize(
    ("options", "text"),
    [({"rankdir": "XY"}, "rankdir: got 'XY'"), ({"limit": 0}, "limit: got 0, expected a number of nodes from 1")],
)
def test_other_options_are_refused(nested, options, text):
    with pytest.raises(InvalidArgument, match=text):
        ModelGraph(nested, **options)


def test_both_clients_draw_served_models(client):
    graph = client.graph("shared")
    assert ("conv, node 0 of 2", "add") in arrows(graph.dot())
    assert "version 1" in repr(graph)
