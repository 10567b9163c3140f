"""Configs: canonical form, and errors for hostile or broken ones."""

from __future__ import annotations

import io
import json
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any

import h5py
import pytest
from layergraph.config import keras1
from layergraph.config.diagnostics import Diagnostics
from layergraph.config.keras_versions import (
    KERAS1,
    KERAS2,
    KERAS3,
    KERAS3_UP_TO_3,
    KERAS3_UP_TO_4,
    KERAS3_UP_TO_6,
    KERAS3_UP_TO_7,
    KERAS3_UP_TO_9,
    KERAS3_UP_TO_10,
    KERAS3_UP_TO_12,
    KERAS3_UP_TO_13,
    KERAS3_UP_TO_14,
    MULTI_BACKEND,
    generation_of,
)
from layergraph.config.nodes import MalformedNodeError, keras2_call, keras3_call
from layergraph.config.quantization import policy_of
from layergraph.config.reader import read_graph
from layergraph.config.spec import CallSpec, LayerSpec, TensorRef
from layergraph.errors import ModelFileError
from layergraph.layers.table import LAYERS
from layergraph.models.loading import load_model
from layergraph.models.reading import vocabulary


def layer(kind: str, name: str, inbound: list[Any] | None = None, **config: Any) -> dict[str, Any]:
    nodes = [{"args": inbound, "kwargs": {}}] if inbound is not None else []
    base = {"name": name} | ({} if kind == "InputLayer" else {"trainable": True, "dtype": "float32"})
    return {"module": "keras.layers", "class_name": kind, "config": base | config, "name": name, "inbound_nodes": nodes}


def tensor(name: str, node: Any = 0, index: Any = 0) -> dict[str, Any]:
    config = {"shape": [None, 4], "dtype": "float32", "keras_history": [name, node, index]}
    return {"class_name": "__keras_tensor__", "config": config}


def functional(*layers: Any, inputs: Any = None, outputs: Any = None) -> dict[str, Any]:
    inputs, outputs = inputs or [["x", 0, 0]], outputs or [["a", 0, 0]]
    config = {"name": "m", "trainable": True, "layers": list(layers), "input_layers": inputs, "output_layers": outputs}
    return {"module": "keras.src.models.functional", "class_name": "Functional", "config": config}


X = layer("InputLayer", "x", batch_shape=[None, 4])
POLICY = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}, "registered_name": None}


def dense(name: str = "a", of: str = "x", **changes: Any) -> dict[str, Any]:
    return layer("Dense", name, [tensor(of)], **{"units": 3, **changes})


def spec_of(config: Any, generation: Any = KERAS3) -> tuple[Any, list[str]]:
    problems = Diagnostics()
    return read_graph(config, generation, Path("m"), problems, vocabulary()), list(problems.texts)


def write(path: Path, config: Any) -> Path:
    """The config in a file of its container, without weights: they are read last."""
    text = config if isinstance(config, str) else json.dumps(config)
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = text
            file.attrs["keras_version"] = "3.8.0"
            file.create_group("model_weights").attrs["layer_names"] = []
        return path
    buffer = io.BytesIO()
    h5py.File(buffer, "w").close()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.8.0"}))
        archive.writestr("config.json", text)
        archive.writestr("model.weights.h5", buffer.getvalue())
    return path


# Canonical values.


@pytest.mark.parametrize(
    ("version", "generation"),
    [
        ("2.15.0", KERAS2),
        ("2.16.0", KERAS2),
        ("2.x", KERAS2),
        ("1.2.2", KERAS1),
        ("2.3.1", MULTI_BACKEND),
        ("3.0.5", KERAS3_UP_TO_3),
        ("3.3.3", KERAS3_UP_TO_3),
        ("3.4.0", KERAS3_UP_TO_4),
        ("3.5.0", KERAS3_UP_TO_6),
        ("3.7.0", KERAS3_UP_TO_7),
        ("3.8.0", KERAS3_UP_TO_9),
        ("3.9.2", KERAS3_UP_TO_9),
        ("3.10.0", KERAS3_UP_TO_10),
        ("3.11.0", KERAS3_UP_TO_12),
        ("3.13.2", KERAS3_UP_TO_13),
        ("3.14.0", KERAS3_UP_TO_14),
        ("3.15.1", KERAS3),
        ("3", KERAS3),
        ("4.0.0", KERAS3),
    ],
)
def test_the_version_tells_the_generation(version: str, generation: Any) -> None:
    assert generation_of(version, {}) is generation


def test_a_version_of_thousands_of_digits_is_read() -> None:
    for start in ("2.", "2.2.", "3."):
        assert generation_of(start + "1" * 5000, {}).major == int(start[0])


