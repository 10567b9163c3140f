"""Large models take time in proportion to their size. Function calls are counted, as times vary."""

from __future__ import annotations

import cProfile
import json
import pstats
from itertools import pairwise

import h5py
import layergraph
import numpy as np
import pytest
from layergraph.functional import shape_inference


def input_layer(name):
    config = {"name": name, "batch_input_shape": [None, 2], "dtype": "float32"}
    return {"class_name": "InputLayer", "name": name, "config": config, "inbound_nodes": []}


def layer(class_name, name, *inputs, **options):
    config = {"name": name, "trainable": True, "dtype": "float32", **options}
    nodes = [[[known, 0, 0, {}] for known in inputs]]
    return {"class_name": class_name, "name": name, "config": config, "inbound_nodes": nodes}


def relu(name, before):
    return layer("Activation", name, before, activation="relu")


def merge(count):
    names = [f"x{i}" for i in range(count)]
    return [*map(input_layer, names), layer("Add", "sum", *names)], names, ["sum"]


def chain(count):
    names = ["x", *(f"a{i}" for i in range(count))]
    return [input_layer("x"), *map(relu, names[1:], names)], ["x"], names[-1:]


def outputs(count):
    names = [f"a{i}" for i in range(count)]
    return [input_layer("x"), *(relu(name, "x") for name in names)], ["x"], names


def fan(count):
    names = [f"a{i}" for i in range(count)]
    joined = layer("Concatenate", "joined", *names, axis=-1)
    return [input_layer("x"), *(relu(name, "x") for name in names), joined], ["x"], ["joined"]


def unused(count):
    names = [f"x{i}" for i in range(count)]
    return [*map(input_layer, names), relu("a", "x0")], names, ["a"]


def dense(count):
    names = ["x", *(f"a{i}" for i in range(count))]
    layers = [layer("Dense", name, before, units=2, use_bias=False) for before, name in pairwise(names)]
    return [input_layer("x"), *layers], ["x"], names[-1:]


def write(path, made):
    layers, inputs, ends = made
    config = {
        "name": "model",
        "layers": layers,
        "input_layers": [[name, 0, 0] for name in inputs],
        "output_layers": [[name, 0, 0] for name in ends],
    }
    with h5py.File(path, "w") as file:
        text = json.dumps({"class_name": "Functional", "config": config})
        file.attrs.create("model_config", np.bytes_(text) if len(text) < 60_000 else text)
        file.attrs["keras_version"] = "2.11.0"
        group = file.create_group("model_weights")
        names = [one["name"] for one in layers if one["class_name"] == "Dense"]
        group.attrs["layer_names"] = np.array([name.encode() for name in names]) if names else np.array([], "S1")
        for name in names:
            group.create_group(name).attrs["weight_names"] = [f"{name}/kernel:0".encode()]
            group[f"{name}/{name}/kernel:0"] = np.eye(2, dtype="float32")
    return path


def calls(path):
    with cProfile.Profile() as profile:
        model = layergraph.load_model(path)
        model.predict_on_batch({spec.name: np.ones((1, 2), "float32") for spec in model.input_specs})
    return pstats.Stats(profile).total_calls


@pytest.mark.parametrize(
    ("make", "factor"),
    [(merge, 20), (chain, 4), (outputs, 4), (fan, 4), (unused, 4), (dense, 4)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_time_is_linear(tmp_path, make, factor):
    small, large = (write(tmp_path / f"{count}.h5", make(count)) for count in (100, 100 * factor))
    calls(small)  # fills caches
    assert calls(large) < 1.25 * factor * calls(small)


def test_equal_layers_of_keras_2_are_inferred_once(tmp_path, monkeypatch):
    anew = []
    infer = shape_inference.infer_anew
    monkeypatch.setattr(shape_inference, "infer_anew", lambda call: anew.append(call) or infer(call))
    monkeypatch.setattr(shape_inference, "_remembered", type(shape_inference._remembered)(16))
    layergraph.load_model(write(tmp_path / "model.h5", dense(50)))
    assert len(anew) < 5
