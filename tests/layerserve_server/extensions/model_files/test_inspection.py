"""What `inspect` prints of a model file, from the report that it makes."""

from __future__ import annotations

import json
import sys

import pytest
from layergraph import Input, Model, layers
from layerserve_server.extensions.model_files.commands import inspect
from layerserve_server.extensions.model_files.inspection import text


def tensor(shape):
    return {"shape": shape, "dtype": "float32", "masked": False}


def layer(path, kind, parameters, *nodes):
    return {"path": path, "class": kind, "parameters": parameters, "trainable": True, "nodes": list(nodes)}


REPORT = {
    "file": "m.keras",
    "keras_version": "3.15.0",
    "compiled": True,
    "compile_problem": "",
    "parameters": 12345,
    "inputs": [{"name": "x", "shape": [None, 2], "dtype": "float32"}],
    "outputs": [{"name": "y", "shape": [None, None, 3], "dtype": "int64"}],
    "layers": [
        layer("x", "InputLayer", 0, {"index": 0, "inputs": [], "outputs": [tensor([None, 2])]}),
        layer(
            "shared",
            "Dense",
            12345,
            {"index": 0, "inputs": [{"from": "x:0:0", **tensor([None, 2])}], "outputs": [tensor([None, 3])]},
            {
                "index": 1,
                "inputs": [{"from": "x:0:0", **tensor([None, 2])}, {"from": "shared:0:0", **tensor([None, 3])}],
                "outputs": [tensor([None, 3]), tensor([None])],
            },
        ),
        layer("unused", "Dense", 7),
    ],
}


@pytest.mark.parametrize("rich", [True, False])
def test_every_node_has_a_line_and_a_layers_words_stand_on_its_first(monkeypatch, rich):
    if not rich:
        for name in ("rich.console", "rich.table"):
            monkeypatch.setitem(sys.modules, name, None)
    lines = text(REPORT).splitlines()
    assert lines[:3] == [
        "m.keras, written by Keras 3.15.0, compiled, 12,345 parameters",
        "  input x: (None, 2) float32",
        "  output y: (None, None, 3) int64",
    ]
    assert [line.split() for line in lines[3:]] == [
        ["Layer", "Class", "Node", "Output", "shape", "From", "Parameters"],
        ["x", "InputLayer", "0", "(None,", "2)", "0"],
        ["shared", "Dense", "0", "(None,", "3)", "x:0:0", "12,345"],
        ["1", "(None,", "3),", "(None,)", "x:0:0,", "shared:0:0"],
        ["unused", "Dense", "7"],
    ]
    assert len({line.index("Output") for line in lines if "Output" in line}) == 1


def test_a_file_that_does_not_say_who_wrote_it():
    assert text({**REPORT, "keras_version": None, "compiled": False, "parameters": 7}).startswith(
        "m.keras, written by Keras (unknown), not compiled, 7 parameters\n"
    )


def test_compile_settings_that_training_cannot_use_are_named():
    lines = text({**REPORT, "compile_problem": "unknown loss '<lambda>'"}).splitlines()
    assert lines[1] == "  its compile settings can't be used to train it: unknown loss '<lambda>'"


def test_what_a_step_keeps_of_a_sequence():
    states = [{"name": "lstm_h", "shape": [None, 8], "dtype": "float32"}]
    lines = text({**REPORT, "steps": {"steppable": True, "states": states}}).splitlines()
    assert lines[3] == "  steppable: yes, states: lstm_h (None, 8) float32"


def test_why_a_model_cannot_be_stepped():
    refused = {"steppable": False, "layer": "bi", "class": "Bidirectional", "reason": "reads both directions"}
    lines = text({**REPORT, "steps": refused}).splitlines()
    assert lines[3] == "  steppable: no: bi (Bidirectional) reads both directions"


def test_a_model_without_timesteps_has_no_line_about_steps():
    refused = {"steppable": False, "layer": "", "class": "", "reason": "no layer keeps a state between timesteps"}
    assert text({**REPORT, "steps": refused}) == text(REPORT)


def test_times_of_engines_and_why_others_are_out_of_the_question():
    report = {
        **REPORT,
        "engines": [
            {"rows": 1, "engine": "eager", "milliseconds": {"eager": 0.12345}},
            {"rows": 8, "engine": "openvino", "milliseconds": {"eager": 2.0, "openvino": 1.0}},
        ],
        "engines_dropped": {"cuda": "there is no GPU"},
    }
    assert text(report).splitlines()[3:6] == [
        "  1 row: eager (eager 0.123 ms)",
        "  8 rows: openvino (eager 2 ms, openvino 1 ms)",
        "  not cuda: there is no GPU",
    ]


@pytest.fixture
def file(tmp_path):
    words = Input((None,), dtype="int32", name="words")
    hidden = layers.LSTM(3, return_sequences=True)(layers.Embedding(5, 4)(words))
    outputs = [layers.Dense(1, name="main")(hidden), layers.Dense(2, name="aux")(hidden)]
    path = tmp_path / "1" / "model.keras"
    path.parent.mkdir()
    model = Model(words, outputs)
    model.save(path)
    return path, model


def test_inspect_shows_layers_nodes_and_parameters(file, capsys):
    path, model = file
    assert inspect([str(path)]) == 0
    shown = capsys.readouterr().out
    assert "input words: (None, None) int32" in shown
    assert "(None, None, 3)" in shown
    assert inspect([str(path.parent), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["parameters"] == model.count_params()
    assert [spec["name"] for spec in report["outputs"]] == ["main", "aux"]


def test_inspect_tells_what_is_wrong_with_a_file(file, tmp_path, capsys):
    whole, path = file[0].read_bytes(), tmp_path / "truncated.keras"
    path.write_bytes(whole[: len(whole) // 2])
    assert inspect([str(path)]) == 1
    assert "can't be served" in capsys.readouterr().err
    assert inspect([str(path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"]
    assert inspect([str(tmp_path / "nothing.keras")]) == 1