def test_without_a_version_the_form_of_calls_tells() -> None:
    assert generation_of(None, functional(X, dense())).major == 3
    old = functional(X, {**dense(), "inbound_nodes": [[["x", 0, 0, {}]]]})
    assert generation_of(None, old) is KERAS2
    oldest = functional(X, {**layer("Dense", "a", W_regularizer=None), "inbound_nodes": [[["x", 0, 0]]]})
    assert generation_of(None, oldest) is KERAS1
    without_calls = {"class_name": "Sequential", "config": [{"class_name": "Dense", "config": {"units": 3}}]}
    assert generation_of(None, without_calls) is KERAS2
    assert generation_of(None, {"config": 3}) is KERAS2


@pytest.mark.parametrize(
    ("dtype", "ragged", "generation"),
    [("float32", False, KERAS3_UP_TO_3), (POLICY, False, KERAS3_UP_TO_9), (POLICY, True, KERAS3)],
)
def test_without_a_version_options_tell_the_release(dtype: Any, ragged: bool, generation: Any) -> None:
    known = {**X, "config": {**X["config"], **({"ragged": False} if ragged else {})}}
    inner = {**functional(known, dense(dtype=dtype)), "name": "inner"}
    assert generation_of(None, functional(known, inner)) is generation


def test_before_3_3_calls_outside_of_the_model_count() -> None:
    """A layer called three times, of which only calls 1 and 2 belong to the model, which refers to the latter as 1."""
    calls = [{"args": [tensor(*at)], "kwargs": {}} for at in (("x",), ("d", 1))]
    last = {**dense("last"), "inbound_nodes": [{"args": [tensor("d", 1)], "kwargs": {}}]}
    outputs = [["last", 0, 0], ["d", 1, 0]]
    config = functional(X, {**dense("d"), "inbound_nodes": calls}, last, outputs=outputs)
    spec, problems = spec_of(config, KERAS3_UP_TO_3)
    assert problems == []
    assert [call.args for layer in spec.layers for call in layer.calls] == [
        (TensorRef("x", 0, 0),),
        (TensorRef("d", 0, 0),),
        (TensorRef("d", 0, 0),),
    ]
    assert spec.outputs == [TensorRef("last", 0, 0), TensorRef("d", 1, 0)]


@pytest.mark.parametrize(
    ("key", "value", "canonical"),
    [
        ("activation", "relu", "relu"),
        ("activation", {"class_name": "function", "config": "relu", "module": "keras.activations"}, "relu"),
        ("activation", {"class_name": "function", "config": "relu", "module": "builtins"}, "relu"),
        ("dtype", {"class_name": "DTypePolicy", "config": {"name": "mixed_float16"}}, "mixed_float16"),
        ("dtype", {"class_name": "Policy", "config": {"name": "float32"}}, "float32"),
        (
            "kernel_initializer",
            {"module": "keras.initializers", "class_name": "Zeros", "config": {}, "registered_name": None},
            {"class_name": "Zeros", "config": {}},
        ),
    ],
)
def test_values_take_their_canonical_form(key: str, value: Any, canonical: Any) -> None:
    spec, problems = spec_of(functional(X, dense(**{key: value})))
    assert spec.layers[1].config[key] == canonical
    assert problems == []


def test_keras_2_calls_options_and_rules_become_canonical() -> None:
    inner = functional(X, {**dense(), "inbound_nodes": [[["x", 0, 0, {}]]]})
    nodes = [[["x", 0, 0, {}]], [["inner", 1, 0, {}]]]
    layers = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 4], "name": "x"}, "inbound_nodes": []},
        {**inner, "class_name": "Model", "name": "inner", "inbound_nodes": nodes},
        {"class_name": "LeakyReLU", "config": {"name": "r", "alpha": 0.1}, "inbound_nodes": [[["inner", 2, 0, {}]]]},
        {"class_name": "Add", "config": {"name": "s"}, "inbound_nodes": [[["r", 0, 0, {}], ["inner", 1, 0, {}]]]},
        {
            "class_name": "LSTM",
            "config": {"name": "l", "units": 2, "recurrent_activation": "hard_sigmoid"},
            "inbound_nodes": [[["s", 0, 0, {"mask": ["r", 0, 0]}], ["s", 0, 0, {}], ["r", 0, 0, {}]]],
        },
    ]
    spec, _ = spec_of(functional(*layers, outputs=[["inner", 2, 0], ["l", 0, 0]]), KERAS2)
    x, model, leaky, add, lstm = spec.layers
    assert x.config["batch_shape"] == [None, 4]
    assert model.calls == (CallSpec((TensorRef("x", 0, 0),)), CallSpec((TensorRef("inner", 0, 0),)))
    assert leaky.config["negative_slope"] == 0.1
    assert leaky.calls[0].args == (TensorRef("inner", 1, 0),)
    assert add.config["mask_rule"] == "keras2"
    assert lstm.config["recurrent_activation"] == "keras2_hard_sigmoid"
    states = [TensorRef("s", 0, 0), TensorRef("r", 0, 0)]
    assert lstm.calls == (CallSpec((TensorRef("s", 0, 0),), {"mask": TensorRef("r", 0, 0), "initial_state": states}),)
    assert spec.outputs == [TensorRef("inner", 1, 0), TensorRef("l", 0, 0)]
    assert spec.inputs == TensorRef("x", 0, 0)


