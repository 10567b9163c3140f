"""The public modules with Keras's names: their contents, compared with Keras's."""

from __future__ import annotations

import importlib
import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import keras
import layergraph
import numpy as np
import pytest
import torch
from layergraph import models, utils
from layergraph.errors import ConfigError, DataError, ModelFileError
from layergraph.ops.functions import FUNCTIONS
from oracles import assert_close

#: Module -> names of Keras's that it lacks, and its own.
PUBLIC: dict[str, tuple[str, str]] = {
    "": (
        """
        DTypePolicy FloatDTypePolicy Function Initializer KerasTensor Loss Metric Operation Optimizer Quantizer
        Regularizer RematScope StatelessScope SymbolicScope Variable applications backend config datasets device
        distillation distribution dtype_policies export legacy mixed_precision name_scope preprocessing quantizers
        remat src tree version visualization wrappers
        """,
        "clear_session load_model",
    ),
    "activations": ("threshold", ""),
    "callbacks": ("CallbackList OrbaxCheckpoint ProgbarLogger RemoteMonitor", "JSONLogger"),
    "constraints": ("", ""),
    "initializers": ("IdentityInitializer OrthogonalInitializer STFTInitializer", ""),
    "losses": ("deserialize serialize", ""),
    "metrics": ("deserialize serialize", ""),
    "models": ("", ""),
    "optimizers": ("deserialize legacy serialize", ""),
    "optimizers.schedules": ("deserialize serialize", ""),
    "random": ("beta binomial gamma", ""),
    "regularizers": ("", ""),
    "saving": (
        """
        CustomObjectScope KerasFileEditor get_custom_objects get_registered_name get_registered_object load_model
        load_weights save_model save_weights
        """,
        "",
    ),
}
#: The only names of `utils`; Keras's has many that are about files and data sets.
UTILS = {
    *("clear_session", "custom_object_scope", "model_to_dot", "normalize", "plot_model", "register_keras_serializable"),
    *("set_random_seed", "split_dataset", "to_categorical"),
}


def modules(name: str) -> tuple[Any, Any]:
    """The module of this package, and Keras's."""
    ours, theirs = (importlib.import_module(f"{root}.{name}".rstrip(".")) for root in ("layergraph", "keras"))
    return ours, theirs


@pytest.mark.parametrize("module", PUBLIC)
def test_a_module_holds_keras_s_names_but_for_a_few(module: str) -> None:
    ours, theirs = modules(module)
    lacks, own = (set(names.split()) for names in PUBLIC[module])
    assert set(ours.__all__) == {name for name in vars(theirs) if not name.startswith("_")} - lacks | own
    assert all(hasattr(ours, name) for name in ours.__all__)


def test_utils_holds_some_of_keras_s_names() -> None:
    ours, theirs = modules("utils")
    assert set(ours.__all__) == UTILS == {name for name in UTILS if hasattr(ours, name) and hasattr(theirs, name)}


def test_operations_have_keras_s_modules() -> None:
    x = torch.rand(1, 4, 4, 3)
    for module, name in {"image": "rgb_to_grayscale", "nn": "softmax", "numpy": "mean", "linalg": "norm"}.items():
        got, wanted = (getattr(getattr(package.ops, module), name)(x) for package in (layergraph, keras))
        assert_close(got.numpy(), wanted.numpy())


@pytest.mark.parametrize(
    ("module", "name", "instead"),
    [
        (layergraph, "Variable", "self.add_weight"),
        (layergraph, "backend", "layergraph.ops"),
        (layergraph.layers, "serialize", "layergraph.saving.serialize_keras_object"),
    ],
)
def test_what_to_use_in_place_of_a_name_of_keras(module: Any, name: str, instead: str) -> None:
    with pytest.raises(AttributeError, match=rf"has no attribute '{name}'; expected {instead}"):
        getattr(module, name)
    with pytest.raises(AttributeError, match=r"has no attribute 'no_such'$"):
        layergraph.no_such  # noqa: B018


def test_layers_have_keras_s_other_names() -> None:
    theirs = {name: getattr(keras.layers, name) for name in dir(keras.layers)}
    layers = {name: kind.__name__ for name, kind in theirs.items() if isinstance(kind, type)}
    others = {name: first for name, first in layers.items() if name != first and hasattr(layergraph.layers, first)}
    assert len(others) == 20
    assert {name: getattr(layergraph.layers, name).__name__ for name in others} == others


