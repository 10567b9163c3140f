"""Custom layers: registered by modules that a setting names, found by the names in files."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import h5py
import keras
import layergraph
import numpy as np
import pytest
from layergraph import plugins
from layergraph.errors import ConfigError, UnsupportedModelError
from layergraph.plugins import load_plugins, register_activation, register_layer
from oracles import assert_close

PLUGIN = """
from layergraph.config.options import number, option
from layergraph.functional.layer import Layer
from layergraph.initializers import Ones
from layergraph.plugins import register_layer, replace_lambda


@register_layer("mine")
class Scale(Layer):
    factor: float = option(number)

    def build(self, input_shape):
        self.add_weight("gain", (input_shape[-1],), Ones())

    def forward(self, run, w, x):
        return x * w.gain * self.factor


@replace_lambda("halve")
class Halve(Layer):
    def forward(self, run, w, x):
        return x / 2
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "plugin_of_a_test.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "_classes", {})
    monkeypatch.setattr(plugins, "_lambdas", {})
    monkeypatch.setattr(plugins, "_activations", {})
    monkeypatch.delitem(sys.modules, "plugin_of_a_test", raising=False)
    return "plugin_of_a_test"


@keras.saving.register_keras_serializable("mine")
class Scale(keras.layers.Layer):
    def __init__(self, factor: float, **options: Any) -> None:
        super().__init__(**options)
        self.factor = factor

    def build(self, input_shape: Any) -> None:
        self.gain = self.add_weight(shape=(input_shape[-1],), initializer="ones", name="gain")

    def call(self, x: Any) -> Any:
        return x * self.gain * self.factor

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factor": self.factor}