def test_a_bare_list_of_layers_is_a_sequential_model() -> None:
    first = {"class_name": "Dense", "config": {"name": "d", "units": 2, "batch_input_shape": [None, 4]}}
    spec, _ = spec_of({"class_name": "Sequential", "config": [first]}, KERAS2)
    assert [item.class_name for item in spec.layers] == ["InputLayer", "Dense"]
    assert spec.layers[0].config == {"name": "d_input", "batch_shape": [None, 4], "dtype": "float32"}


def test_a_model_first_in_a_sequential_model_gives_it_its_input() -> None:
    first = {"class_name": "Embedding", "config": {"name": "e", "batch_input_shape": [None, 4], "dtype": "int32"}}
    inner = {"class_name": "Sequential", "config": {"name": "s", "layers": [first]}}
    ids = {**layer("InputLayer", "x", batch_input_shape=[None, 4], dtype="int32"), "inbound_nodes": []}
    graph = {"name": "m", "layers": [ids], "input_layers": [["x", 0, 0]], "output_layers": [["x", 0, 0]]}
    for model, name in ((inner, "s_input"), ({"class_name": "Model", "config": graph}, "m_input")):
        outer = {"class_name": "Sequential", "config": {"name": "outer", "layers": [model]}}
        made = spec_of(outer, KERAS2)[0].layers[0]
        assert (made.class_name, made.name) == ("InputLayer", name)
        assert made.config == {"name": name, "batch_shape": [None, 4], "dtype": "int32"}


def test_an_operation_and_a_layer_of_one_name_are_told_apart() -> None:
    operation = {**layer("Add", "add", [tensor("x"), 1]), "module": "keras.src.ops.numpy", "config": {"name": "add"}}
    for module in ({}, {"module": None}):
        spec, _ = spec_of(functional(X, layer("Add", "a", [[tensor("x"), tensor("x")]]), {**operation, **module}))
        assert [item.operation for item in spec.layers] == [False, False, True]


@pytest.mark.parametrize("kind", ["SpatialDropout1D", "Discretization", "HashedCrossing", "GroupedQueryAttention"])
def test_a_layer_of_an_h5_file_need_not_say_trainable(kind: str) -> None:
    """Some classes omit it from their config, like operations."""
    item = layer(kind, "a", [tensor("x")])
    del item["module"], item["config"]["trainable"]
    spec, problems = spec_of(functional(X, item))
    assert not spec.layers[1].operation
    assert spec.layers[1].class_name in LAYERS
    assert problems == []


def test_a_layer_inside_a_layer_is_a_spec() -> None:
    inner = layer("Dense", "i", units=2)
    spec, _ = spec_of(functional(X, layer("TimeDistributed", "a", [tensor("x")], layer=inner)))
    assert isinstance(spec.layers[1].config["layer"], LayerSpec)


@pytest.mark.parametrize(
    ("version", "rule"), [("3.3.0", "none"), ("3.4.0", None), ("3.15.0", None), ("2.15.0", "keras2")]
)
def test_the_release_tells_how_masks_are_merged(version: str, rule: str | None) -> None:
    generation = generation_of(version, {})
    assert generation.rules.get("Add", {}).get("mask_rule") == rule


@pytest.mark.parametrize(("version", "rule"), [("1.2.2", "keras2"), ("2.15.0", "keras2"), ("3.15.0", None)])
def test_the_generation_tells_what_statistics_over_steps_are_of(version: str, rule: str | None) -> None:
    generation = generation_of(version, {})
    assert generation.rules.get("TimeDistributed", {}).get("step_rule") == rule


def test_what_keras_1_does_not_say_of_channels_other_layers_tell(tmp_path: Path) -> None:
    layers = [
        {
            "class_name": "ZeroPadding2D",
            "config": {"name": "z", "padding": [1, 2], "batch_input_shape": [None, 2, 5, 6]},
        },
        {"class_name": "MaxPooling2D", "config": {"name": "m", "pool_size": [1, 1], "strides": [1, 1]}},
    ]
    for ordering, told in (("th", "channels_first"), ("tf", None)):
        layers[1]["config"]["dim_ordering"] = ordering
        spec, _ = spec_of({"class_name": "Sequential", "config": json.loads(json.dumps(layers))}, KERAS1)
        assert spec.layers[1].config.get("data_format") == told