#: Defaults that differ: what only this package has or leaves out, and masks and shapes that Keras's own calls give.
#: `predict` draws no progress bar, and no weights are excluded by default in either.
OTHER_DEFAULTS = {
    "predict(verbose)",
    "exclude_from_weight_decay(var_list)",
    "exclude_from_weight_decay(var_names)",
    "export(format)",
    "summary(print_fn)",
    "categorical_generalized_cross_entropy(q)",
    "add_weight(shape)",
    "build(input_shape)",
    "build(value_shape)",
    "compute_mask(mask)",
}


@pytest.mark.parametrize("module", [*PUBLIC, "utils"])
def test_defaults_of_functions_and_methods_are_keras_s(module: str) -> None:
    ours, theirs = modules(module)
    pairs: dict[str, tuple[Any, Any]] = {}
    for name in {*dir(theirs)} & {*dir(ours)}:
        one, other = getattr(ours, name), getattr(theirs, name)
        pairs[name] = one, other
        # Those of bases, too: `fit` is one of those.
        for method in dir(other) if inspect.isclass(other) and inspect.isclass(one) else ():
            if not method.startswith("_"):
                pairs[f"{name}.{method}"] = getattr(one, method, None), getattr(other, method)
    differ = set()
    for name, both in pairs.items():
        if not all(map(callable, both)):
            continue
        one, other = ({p.name: p.default for p in inspect.signature(f).parameters.values()} for f in both)
        method = name.rpartition(".")[2]
        differ |= {f"{method}({key})" for key in one.keys() & other.keys() if one[key] != other[key]}
    assert differ <= OTHER_DEFAULTS


# Models as text.


def functional(k: Any) -> Any:
    """A model with a nested one, a shared layer, an operation, two inputs and two outputs."""
    a, b = k.Input((4,), name="a"), k.Input((4,), name="b")
    inner_input = k.Input((3,), name="inner_input")
    inner = k.Model(inner_input, k.layers.Dense(3, activation="tanh", name="deep")(inner_input), name="inner")
    shared = k.layers.Dense(3, name="shared")
    x, y = inner(shared(a)), shared(b)
    joined = k.layers.Concatenate(name="joined")([x, y * 2.0])
    return k.Model([a, b], [k.layers.Dense(2, name="one")(joined), k.layers.Dropout(0.5, name="two")(joined)], name="m")


def stack(k: Any) -> Any:
    return k.Sequential(
        [k.Input((4,)), k.layers.Dense(3, activation="relu", name="a"), k.layers.Dense(2, name="b")], name="s"
    )


MAKERS = pytest.mark.parametrize("make", [functional, stack])


def numbers(model: Any, weights: list[np.ndarray]) -> list[np.ndarray]:
    model.set_weights(weights)
    x = np.random.default_rng(0).standard_normal((3, 4)).astype("f4")
    outputs = model.predict_on_batch([x, x[::-1].copy()] if len(model.inputs) == 2 else x)
    return [keras.ops.convert_to_numpy(y) for y in (outputs if isinstance(outputs, list) else [outputs])]


def same(one: Any, other: Any) -> None:
    """Two models with the same names, shapes and weights have the same outputs."""
    assert [layer.name for layer in one.layers] == [layer.name for layer in other.layers]
    weights = [np.random.default_rng(1).standard_normal(w.shape).astype("f4") for w in one.get_weights()]
    for got, expected in zip(numbers(one, weights), numbers(other, weights), strict=True):
        assert_close(got, expected)


@MAKERS
def test_from_config(make: Any) -> None:
    ours, theirs = make(layergraph), make(keras)
    again = type(ours).from_config(ours.get_config())
    assert again.name == ours.name
    assert again.get_config() == ours.get_config()
    same(again, theirs)
    same(type(ours).from_config(theirs.get_config()), theirs)
    same(type(theirs).from_config(ours.get_config()), theirs)


@MAKERS
def test_json_goes_both_ways(make: Any) -> None:
    ours, theirs = make(layergraph), make(keras)
    ours.compile("adam", "mse", metrics=["mae"])
    text = ours.to_json(indent=2)
    assert json.loads(text)["class_name"] == type(theirs).__name__
    again = models.model_from_json(text)
    assert again.compiled
    same(again, theirs)
    same(keras.models.model_from_json(text), theirs)
    same(models.model_from_json(theirs.to_json()), theirs)


@pytest.mark.parametrize("text", ["no json", "[]", "{}", '{"class_name": "Functional", "config": {}}', '{"config": 1}'])
def test_a_text_that_describes_no_model(text: str) -> None:
    with pytest.raises((ConfigError, ModelFileError)):
        models.model_from_json(text)