def custom(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Saves a stock Keras model with custom code; returns an input and the expected output."""
    x = keras.Input((3,), name="x")
    y = keras.layers.Lambda(lambda t: t / 2, name="halve")(Scale(3.0, name="scale")(x))
    model = keras.Model(x, keras.layers.TimeDistributed(Scale(2.0, name="inner"))(keras.layers.Reshape((1, 3))(y)))
    random = np.random.default_rng(0)
    model.set_weights([random.standard_normal(w.shape) for w in model.get_weights()])
    logging.getLogger("absl").setLevel(logging.ERROR)
    model.save(path)
    inputs = random.standard_normal((2, 3)).astype("f4")
    return inputs, model.predict_on_batch(inputs)


def test_custom_classes_are_listed_until_a_plugin_has_them(plugin: str, tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    inputs, expected = custom(path)
    with pytest.raises(UnsupportedModelError) as raised:
        layergraph.load_model(path)
    assert "layer 'halve': Lambda holds Python code" in str(raised.value)
    assert "replace_lambda" in str(raised.value)
    assert all(f"layer '{name}'" in str(raised.value) for name in ("scale", "inner"))
    assert f"class 'mine>Scale' of module '{__name__}' is not supported" in str(raised.value)
    assert load_plugins([plugin]) == ["mine>Scale", "Lambda 'halve'"]
    assert_close(layergraph.load_model(path).predict(inputs), expected)


def legacy(tmp_path: Path) -> Path:
    """An architecture as Keras 2 writes it: custom classes and functions have no package."""

    def layer(class_name: str, name: str, before: str, **config: Any) -> dict[str, Any]:
        calls = [[[before, 0, 0, {}]]] if before else []
        return {"class_name": class_name, "config": {"name": name, **config}, "name": name, "inbound_nodes": calls}

    inner = {"class_name": "Odd", "config": {"name": "inner", "trainable": True}}
    layers = [
        layer("InputLayer", "x", "", batch_input_shape=[None, 3, 2], dtype="float32"),
        layer("Odd", "odd", "x"),
        layer("TimeDistributed", "each", "odd", layer=inner),
        layer("Activation", "first", "each", activation="<lambda>"),
        layer("Dense", "second", "first", units=2, activation="squash", use_bias=False),
    ]
    graph = {"name": "m", "layers": layers, "input_layers": [["x", 0, 0]], "output_layers": [["second", 0, 0]]}
    whole = {"class_name": "Model", "config": graph, "keras_version": "2.2.4", "backend": "tensorflow"}
    (tmp_path / "model.json").write_text(json.dumps(whole))
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs["layer_names"] = ["second"]
        group = file.create_group("second")
        group.attrs["weight_names"] = ["second/kernel:0"]
        group["second/kernel:0"] = np.eye(2, dtype="f4")
    return tmp_path


def test_all_that_is_custom_is_told_with_its_place(plugin: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        layergraph.load_model(legacy(tmp_path))
    problems = raised.value.problems
    assert [problem.partition(":")[0] for problem in problems] == [
        "layer 'odd', layer 'inner' in 'each'",
        "layer 'first'",
        "layer 'second'",
    ]
    assert "register_layer" in problems[0]
    assert all("register_activation" in problem for problem in problems[1:])


def test_a_class_of_another_name_finds_its_weights(plugin: str, tmp_path: Path) -> None:
    """Groups of weights have the name that Keras's class has in its module, not the name that it is registered by."""

    @keras.saving.register_keras_serializable("mine", "Registered")
    class Theirs(keras.layers.Dense):  # type: ignore[misc]
        pass

    @register_layer("mine", "Registered")
    class Ours(layergraph.layers.Dense):
        pass

    x = keras.Input((3,))
    each = keras.layers.TimeDistributed(Theirs(4))(keras.layers.RepeatVector(2)(Theirs(3, name="first")(x)))
    theirs = keras.Model(x, each)
    theirs.save(tmp_path / "m.keras")
    rows = np.random.default_rng(0).standard_normal((5, 3)).astype("f4")
    ours = layergraph.load_model(tmp_path / "m.keras")
    assert isinstance(ours.get_layer("first"), Ours)
    ours.save(tmp_path / "again.keras")
    for again in (
        ours,
        layergraph.load_model(tmp_path / "again.keras"),
        keras.models.load_model(tmp_path / "again.keras"),
    ):
        assert_close(again.predict(rows), theirs.predict(rows, verbose=0))


def named_as_in_keras() -> Any:
    """A class with the name of one of Keras's, which computes something else, as those of keras-multi-head do."""

    class Dense(keras.layers.Dense):  # type: ignore[misc]
        def call(self, inputs: Any) -> Any:
            return 2 * super().call(inputs)

    return Dense


class Dense(layergraph.layers.Dense):
    def forward(self, context: Any, w: Any, x: Any) -> Any:
        return 2 * super().forward(context, w, x)


def test_a_custom_class_is_not_taken_for_kerass_of_its_name(plugin: str, tmp_path: Path) -> None:
    x = keras.Input((3,))
    theirs = keras.Model(x, keras.layers.Dense(2)(named_as_in_keras()(4)(x)))
    theirs.save(tmp_path / "m.keras")
    with pytest.raises(UnsupportedModelError, match=f"custom class 'Dense' of module '{__name__}' is not supported"):
        layergraph.load_model(tmp_path / "m.keras")

    register_layer()(Dense)
    ours = layergraph.load_model(tmp_path / "m.keras")
    rows = np.random.default_rng(0).standard_normal((5, 3)).astype("f4")
    assert_close(ours.predict(rows), theirs.predict(rows, verbose=0))
    ours.save(tmp_path / "again.keras")
    assert_close(layergraph.load_model(tmp_path / "again.keras").predict(rows), theirs.predict(rows, verbose=0))


def test_passed_classes_come_first_where_a_file_has_no_modules(plugin: str, tmp_path: Path) -> None:
    x = keras.Input((3,))
    theirs = keras.Model(x, named_as_in_keras()(4)(x))
    theirs.save(tmp_path / "m.h5")
    rows = np.random.default_rng(0).standard_normal((5, 3)).astype("f4")
    ours = layergraph.load_model(tmp_path / "m.h5", custom_objects={"Dense": Dense})
    assert_close(ours.predict(rows), theirs.predict(rows, verbose=0))
    # Keras can't know either: without the class it computes its own.
    assert_close(layergraph.load_model(tmp_path / "m.h5").predict(rows), theirs.predict(rows, verbose=0) / 2)


def test_a_class_that_many_layers_lack_hides_no_other(tmp_path: Path) -> None:
    class FixedDropout(keras.layers.Dropout):  # type: ignore[misc]
        pass

    class Last(keras.layers.Layer):  # type: ignore[misc]
        def call(self, inputs: Any) -> Any:
            return inputs

    x = y = keras.Input((3,))
    for number in range(60):
        y = FixedDropout(0.1, name=f"drop{number}")(y)
    keras.Model(x, Last()(y)).save(tmp_path / "m.keras")
    with pytest.raises(UnsupportedModelError) as raised:
        layergraph.load_model(tmp_path / "m.keras")
    first, second = raised.value.problems
    assert first.startswith("layer 'drop0', layer 'drop1', ")
    assert f"layer 'drop19' and 40 more: custom class 'FixedDropout' of module '{__name__}' is not supported" in first
    assert "custom class 'Last'" in second


def test_what_a_file_names_without_a_package_is_found(plugin: str, tmp_path: Path) -> None:
    @register_layer()
    class Odd(layergraph.layers.Layer):
        def forward(self, run: Any, w: Any, x: Any) -> Any:
            return x + 1

    @register_activation(name="<lambda>")
    def doubled(x: Any) -> Any:
        return 2 * x

    register_activation(name="squash")(lambda x: x / 10)
    model = layergraph.load_model(legacy(tmp_path))
    x = np.random.default_rng(0).standard_normal((2, 3, 2)).astype("f4")
    assert_close(model.predict(x), (x + 2) * 2 / 10)
    model.save(tmp_path / "again.keras")
    assert_close(layergraph.load_model(tmp_path / "again.keras").predict(x), (x + 2) * 2 / 10)


def test_two_functions_of_one_name_are_refused(plugin: str) -> None:
    register_activation("mine", "f")(np.sin)
    register_activation("mine", "f")(np.sin)
    with pytest.raises(ConfigError, match="'mine>f' is registered twice"):
        register_activation("mine", "f")(np.cos)


def test_a_file_imports_nothing(plugin: str, tmp_path: Path) -> None:
    """A module on the path has a matching class, but no setting names it."""
    custom(tmp_path / "m.keras")
    with pytest.raises(UnsupportedModelError):
        layergraph.load_model(tmp_path / "m.keras")
    assert plugin not in sys.modules


def test_a_class_of_ours_is_never_replaced(plugin: str) -> None:
    register_layer("keras", "Dense")(layergraph.layers.Activation)
    x = keras.Input((3,))
    config = keras.Model(x, keras.layers.Dense(2)(x)).get_config()
    assert config["layers"][1]["class_name"] == "Dense"
    from layergraph.layers.table import LAYERS

    assert LAYERS["Dense"] is layergraph.layers.Dense
    assert not [name for name in plugins.custom_layers() if ">" not in name]


def test_two_classes_of_one_name_are_refused(plugin: str) -> None:
    load_plugins([plugin])
    with pytest.raises(ConfigError, match="'mine>Scale' is registered twice"):
        register_layer("mine", "Scale")(layergraph.layers.Dense)


def test_a_plugin_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="plugin 'no_such_module' can't be imported: ModuleNotFoundError"):
        load_plugins(["no_such_module"])