def test_a_recurrent_layer_takes_states_and_then_constants() -> None:
    tensors = [["x", 0, 0, {}], ["s", 0, 0, {}], ["c", 0, 0, {}], ["c", 0, 1, {}]]
    inputs = [layer("InputLayer", name, batch_shape=[None, 4]) for name in ("x", "s", "c")]
    rnn = {
        "class_name": "RNN",
        "config": {"name": "a", "num_constants": 2, "cell": layer("SimpleRNNCell", "cell", units=4)},
    }
    spec, problems = spec_of(functional(*inputs, {**rnn, "inbound_nodes": [tensors]}), KERAS2)
    assert problems == []
    (call,) = spec.layers[3].calls
    assert call.args == (TensorRef("x", 0, 0),)
    assert call.kwargs == {
        "initial_state": [TensorRef("s", 0, 0)],
        "constants": [TensorRef("c", 0, 0), TensorRef("c", 0, 1)],
    }


def test_arguments_of_a_call_of_keras_2() -> None:
    """Tensors anywhere, constants, `...`; lists that only resemble tensors stay lists."""
    kwargs = {
        "mask": ["x", 0, 0],
        "value": {"deep": [["x", 0, 0], 3]},
        "constant": ["_CONSTANT_VALUE", -1, 2.5],
        "rest": {"class_name": "__ellipsis__"},
        "triple": ["y", 0, 0],
        "none": None,
        "window_fn": None,
    }
    call = keras2_call([["x", 0, 0, kwargs]], "Dense", 0, {"x": 1})
    assert call.args == (TensorRef("x", 0, 0),)
    assert call.kwargs == {
        "mask": TensorRef("x", 0, 0),
        "value": {"deep": [TensorRef("x", 0, 0), 3]},
        "constant": 2.5,
        "rest": ...,
        "triple": ["y", 0, 0],
        "window_fn": None,
    }
    by_name = keras2_call({"a": ["x", 0, 0, {"mask": None}], "b": [["y", 1, 0]]}, "Dense", 0, {})
    assert by_name.args == ({"a": TensorRef("x", 0, 0), "b": [TensorRef("y", 1, 0)]},)
    assert by_name.kwargs == {"mask": None}
    constant = keras2_call(["_CONSTANT_VALUE", -1, 7, {"y": ["x", 0, 0]}], "Add", 0, {"x": 1})
    assert (constant.args, constant.kwargs) == ((7,), {"y": TensorRef("x", 0, 0)})


@pytest.mark.parametrize("node", [3, "x", None, [["x", 0, 0, 3]], [["x", 0, 0, {}], 3], {"a": 3}, [["x", True, 0]]])
def test_a_call_of_keras_2_of_another_form_is_refused(node: Any) -> None:
    with pytest.raises(MalformedNodeError):
        keras2_call(node, "Dense", 0, {})


@pytest.mark.parametrize(("node", "constants"), [([[]], 0), ([[["x", 0, 0]]], 1), ([["x", 0, 0], ["y", 0, 0]], 2)])
def test_a_call_of_a_recurrent_layer_without_the_tensors_that_it_takes_is_refused(node: Any, constants: int) -> None:
    with pytest.raises(MalformedNodeError):
        keras2_call(node, "LSTM", constants, {})


@pytest.mark.parametrize("node", [[], {"args": {}}, {"kwargs": {}}, {"args": [], "kwargs": [1]}])
def test_a_call_of_keras_3_of_another_form_is_refused(node: Any) -> None:
    with pytest.raises(MalformedNodeError):
        keras3_call(node, lambda value: value)


def test_a_call_of_keras_3_needs_no_keywords_and_takes_no_training() -> None:
    assert keras3_call({"args": [1]}, str) == CallSpec(("1",))
    node = {"args": [1, 2], "kwargs": {"a": 3, "training": True, "b": None}}
    assert keras3_call(node, str) == CallSpec(("1", "2"), {"a": "3"})


def test_policies_of_a_map_go_by_the_last_part_of_the_path() -> None:
    parts = {"a/query": "float16", "key": "bfloat16"}
    policies = {"class_name": "DTypePolicyMap", "config": {"default_policy": "float64", "policy_map": parts}}
    assert [policy_of(policies, name) for name in ("query", "key", "a", "ey")] == [
        *("float16", "bfloat16", "float64", "float64"),
    ]
    policies["config"]["policy_map"] = 3
    assert policy_of(policies, "query") == "float64"
    for other in (
        "float32",
        {"class_name": "DTypePolicyMap", "config": 3},
        {"class_name": "DTypePolicy", "config": {}},
    ):
        assert policy_of(other, "query") is other