@MAKERS
def test_clones_have_weights_of_their_own(make: Any) -> None:
    ours = make(layergraph)
    clone = models.clone_model(ours)
    expected = keras.models.clone_model(make(keras))
    assert type(clone) is type(ours)
    assert [layer.name for layer in clone.layers] == [layer.name for layer in expected.layers]
    assert not {id(layer) for layer in clone.layers} & {id(layer) for layer in ours.layers}
    same(clone, expected)
    before = ours.get_weights()
    clone.set_weights([w + 1 for w in before])
    assert all(np.array_equal(a, b) for a, b in zip(ours.get_weights(), before, strict=True))


@MAKERS
def test_clones_with_other_layers(make: Any) -> None:
    def clone_function(k: Any) -> Any:
        def clone(layer: Any) -> Any:
            if type(layer).__name__ != "Dense":
                return type(layer).from_config(layer.get_config())
            return k.layers.Dense(**{**layer.get_config(), "use_bias": False})

        return clone

    ours = models.clone_model(make(layergraph), clone_function=clone_function(layergraph))
    theirs = keras.models.clone_model(make(keras), clone_function=clone_function(keras))
    assert [w.shape for w in ours.get_weights()] == [w.shape for w in theirs.get_weights()]
    same(ours, theirs)


@MAKERS
def test_clones_on_other_inputs(make: Any) -> None:
    ours, theirs = make(layergraph), make(keras)
    inputs = [[k.Input((4,), name=f"new_{i}") for i in range(len(theirs.inputs))] for k in (layergraph, keras)]
    clones = [
        package.clone_model(model, input_tensors=given if len(given) > 1 else given[0])
        for package, model, given in ((models, ours, inputs[0]), (keras.models, theirs, inputs[1]))
    ]
    weights = [np.ones(w.shape, "f4") * 0.3 for w in ours.get_weights()]
    for got, expected in zip(numbers(clones[0], weights), numbers(clones[1], weights), strict=True):
        assert_close(got, expected)
    if make is functional:
        with pytest.raises(ConfigError, match="got 1 input tensors, expected 2"):
            models.clone_model(ours, input_tensors=layergraph.Input((4,)))


# Utils.


@pytest.mark.parametrize("classes", [[0, 2, 1], [[0], [1]], [[0, 1], [2, 2]], 1, [[[3]]]])
@pytest.mark.parametrize("count", [None, 5])
def test_to_categorical(classes: Any, count: int | None) -> None:
    got, expected = utils.to_categorical(classes, count), keras.utils.to_categorical(classes, count)
    assert got.dtype == expected.dtype
    assert np.array_equal(got, expected)


def test_to_categorical_refuses_unknown_classes() -> None:
    with pytest.raises(DataError, match="got classes from 1 to 3, expected 0 to 2"):
        utils.to_categorical([3, 1], 3)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("order", [1, 2, np.inf])
def test_normalize(axis: int, order: float) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 2))
    x[0] = 0
    assert np.allclose(utils.normalize(x, axis, order), keras.utils.normalize(x, axis, order))


def test_normalize_along_the_first_axis() -> None:
    """Keras treats axis 0 as the last axis."""
    assert np.allclose(utils.normalize([[3.0, 0.0], [4.0, 0.0]], axis=0), [[0.6, 0], [0.8, 0]])


def test_split_dataset() -> None:
    x, y = np.arange(10), np.arange(10) * 2
    (left_x, left_y), (right_x, right_y) = utils.split_dataset((x, y), left_size=0.7)
    assert (left_x.tolist(), right_x.tolist()) == (list(range(7)), [7, 8, 9])
    assert (left_y == left_x * 2).all()
    assert (right_y == right_x * 2).all()
    left, right = utils.split_dataset({"x": x}, right_size=4, shuffle=True, seed=1)
    assert sorted([*left["x"], *right["x"]]) == list(range(10))
    assert len(right["x"]) == 4
    for wrong in ({}, {"left_size": 11}, {"left_size": 1.5}, {"left_size": 6, "right_size": 6}):
        with pytest.raises(ConfigError, match="split_dataset"):
            utils.split_dataset(x, **wrong)


def test_set_random_seed() -> None:
    drawn = []
    for _ in range(2):
        utils.set_random_seed(7)
        dense = layergraph.layers.Dense(3)(np.ones((1, 2), "f4"))
        drawn.append((torch.rand(2).tolist(), np.random.random(), dense.tolist()))
    assert drawn[0] == drawn[1]
    with pytest.raises(ConfigError, match="got seed -1"):
        utils.set_random_seed(-1)


