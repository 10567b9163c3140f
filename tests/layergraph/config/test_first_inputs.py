"""Inputs that a file doesn't describe, or describes in other words: their names, shapes and dtypes in its release."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from layergraph.archive import DEFAULT_LIMITS
from layergraph.models.reading import described_model

Config = dict[str, Any]


def _model(config: Any, version: str, kind: str = "Sequential") -> Any:
    return described_model({"class_name": kind, "config": config, "keras_version": version}, DEFAULT_LIMITS)


def _first(kind: str, **options: Any) -> Config:
    return {"class_name": kind, "config": {"name": f"{kind.lower()}_1", **options}}


DENSE = _first("Dense", output_dim=3, batch_input_shape=[None, 4], input_dim=4)
CONVOLUTION = _first(
    "Convolution2D", nb_filter=2, nb_row=3, nb_col=3, dim_ordering="tf", batch_input_shape=[None, 8, 8, 1]
)
#: Made and loaded again with Keras 1.0.8, 1.1.2 and 1.2.2: the class names the input, not the layer.
KERAS1: dict[str, tuple[list[Config], list[str]]] = {
    "a layer": ([DENSE], ["dense_input_1"]),
    "a class of several words": ([CONVOLUTION], ["convolution2d_input_1"]),
    "branches": (
        [
            {
                "class_name": "Merge",
                "config": {
                    "name": "merge_1",
                    "mode": "concat",
                    "concat_axis": -1,
                    "layers": [
                        {"class_name": "Sequential", "config": [DENSE]},
                        {
                            "class_name": "Sequential",
                            "config": [{**DENSE, "config": {**DENSE["config"], "name": "dense_2"}}],
                        },
                    ],
                },
            }
        ],
        ["dense_input_1", "dense_input_2"],
    ),
    "a model first": (
        [
            {"class_name": "Sequential", "config": [DENSE], "name": "sequential_1"},
            _first("Activation", activation="tanh"),
        ],
        ["dense_input_1"],
    ),
}


@pytest.mark.parametrize("version", ["1.0.8", "1.1.2", "1.2.2"])
@pytest.mark.parametrize("case", KERAS1)
def test_inputs_of_keras_1(case: str, version: str) -> None:
    layers, names = KERAS1[case]
    assert _model(layers, version).input_names == names


def test_an_input_of_the_first_data_is_numbered_up_to_tensorflow_2_1() -> None:
    """`input_1` in TensorFlow 2.0.4, whether the model was built by data or from its file."""
    layers: list[Config] = [{"class_name": "Dense", "config": {"name": "dense", "units": 2}}]
    late: Config = {"name": "m", "layers": layers, "build_input_shape": [None, 4]}
    assert _model(late, "2.2.4-tf").input_names == ["input_1"]
    inner = {"class_name": "Sequential", "config": {"name": "inner", "layers": layers}}
    nested = _model({**late, "layers": [inner]}, "2.2.4-tf")
    assert nested.input_names == ["input_1"]
    assert nested.output_shape == (None, 2)
    layers[0]["config"]["batch_input_shape"] = [None, 4]
    assert _model(late, "2.2.4-tf").input_names == ["dense_input"]


@pytest.mark.parametrize("dtype", ["<U48", "|S7", "str384", "|O", "object"])
def test_text_by_numpys_names(dtype: str) -> None:
    layers = [
        {"class_name": "InputLayer", "config": {"name": "x", "batch_input_shape": [None, 1], "dtype": dtype}},
        {"class_name": "StringLookup", "config": {"name": "lookup", "vocabulary": ["a", "b"], "dtype": "int64"}},
    ]
    model = _model({"name": "m", "layers": layers}, "2.10.0")
    assert model.inputs[0].dtype == "string"
    np.testing.assert_array_equal(model.predict(np.array([["b"], ["z"]])), [[2], [0]])


LOOKUPS: dict[str, tuple[Config, Any, Any]] = {
    "StringLookup": ({"vocabulary": ["a", "b"]}, [["b"], ["z"]], [[2], [0]]),
    "IntegerLookup": ({"vocabulary": [7, 9]}, [[9], [1]], [[2], [0]]),
    "TextVectorization": (
        {"vocabulary": ["a", "b"], "output_sequence_length": 3},
        [["b a"], ["z"]],
        [[3, 2, 0], [1, 0, 0]],
    ),
}


@pytest.mark.parametrize("version", ["2.15.0", "3.15.0"])
@pytest.mark.parametrize("kind", LOOKUPS)
def test_a_sequential_of_a_lookup_alone_may_have_no_input(kind: str, version: str) -> None:
    options, given, expected = LOOKUPS[kind]
    layers = [{"class_name": kind, "config": {"name": "lookup", **options}}]
    model = _model({"name": "m", "layers": layers}, version)
    np.testing.assert_array_equal(model.predict(np.array(given)), expected)


def test_within_a_model_the_call_gives_a_lookup_its_shape() -> None:
    inner = {"name": "inner", "layers": [{"class_name": "StringLookup", "config": {"name": "l", "vocabulary": ["a"]}}]}
    call = [[["x", 0, 0, {}]]]
    config = {
        "name": "outer",
        "layers": [
            {
                "class_name": "InputLayer",
                "name": "x",
                "config": {"name": "x", "batch_input_shape": [None], "dtype": "string"},
                "inbound_nodes": [],
            },
            {"class_name": "Sequential", "name": "inner", "config": inner, "inbound_nodes": call},
        ],
        "input_layers": [["x", 0, 0]],
        "output_layers": [["inner", 1, 0]],
    }
    assert _model(config, "2.15.0", "Functional").output_shape == (None,)


@pytest.mark.parametrize("dtype", ["string", "float32", "int64"])
def test_hashes_are_integers_whatever_type_the_layer_has(dtype: str) -> None:
    """In graphs of TensorFlow 1, as of 2.7 with v2 behaviour disabled, it is that of the input."""
    first = {"batch_input_shape": [None, 2], "dtype": "string"}
    layers = [_first("InputLayer", **first), {"class_name": "Hashing", "config": {"num_bins": 5, "dtype": dtype}}]
    (output,) = _model({"name": "m", "layers": layers}, "2.7.0").outputs
    assert output.dtype == "int64"