def test_values_of_keras_2_that_say_little() -> None:
    old = {"name": "a", "units": 3, "input_dim": 5, "output_dim": 3, "dtype": "int32"}
    embedding = {"class_name": "Embedding", "config": old, "inbound_nodes": [[["x", 0, 0, {}]]]}
    first = {"class_name": "InputLayer", "config": {"name": "x", "input_shape": [4], "trainable": True}, "name": "x"}
    spec, _ = spec_of(functional(first, embedding), KERAS2)
    assert spec.layers[0].config["batch_shape"] == [None, 4]
    assert spec.layers[1].config["dtype"] == "float32"
    normalization = {"class_name": "BatchNormalization", "config": {"name": "a", "axis": [3]}}
    spec, _ = spec_of({"class_name": "Sequential", "config": [normalization]}, KERAS2)
    assert spec.layers[-1].config["axis"] == 3


@pytest.mark.parametrize(
    ("padding", "found"),
    [
        ({"left_pad": 1}, [1, 0]),
        ({"left_pad": 1, "right_pad": 2}, [1, 2]),
        ({"top_pad": 3, "right_pad": 2}, [[3, 0], [0, 2]]),
        ([1, 2, 3, 4], [[1, 2], [3, 4]]),
        ([1, 2], [1, 2]),
    ],
)
def test_paddings_of_keras_1(padding: Any, found: Any) -> None:
    config: dict[str, Any] = {"padding": padding}
    keras1.adapt("ZeroPadding2D", config)
    assert config["padding"] == found


def test_arrays_in_a_config_hold_numbers() -> None:
    array = {"class_name": "__numpy__", "config": {"value": [[1.5, 2]], "dtype": "float64"}}
    spec, problems = spec_of(functional(X, dense(units=array)))
    value = spec.layers[1].config["units"]
    assert (value.dtype, value.tolist(), problems) == ("float64", [[1.5, 2.0]], [])
    for dtype, numbers in (("O", [1]), ("U3", ["a"]), ("M8[s]", [1]), ("complex64", [1])):
        array["config"] = {"value": numbers, "dtype": dtype}
        _, (problem,) = spec_of(functional(X, dense(units=array)))
        assert problem == "layer 'a' (Dense): __numpy__ is malformed"


def operation_layer(*calls: list[Any], **config: Any) -> dict[str, Any]:
    given = {"name": "a", "trainable": True, "dtype": "float32", **config}
    return {"class_name": "TFOpLambda", "config": given, "name": "a", "inbound_nodes": list(calls)}


def test_functions_whose_calls_can_not_be_one_operation_are_told() -> None:
    calls = [["x", 0, 0, {"axis": 1}]], [["x", 0, 0, {"axis": 0}]]
    _, problems = spec_of(functional(X, operation_layer(*calls, function="math.reduce_sum")), KERAS2)
    assert problems == ["layer 'a' (TFOpLambda): its calls differ in their options"]
    _, problems = spec_of(functional(X, operation_layer(calls[0], function="math.frobnicate")), KERAS2)
    assert problems == ["layer 'a' (TFOpLambda): function 'math.frobnicate' of TensorFlow is not supported"]


def test_a_slice_of_tensorflow_has_lists_of_places() -> None:
    def sliced(**places: Any) -> Any:
        call = [
            ["x", 0, 0, {"begin": [0, 1], "end": [0, 3], "strides": [1, 1], "begin_mask": 1, "end_mask": 1, **places}]
        ]
        spec, problems = spec_of(functional(X, operation_layer(call, function="strided_slice")), KERAS2)
        return problems or spec.layers[1].calls[0].args[1]

    whole, part = {"start": None, "stop": None, "step": 1}, {"start": 1, "stop": 3, "step": 1}
    assert sliced() == (whole, part)
    assert sliced(begin_mask=0, end_mask=2) == ({**whole, "start": 0, "stop": 0}, {**part, "stop": None})
    assert sliced(ellipsis_mask=1, shrink_axis_mask=2) == (..., 1)
    assert sliced(new_axis_mask=1) == (None, part)
    reason = "function 'strided_slice' of TensorFlow is not supported with positions that aren't lists"
    for wrong in ({"begin": [0]}, {"end": [1, 2, 3]}, {"strides": [1]}, {"begin": 1}, {"end": 3}):
        assert sliced(**wrong) == [f"layer 'a' (TFOpLambda): {reason}"]


# Hostile.

COMMAND = "touch layergraph_was_here"
FUNCTIONS = [("os", "system"), ("keras.utils", "get_file"), ("keras.config", "enable_unsafe_deserialization")]