def test_plots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = functional(layergraph)
    path = utils.plot_model(model, tmp_path / "m.dot", show_shapes=True, show_dtype=True, show_layer_names=True)
    text = path.read_text()
    assert text.startswith('digraph "m" {')
    assert text.count(" -> ") == 8
    assert '[label="shared\\n(Dense)\\nOutput shape: (None, 3)\\nOutput dtype: float32"]' in text
    odd = layergraph.Sequential([layergraph.Input((2,)), layergraph.layers.Dense(1, name='a"]\n}\\')])
    assert r'label="a\"]\n}\\\n(Dense)"' in utils.model_to_dot(odd, show_layer_names=True)
    odd = layergraph.Sequential([layergraph.Input((2,)), layergraph.layers.Dense(1, name="&lt;\x1b")])
    assert r'label="&amp;lt;\\x1b\n(Dense)"' in utils.model_to_dot(odd, show_layer_names=True)
    with pytest.raises(ConfigError, match=r"got path 'm.txt', expected one that ends in \.png"):
        utils.plot_model(model, tmp_path / "m.txt")
    if shutil.which("dot"):
        assert utils.plot_model(model, tmp_path / "m.svg").read_text().count("<title>") > 8
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"`dot` of graphviz isn't installed.*apt install graphviz"):
        utils.plot_model(model, tmp_path / "m.png")
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\necho no such font >&2\nexit 1\n")
    program.chmod(0o755)
    with pytest.raises(ConfigError, match="graphviz failed: no such font"):
        utils.plot_model(model, tmp_path / "m.png")


# Ops as functions.

#: Functions that take arguments other than tensors, and are left out.
NOT_OFFERED = """
    associative_scan bartlett batch_normalization blackman cond custom_gradient dtype empty eye fori_loop hamming
    hanning identity is_tensor jvp kaiser layer_normalization map rearrange rms_normalization scan switch tri vectorize
    vectorized_map while_loop
"""
X = np.random.default_rng(0).uniform(0.2, 0.9, (3, 4)).astype("f4")
#: Calls by position, by name, and with plain values.
CALLS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "matmul": ((X, X.T.copy()), {}),
    "sum": ((X,), {"axis": -1, "keepdims": True}),
    "concatenate": (([X, X], 1), {}),
    "softmax": ((X,), {"axis": 0}),
    "one_hot": ((np.array([0, 2]), 3), {}),
    "top_k": ((X,), {"k": 2}),
    "split": ((X, 2), {"axis": 1}),
    "linspace": ((0.0, 1.0, 5), {}),
    "einsum": (("ij,kj->ik", X, X), {}),
    "ones": (((2,),), {"dtype": "int32"}),
}


def test_functions_are_those_of_keras() -> None:
    theirs = {name for name in dir(keras.ops) if inspect.isfunction(getattr(keras.ops, name))}
    assert theirs - FUNCTIONS.keys() == set(NOT_OFFERED.split())
    with pytest.raises(AttributeError, match=r"module 'layergraph\.ops' has no attribute 'no_such'"):
        layergraph.ops.no_such  # noqa: B018


@pytest.mark.parametrize("name", CALLS)
def test_a_function_of_tensors(name: str) -> None:
    args, kwargs = CALLS[name]

    def tensor(value: Any) -> Any:
        if isinstance(value, list):
            return [tensor(item) for item in value]
        return torch.as_tensor(value) if isinstance(value, np.ndarray) else value

    expected = getattr(keras.ops, name)(*map(tensor, args), **kwargs)
    got = getattr(layergraph.ops, name)(*map(tensor, args), **kwargs)
    many = isinstance(expected, (tuple, list))
    for ours, theirs in zip(got if many else [got], expected if many else [expected], strict=True):
        assert ours.is_floating_point() == theirs.is_floating_point()
        assert_close(ours.numpy(), keras.ops.convert_to_numpy(theirs))


def test_a_function_of_symbolic_tensors_is_a_node() -> None:
    x = layergraph.Input((4,))
    model = layergraph.Model(x, layergraph.ops.sum(layergraph.ops.relu(x - 0.5), axis=-1, keepdims=True))
    assert_close(model.predict_on_batch(X), np.maximum(X - 0.5, 0).sum(-1, keepdims=True))
    assert layergraph.ops.shape(x) == (None, 4)
    assert layergraph.ops.einsum("ij,kj->ik", x, x).shape == (None, None)
