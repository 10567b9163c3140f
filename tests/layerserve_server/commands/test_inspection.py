"""What `inspect` prints of a model file, from the report that it makes."""

from __future__ import annotations

import sys

import pytest
from layerserve_server.commands.inspection import text


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