def with_code() -> dict[str, Any]:
    """Code in all places of a config where Keras has ever looked for it."""
    call = {"module": "os", "class_name": "system", "config": COMMAND, "registered_name": None}
    function = {"module": "os", "class_name": "function", "config": "system", "registered_name": "function"}
    lambda_ = {"class_name": "__lambda__", "config": {"code": "4wAAAA==", "value": ["4wAAAA==", None, None]}}
    cases: dict[str, Any] = {
        "a class of os": functional(X, {**dense(), **call}),
        "a custom class": functional(X, {**dense(), "registered_name": "builtins>Dense"}),
        "the model itself": {**functional(X, dense()), **call},
        "a subclassed model": {"class_name": "MyModel", "config": {"layers": []}},
        "Lambda": functional(X, {**dense(), "class_name": "Lambda", "config": {"name": "a", "function": lambda_}}),
        "Lambda inside": functional(
            X, layer("TimeDistributed", "a", [tensor("x")], layer={"class_name": "Lambda", "config": {}})
        ),
        "TorchModuleWrapper": functional(X, layer("TorchModuleWrapper", "a", [tensor("x")], module="gASVAAAA")),
        "TFSMLayer": functional(X, layer("TFSMLayer", "a", [tensor("x")], filepath="/etc")),
        "KerasLayer": functional(X, layer("KerasLayer", "a", [tensor("x")], handle="/etc")),
        "KerasLayer of a module": functional(
            X,
            {
                **layer("KerasLayer", "a", [tensor("x")], handle="/etc"),
                "module": "tensorflow_hub.keras_layer",
                "registered_name": "KerasLayer",
            },
        ),
        "DenseFeatures": functional(X, layer("DenseFeatures", "a", [tensor("x")], feature_columns=[])),
        "vocabulary from a file": functional(X, layer("StringLookup", "a", [tensor("x")], vocabulary="/etc/passwd")),
    }
    for key in ("activation", "kernel_initializer", "bias_regularizer", "kernel_constraint", "dtype", "name", "units"):
        for what, value in (("call", call), ("function", function), ("lambda", lambda_)):
            cases[f"{what} as {key}"] = functional(X, dense(**{key: value}))
    for module, name in FUNCTIONS:
        value = {"module": module, "class_name": "function", "config": name, "registered_name": name}
        cases[f"{module}.{name}"] = functional(X, dense(activation=value))
    call_with = {"args": [tensor("x")], "kwargs": {"mask": lambda_}}
    cases["an argument of a call"] = functional(X, {**dense(), "inbound_nodes": [call_with]})
    return cases


def named(name: str) -> dict[str, Any]:
    """The input with another name in its config than the one by which the graph refers to it."""
    return {**X, "config": {**X["config"], "name": name}}


def odd() -> dict[str, Any]:
    """Graphs that no Keras version writes."""
    many = [layer("InputLayer", f"x{i}", batch_shape=[None, 4]) for i in range(2000)]
    wrapped: dict[str, Any] = layer("Dense", "d", units=1)
    for depth in range(100):
        wrapped = layer("TimeDistributed", f"t{depth}", layer=wrapped)
    nested = functional(X, dense())
    for _ in range(70):
        nested = functional(X, {**nested, "name": "a", "inbound_nodes": [{"args": [tensor("x")], "kwargs": {}}]})
    return {
        "self-loop": functional(X, dense(of="a")),
        "cycle": functional(X, dense("a", "b"), dense("b", "a")),
        "dangling layer": functional(X, dense(of="zz")),
        "dangling output": functional(X, dense(), outputs=[["zz", 0, 0]]),
        "dangling node": functional(X, layer("Dense", "a", [tensor("x", 2**40)], units=3)),
        "negative node": functional(X, layer("Dense", "a", [tensor("x", -1)], units=3)),
        "negative tensor": functional(X, layer("Dense", "a", [tensor("x", 0, -1)], units=3)),
        "node that is text": functional(X, layer("Dense", "a", [tensor("x", "0")], units=3)),
        "two of one name": functional(X, dense(), dense()),
        "layers that are no list": {"class_name": "Functional", "config": {"name": "m", "layers": {}}},
        "a sequence whose layers are no list": {"class_name": "Sequential", "config": {"name": "m", "layers": {}}},
        "layers that are numbers": functional(1, 2),
        "a sequence of numbers": {"class_name": "Sequential", "config": {"name": "m", "layers": [1]}},
        "a model that runs code": {"class_name": "TorchModuleWrapper", "config": {"name": "m", "layers": []}},
        "calls that are numbers": functional(X, {**dense(), "inbound_nodes": [3]}),
        "calls that are text": functional(X, {**dense(), "inbound_nodes": "x"}),
        "class that is a list": functional(X, {**dense(), "class_name": ["Dense"]}),
        "config that is a list": functional(X, {**dense(), "config": []}),
        "no outputs": functional(X, dense(), outputs=[[]]),
        "outputs that are text": functional(X, dense(), outputs="a"),
        "not connected": functional(X, layer("InputLayer", "y", batch_shape=[None, 4]), dense(of="y")),
        "arity": functional(X, layer("Dense", "a", [[tensor("x")] * 3, tensor("x")], units=3)),
        "no arguments": functional(X, layer("Dense", "a", [], units=3)),
        "no layers": functional(),
        "unused inputs": functional(*many, dense(of="x0"), inputs=[["x0", 0, 0]], outputs=[["a", 1, 0]]),
        "wrapped 100 deep": functional(X, {**wrapped, "inbound_nodes": [{"args": [tensor("x")], "kwargs": {}}]}),
        "nested 70 deep": nested,
        "name with NUL": functional(X, dense("a\0b")),
        "name of 100 kB": functional(X, dense("a" * 100_000)),
        "name with a lone surrogate": functional(X, dense("\ud800")),
        "other name with a lone surrogate": functional(named("\ud800"), dense()),
        "output's name with a lone surrogate": functional(X, dense(), outputs={"\ud800": ["a", 0, 0]}),
        "other name with NUL": functional(named("a\0b"), dense()),
        "other name of 100 kB": functional(named("a" * 100_000), dense()),
        "name that is a number": functional(X, {**dense(), "name": 3}),
        "input of a mixed policy": functional({**X, "config": {**X["config"], "dtype": "mixed_float16"}}, dense()),
        "policy with two signs": functional(X, dense(dtype="gptq/--4/2_from_float32")),
        "an unknown option": functional(X, dense(colour="red")),
        "an unknown operation": functional(X, {**dense(), "module": "keras.src.ops.numpy", "class_name": "Frobnicate"}),
    }


