"""What notebooks show of models and node shapes."""

from __future__ import annotations

import re

from layerserve import LayerNode, LayerNodes, NodeShapes, NodeTensor, TensorSpec

BAD = "<script>alert('x')</script>&"
ESCAPED = "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&amp;"


def cells(html):
    """The text of each row's cells."""
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]


def test_a_notebook_shows_models_as_a_table(client):
    html = client.models()._repr_html_()
    head, *rows = cells(html)
    assert head == ["Model", "Version", "State", "Labels", "Inputs", "Outputs", "Parameters", "Engine"]
    assert len(rows) == len(client.models())
    by_name = {row[0]: row for row in rows}
    assert by_name["broken"][2] == "failed: file is truncated"
    assert by_name["two"][4] == "left (None, 2) float32<br>right (None, 2) int32"
    assert client.models() == tuple(client.models())
    assert cells(client.model("double")._repr_html_()) == [head, by_name["double"]]


def test_a_notebook_shows_each_call_of_each_layer(client):
    shapes = client.node_shapes("shared")
    head, *rows = cells(shapes._repr_html_())
    assert head[:3] == ["Layer", "Class", "Node"]
    assert rows[1] == ["conv", "Conv2D", "0", "(None, 8, 8, 3)", "a:0:0", "(None, 8, 8, 4)", "112"]
    assert rows[2] == ["", "", "1", "(None, 16, 16, 3)", "b:0:0", "(None, 16, 16, 4)", ""]
    assert rows[-1][3] == "never called"


def test_names_from_model_files_are_no_html(client, server):
    server.add_model(BAD, lambda a: {}, [TensorSpec(BAD, (None,), "float32")], [], state="ready", reason=BAD)
    tensor = NodeTensor(BAD, 0, 0, (None,), "float32", BAD, masked=False)
    layers = [LayerNodes(BAD, BAD, BAD, (LayerNode(0, (tensor,), (tensor,)),), 0, True)]
    for shown in (client.models(), client.model(BAD), NodeShapes(BAD, 1, layers, [], [])):
        html = shown._repr_html_()
        assert "<script" not in html
        assert html.count(ESCAPED) >= 3
