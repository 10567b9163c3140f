"""Texts of errors: names from a file are shown, but can't do anything to a terminal or log."""

from __future__ import annotations

import json
from typing import Any

import h5py
import layergraph
import numpy as np
import pytest
from layergraph.errors import GraphError, LayerGraphError, UnsupportedModelError, printable, unknown_name

EVIL = "a\x1b[31m\r\n\u202e\x00b"
SURROGATE = "c\ud800d"


def dense(name: str, **options: Any) -> dict[str, Any]:
    return {"class_name": "Dense", "config": {"name": name, "units": 2, **options}}


@pytest.mark.parametrize("name", [EVIL, SURROGATE], ids=["control", "surrogate"])
@pytest.mark.parametrize(
    "layer",
    [
        lambda name: {"class_name": name, "config": {"name": "x"}},
        lambda name: {**dense(name), "class_name": "Nope"},
        lambda name: dense(name, units=-1),
        lambda name: dense("x", units=name),
        lambda name: dense("x", activation=name),
        lambda name: dense("x", kernel_initializer=name),
        lambda name: dense("x", **{name: 1}),
        lambda name: dense(name),
        lambda name: {"class_name": "Softmax", "config": {"name": name, "axis": 9}},
        lambda name: {"class_name": "Reshape", "config": {"name": name, "target_shape": [7]}},
    ],
)
def test_names_of_a_damaged_file_are_printable(tmp_path, layer, name):
    first = {"class_name": "InputLayer", "config": {"name": "in", "batch_input_shape": [None, 2]}}
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": [first, layer(name)]}}
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "2.11.0"
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = [EVIL.replace("\0", "").encode(), b"y"]
        for group in (EVIL.replace("\0", ""), "y"):
            weights.create_group(group).attrs["weight_names"] = np.array(["k"], "S1")
            weights[group]["k"] = np.zeros(3, "float32")
    with pytest.raises(LayerGraphError) as caught:
        layergraph.load_model(tmp_path / "m.h5")
    assert str(caught.value).isprintable()
    assert all(text.isprintable() for text in getattr(caught.value, "problems", ()))


def test_the_class_of_an_error_makes_its_text_printable():
    assert str(GraphError(f"layer '{EVIL}'")) == r"layer 'a\x1b[31m\r\n\u202e\x00b'"
    assert UnsupportedModelError("m.h5", [EVIL, "ü"]).problems == (r"a\x1b[31m\r\n\u202e\x00b", "ü")
    assert printable(SURROGATE) == r"c\ud800d"
    assert printable("naïve 漢字") == "naïve 漢字"


def test_a_long_name_of_a_file_is_cut():
    assert unknown_name("layer", "x" * 10**6, ["Dense"]) == f"unknown layer '{'x' * 80}'; known: Dense"