SIZES = [-3, 0, True, "3", 3.7, 10**10, 10**30, None, [3], {}]
#: Error text of each config, so that each is rejected for the right reason.
SAID = {
    "a class of os": "layer 'a': config isn't an object",
    "a custom class": "class 'builtins>Dense' of module 'keras.layers' is not supported, but a plugin can supply it",
    "the model itself": "the model is of class 'system', expected a Functional or Sequential model",
    "a subclassed model": "expected a Functional or Sequential model; a model of another class that has",
    "Lambda": "layer 'a': Lambda holds Python code, which is never run",
    "Lambda inside": "Lambda holds Python code, which is never run",
    "TorchModuleWrapper": "TorchModuleWrapper holds Python code, which is never run",
    "TFSMLayer": "TFSMLayer runs a SavedModel of TensorFlow from a path in the config, which is never opened; replace",
    "KerasLayer": "class 'KerasLayer' runs a model of TensorFlow Hub from a path or URL in the config, which is never",
    "KerasLayer of a module": "class 'KerasLayer' of module 'tensorflow_hub.keras_layer' runs a model of",
    "DenseFeatures": "replace it by preprocessing layers and save the model again; or a plugin can supply it",
    "vocabulary from a file": "expected a list of terms: files are never opened",
    "os.system": "custom function 'system' of module 'os'",
    "keras.utils.get_file": "unknown activation 'get_file'",
    "an argument of a call": "layer 'a': __lambda__ holds Python code, which is never run",
    "self-loop": "layer 'a' (and 0 more) can't be called: their inputs depend on one another",
    "cycle": "layer 'a' (and 1 more) can't be called: their inputs depend on one another",
    "dangling layer": "can't be called: there is no call 0 of a layer 'zz'",
    "dangling output": "there is no output 0 of call 0 of a layer 'zz'",
    "dangling node": "there is no call 1099511627776 of a layer 'x'",
    "negative node": "there is no call -1 of a layer 'x'",
    "negative tensor": "there is no output -1 of call 0 of a layer 'x'",
    "node that is text": "__keras_tensor__ is malformed",
    "two of one name": "two layers are named 'a'",
    "layers that are no list": "a model is subclassed; files don't contain its graph",
    "a sequence whose layers are no list": "a Sequential model has no list of layers",
    "layers that are numbers": "a layer isn't an object",
    "a sequence of numbers": "a Sequential model holds a layer that isn't an object",
    "a model that runs code": "the model: TorchModuleWrapper holds Python code, which is never run",
    "calls that are numbers": "layer 'a': a call is malformed",
    "calls that are text": "layer 'a': inbound_nodes isn't a list",
    "class that is a list": "layer 'a': class_name is \"['Dense']\"",
    "config that is a list": "layer 'a': config isn't an object",
    "no outputs": "model 'm': outputs hold nothing, expected symbolic tensors",
    "outputs that are text": "output_layers isn't a nesting of [layer, node, tensor]",
    "not connected": "graph disconnected: input 'y' is needed but isn't among the inputs ['x']",
    "arity": "called with 2 arguments and [], expected ['inputs']",
    "no arguments": "layer 'a': call 0 takes no tensor, expected at least one",
    "no layers": "there is no output 0 of call 0 of a layer 'x'",
    "unused inputs": "there is no output 0 of call 1 of a layer 'a'",
    "wrapped 100 deep": "models and layers are nested more than 64 deep",
    "nested 70 deep": "models and layers are nested more than 64 deep",
    "name with NUL": "a layer's name is 'a\\x00b', expected text",
    "name of 100 kB": "aaa...', expected text",
    "name with a lone surrogate": "expected Unicode text",
    "other name with a lone surrogate": "expected Unicode text",
    "output's name with a lone surrogate": "a name in output_layers is '\\ud800', expected Unicode text",
    "other name with NUL": "a layer's name is 'a\\x00b', expected text",
    "other name of 100 kB": "aaa...', expected text",
    "name that is a number": "a layer's name is '3', expected text",
    "input of a mixed policy": "layer 'x': InputLayer: option 'dtype' is 'mixed_float16', expected the name of a dtype",
    "policy with two signs": "option 'dtype' is 'gptq/--4/2_from_float32', expected a dtype policy",
    "an unknown option": "layer 'a' (Dense): option 'colour' = 'red' is not supported",
    "an unknown operation": "operation 'Frobnicate' is not supported",
    **{
        f"units {value!r}": f"option 'units' is {value!r}, expected a positive integer"
        for value in [-3, 0, True, "3", {}]
    },
}
BAD = with_code() | odd() | {f"units {value!r}": functional(X, dense(units=value)) for value in SIZES}


