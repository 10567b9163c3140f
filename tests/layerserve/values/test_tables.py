"""What notebooks and terminals show of models, node shapes, runs and predictions."""

from __future__ import annotations

import io
import re

import numpy as np
from layerserve import LayerNode, LayerNodes, NodeShapes, NodeTensor, Prediction, TensorSpec
from layerserve.values.tables import Table, visible
from rich.console import Console

BAD = "<script>alert('x')</script>&"
ESCAPED = "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;&amp;"


def cells(html):
    """The text of each row's cells."""
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]


def test_a_notebook_shows_models_as_a_table(client):
    html = client.models()._repr_html_()
    head, *rows = cells(html)
    assert head == ["Model", "Version", "State", "Labels", "Inputs", "Outputs", "Parameters", "Memory", "Engine"]
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


def test_a_notebook_shows_runs_and_their_history(client, server):
    run = client.train("double", np.zeros((4, 3)), np.zeros((4, 3)), epochs=2, description="try")
    run.wait()
    head, row = cells(client.runs()._repr_html_())
    assert head[:6] == ["Run", "Kind", "Model", "From", "State", "Epochs"]
    assert row[1:7] == ["training", "double", "1", "finished", "2/2", ""]
    assert row[7:10] == ["loss=0.5", "", "2"]
    assert cells(run.info()._repr_html_()) == [head, row]
    assert cells(run._repr_html_()) == [["Epoch", "loss"], ["1", "1"], ["2", "0.5"]]


def test_a_notebook_shows_the_ends_of_predictions(client):
    prediction = client.predict_named("double", [[1, 2, 3]])
    assert cells(prediction._repr_html_()) == [
        ["Output", "Dtype", "Shape", "Values"],
        ["y", "float32", "(1, 3)", "[[2. 4. 6.]]"],
    ]
    large = Prediction("m", 1, {"y": np.zeros((1000, 1000)), "text": np.array([b"x" * 5000], object)})
    assert len(large._repr_html_()) < 3000


def names_everywhere(client, server):
    """Objects whose names, texts and logs are all BAD."""
    server.add_model(BAD, lambda a: {}, [TensorSpec(BAD, (None,), "float32")], [], state="ready", reason=BAD)
    tensor = NodeTensor(BAD, 0, 0, (None,), "float32", BAD, masked=False)
    layers = [LayerNodes(BAD, BAD, BAD, (LayerNode(0, (tensor,), (tensor,)),), 0, True)]
    server.train_logs = lambda epoch: {BAD: 1.0}
    run = client.train(BAD, np.zeros((4, 3)), np.zeros((4, 3)), description=BAD)
    run.wait()
    prediction = Prediction(BAD, 1, {BAD: np.array([BAD.encode()], object)})
    return client.models(), client.model(BAD), NodeShapes(BAD, 1, layers, [], []), client.runs(), run, prediction


def test_names_from_model_files_are_no_html(client, server):
    for shown in names_everywhere(client, server):
        html = shown._repr_html_()
        assert "<script" not in html
        assert html.count(ESCAPED) >= 2, shown


def test_names_from_model_files_are_no_markup_and_no_control_sequences():
    name = "[red]m[/red]\x1b]0;title\x07\u202e"
    output = io.StringIO()
    Console(file=output, width=200, force_terminal=True, color_system=None).print(Table(name, [name], [[name]]).rich())
    assert output.getvalue().count(r"[red]m[/red]\x1b]0;title\x07\u202e") == 3
    assert "\x1b]" not in output.getvalue()
    assert visible("größe\nß") == "größe\nß"


def test_rich_prints_what_the_client_gives(client):
    output = io.StringIO()
    Console(file=output, width=200).print(client.models(), client.node_shapes("shared"))
    assert "(None, 3) float32" in output.getvalue()
    assert "Conv2D" in output.getvalue()