#: What is the same in files of both containers is read by the same code, once it is JSON.
IN_H5 = ("a class of os", "Lambda", "cycle", "layers that are no list", "name with a lone surrogate")


@pytest.mark.parametrize(("name", "ending"), [*((name, ".keras") for name in BAD), *((name, ".h5") for name in IN_H5)])
def test_a_hostile_config_costs_one_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, ending: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / f"model{ending}", BAD[name])
    start = time.process_time()
    with pytest.raises(ModelFileError) as raised:
        load_model(path)
    assert time.process_time() - start < 2
    assert len(str(raised.value)) < 10_000
    if not any(part in name for part in ("_initializer", "_regularizer", "_constraint")):
        # Those never matter to serving.
        assert "weights in the file" not in str(raised.value), "refused for its weights alone"
    assert SAID.get(name, "") in str(raised.value)
    str(raised.value).encode()
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


def test_every_odd_config_has_its_own_text() -> None:
    assert odd().keys() <= SAID.keys()
    assert SAID.keys() <= BAD.keys()


WATCHED = ("import", "os", "subprocess", "socket", "open", "exec", "compile", "marshal", "pickle", "_thread")


def test_no_config_leads_to_an_import_or_a_process(tmp_path: Path) -> None:
    """Python's audit hook sees imports, processes, threads, sockets and opened files of the whole process.

    It can't be taken off again, so it listens only here, and only to this thread: servers of other tests
    look through their folders meanwhile.
    """
    events: list[tuple[str, Any]] = []
    listening = False
    here = threading.get_ident()

    def listen(event: str, arguments: tuple[Any, ...]) -> None:
        if listening and threading.get_ident() == here and event.split(".")[0] in WATCHED:
            events.append((event, arguments[:1]))

    paths = [write(tmp_path / f"{i}.keras", config) for i, config in enumerate(with_code().values())]
    for path in paths:  # once without the hook, for layergraph's own late imports
        with pytest.raises(ModelFileError):
            load_model(path)
    sys.addaudithook(listen)
    for path in paths:
        listening = True
        try:
            load_model(path)
        except ModelFileError:
            listening = False
    own = {str(path) for path in paths}
    foreign = [event for event in events if not (event[0] in ("open", "os.scandir") and str(event[1][0]) in own)]
    assert foreign == []


def test_a_call_without_tensors_or_with_other_things_is_refused(tmp_path: Path) -> None:
    for argument in (5, {"a": 1}, [1, 2], "x"):
        path = write(tmp_path / "m.keras", functional(X, layer("Dense", "a", [argument], units=3)))
        with pytest.raises(ModelFileError, match="takes no tensor"):
            load_model(path)
    path = write(tmp_path / "m.keras", functional(X, layer("Dense", "a", [[tensor("x"), 5]], units=3)))
    with pytest.raises(ModelFileError, match="layer 'a'"):
        load_model(path)


def test_calls_of_the_model_before_grow_only_linearly(tmp_path: Path) -> None:
    """A hundred thousand layers, and a layer with thousands of inputs, are read in time linear in the file's size."""
    layers = [X, *(dense(f"d{i}", f"d{i - 1}" if i else "x") for i in range(20_000))]
    start = time.process_time()
    spec, _ = spec_of(functional(*reversed(layers), outputs=[["d19999", 0, 0]]))
    assert len(spec.layers) == 20_001
    assert time.process_time() - start < 5
