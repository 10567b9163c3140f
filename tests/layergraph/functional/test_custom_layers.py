"""Layers written as in Keras's guide: the same source runs with stock Keras and with this package."""

from __future__ import annotations

import io
import json
import re
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import layergraph
import numpy as np
import pytest
import torch
from layergraph import plugins
from layergraph.config.training_rules import KERAS2_RULES
from layergraph.errors import ConfigError, CorruptFileError, GraphError, UnsupportedModelError
from layergraph.functional.binding import Binder, bind_values
from layergraph.functional.call_context import CallContext
from layergraph.functional.nest import map_structure
from layergraph.functional.shard import Shard
from listed_blocks import block_of
from oracles import assert_close

#: Classes of the guide "Making new layers and models via subclassing", and a few more advanced ones.
SOURCE = '''
import inspect

import numpy as np

ops = keras.ops


@keras.saving.register_keras_serializable("guide")
class Linear(keras.layers.Layer):
    def __init__(self, units=32, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, input_shape):
        self.w = self.add_weight(
            shape=(input_shape[-1], self.units), initializer="random_normal", trainable=True, name="w",
            regularizer="l2", constraint=keras.constraints.MaxNorm(3.0),
        )
        self.b = self.add_weight(shape=(self.units,), initializer="zeros", trainable=True, dtype="float32")

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.w) + self.b

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        config = super().get_config()
        config.update({"units": self.units})
        return config


@keras.saving.register_keras_serializable("guide")
class EarlyWeights(keras.layers.Layer):
    def __init__(self, units=4, input_dim=5, **kwargs):
        super().__init__(**kwargs)
        self.units, self.width = units, input_dim
        self.w = self.add_weight(shape=(input_dim, units), initializer="glorot_uniform", trainable=True)

    def call(self, inputs):
        return ops.tanh(inputs @ self.w)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "input_dim": self.width}


@keras.saving.register_keras_serializable("guide")
class Block(keras.layers.Layer):
    def __init__(self, widths=(6, 3), rate=0.5, **kwargs):
        super().__init__(**kwargs)
        self.widths, self.rate = tuple(widths), rate
        self.first = Linear(8)
        self.more = []
        for width in widths:
            self.more.append(keras.layers.Dense(width, activation="relu"))
        self.by_name = {"norm": keras.layers.BatchNormalization()}
        self.stack = keras.Sequential([keras.layers.Dense(4), keras.layers.ReLU()])
        self.dropout = keras.layers.Dropout(rate)

    def call(self, x, training=None):
        x = ops.relu(self.first(x))
        for layer in self.more:
            x = layer(x)
        x = self.by_name["norm"](x, training=training)
        return self.dropout(self.stack(x), training=training) + self.first.b[0]

    def get_config(self):
        return {**super().get_config(), "widths": self.widths, "rate": self.rate}


@keras.saving.register_keras_serializable("guide")
class Guided(keras.layers.Layer):
    """Builds its sublayer itself, and takes two inputs and a number."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(3)

    def build(self, query_shape, value_shape):
        self.dense.build(query_shape)
        self.gain = self.add_weight((value_shape[-1],), "ones", name="gain")

    def call(self, query, value, factor=1.0):
        return self.dense(query) * factor, ops.sum(value * self.gain, axis=-1)


@keras.saving.register_keras_serializable("guide")
class Masked(keras.layers.Layer):
    """The masks reach a sublayer, and the layer itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.lstm = keras.layers.LSTM(3, return_sequences=True)
        self.scores = keras.layers.Dense(1)

    def build(self, input_shape):
        self.lstm.build(input_shape)
        self.scores.build((*input_shape[:-1], 3))
        super().build(input_shape)

    def call(self, inputs, mask=None):
        hidden = self.lstm(inputs)
        if mask is None:
            return hidden
        scores = ops.where(ops.expand_dims(mask, -1), self.scores(hidden), -1e9)
        return hidden * ops.softmax(scores, axis=1)


@keras.saving.register_keras_serializable("guide")
class Embedded(keras.layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding = keras.layers.Embedding(7, 4, mask_zero=True)
        self.lstm = keras.layers.LSTM(2)

    def call(self, inputs):
        return self.lstm(self.embedding(inputs))


@keras.saving.register_keras_serializable("guide")
class Tokens(keras.layers.Layer):
    """Gives its output a mask, from inputs without one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.embedding = keras.layers.Embedding(7, 4, mask_zero=True)

    def call(self, inputs):
        return self.embedding(inputs)


@keras.saving.register_keras_serializable("guide")
class Counted(keras.layers.Layer):
    """Keeps a mean that training moves."""

    def build(self, input_shape):
        self.mean = self.add_weight(shape=(input_shape[-1],), initializer="zeros", trainable=False, name="mean")

    def call(self, inputs, training=False):
        if training:
            self.mean.assign(self.mean * 0.9 + ops.mean(inputs, axis=0) * 0.1)
        self.add_loss(0.01 * ops.mean(ops.square(inputs)))
        return inputs - self.mean


@keras.saving.register_keras_serializable("guide")
class Derived(keras.layers.Dense):
    """A layer of Keras's whose outputs are changed."""

    def call(self, inputs, training=None):
        return 2 * super().call(inputs, training=training) + ops.sum(self.kernel)


@keras.saving.register_keras_serializable("guide")
class Causal(keras.layers.Conv1D):
    """Has a config of its own."""

    def __init__(self, filters, gain=1.0, **kwargs):
        super().__init__(filters, 3, padding="causal", **kwargs)
        self.gain = gain

    def call(self, inputs):
        return self.gain * super().call(inputs)

    def get_config(self):
        return {"name": self.name, "filters": self.filters, "gain": self.gain}


@keras.saving.register_keras_serializable("guide")
class Step(keras.layers.Layer):
    """Builds its layers one on the other's output, as keras-tcn does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = []

    def build(self, input_shape):
        shape = input_shape
        for rate in (1, 2):
            for part in (
                keras.layers.Conv1D(4, 2, dilation_rate=rate, padding="causal"),
                keras.layers.Activation("relu"),
                keras.layers.SpatialDropout1D(0.5),
            ):
                part.build(shape)
                shape = part.compute_output_shape(shape)
                self.parts.append(part)
        self.shortcut = keras.layers.Lambda(lambda x, by: x * by, arguments={"by": 0.5})
        self.shape = shape

    def call(self, x, training=None):
        y = x
        for part in self.parts:
            takes = "training" in inspect.signature(part.call).parameters
            y = part(y, training=training) if takes else part(y)
            if isinstance(part, keras.layers.Conv1D):
                y = 2 * y
        return keras.layers.add([self.shortcut(x), y]), self.skipped(y)

    def skipped(self, y):
        return self.parts[0].call(y)

    def compute_output_shape(self, input_shape):
        return self.shape, self.shape


@keras.saving.register_keras_serializable("guide")
class Steps(keras.layers.Layer):
    """Reaches into the layers that it holds."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.step = Step()
        self.stack = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(3)])

    def build(self, input_shape):
        self.step.build(input_shape)
        self.stack.build((None, None, 4))

    def call(self, x):
        y, skipped = self.step(x)
        for layer in self.stack.layers:
            y = layer(y)
        return ops.concatenate([y, skipped, self.step.skipped(x), self.step.parts[0](x)], axis=-1)


@keras.saving.register_keras_serializable("guide")
class Mixed(keras.layers.Layer):
    """Gets its layers in another order than its attributes."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.last, self.more, self.first = None, [], None

    def build(self, input_shape):
        self.first = keras.layers.Dense(5)
        self.more.append(keras.layers.Dense(5))
        self.last = keras.layers.Dense(5)
        self.more.append(keras.layers.Dense(5))
        self.pair = [keras.layers.Dense(5), keras.layers.Dense(5)][::-1]
        for layer in (self.first, *self.more, self.last, *self.pair):
            layer.build(input_shape)

    def call(self, x):
        for layer in (*self.more, self.first, *self.pair):
            x = ops.tanh(layer(x))
        return self.last(x)


@keras.saving.register_keras_serializable("guide")
class Attending(keras.layers.Layer):
    """Its attention removes the mask of a tensor: the second finds none."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = keras.layers.MultiHeadAttention(2, 3)

    def call(self, x):
        return self.attention(x, x) - 2 * self.attention(x, x)


@keras.saving.register_keras_serializable("guide")
class AttendingTwice(keras.layers.Layer):
    """Gets a mask that was there when the model was built, whatever was removed since."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = Attending(), keras.layers.MultiHeadAttention(2, 3)

    def call(self, x, mask=None):
        y = self.first(x) + self.second(x, x)
        return y if mask is None else y * ops.cast(ops.expand_dims(mask, -1), x.dtype)


@keras.saving.register_keras_serializable("guide")
class Decoding(keras.layers.Layer):
    """Names the arguments of its attention and the inputs of its model, in another order than theirs."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = keras.layers.MultiHeadAttention(2, 3)
        late, early = keras.Input((6, 4), name="late"), keras.Input((6, 4), name="early")
        between = keras.layers.Subtract()([late, keras.layers.Dense(4)(early)])
        self.between = keras.Model({"late": late, "early": early}, between)

    def call(self, x, context):
        return self.attention(query=x, key=context, value=2 * context) + self.between({"late": x, "early": context})


@keras.saving.register_keras_serializable("guide")
class Positions(keras.layers.Layer):
    """Tokens and positions of sequences of any length, up to that of its tables, with the mask of the tokens."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.tokens = keras.layers.Embedding(7, 4, mask_zero=True)
        self.positions = keras.layers.Embedding(100, 4)
        self.table = ops.convert_to_tensor(np.linspace(0, 1, 400, dtype="float32").reshape(1, 100, 4))

    def compute_mask(self, *args, **kwargs):
        return self.tokens.compute_mask(*args, **kwargs)

    def call(self, x):
        length = ops.shape(x)[-1]
        return self.tokens(x) + self.positions(ops.arange(0, length, 1)) + self.table[:, :length, :]


@keras.saving.register_keras_serializable("guide")
class Answers(keras.layers.Layer):
    """Takes and returns dicts."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(5)

    def call(self, inputs):
        return {"sum": inputs["y"] + self.dense(inputs["x"]), "difference": inputs["y"] - self.dense(inputs["x"])}

    def compute_output_shape(self, shapes):
        return {"sum": shapes["y"], "difference": shapes["y"]}


@keras.saving.register_keras_serializable("guide")
class Asking(keras.layers.Layer):
    """Finds what a layer within it returns by its name."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.answers = Answers()

    def call(self, x):
        first = self.answers({"x": x, "y": 2 * x})["difference"]
        return first * self.answers({"x": first, "y": x})["sum"]


@keras.saving.register_keras_serializable("guide")
class Around(keras.layers.Layer):
    """Holds layers that it is made with: under a key of Keras's, and under one of its own."""

    def __init__(self, layer, others=(), **kwargs):
        super().__init__(**kwargs)
        self.layer, self.others = layer, list(others)

    def build(self, input_shape):
        for layer in (self.layer, *self.others):
            layer.build(input_shape)

    def call(self, x):
        for layer in self.others:
            x = x + layer(x)
        return x * self.layer(x)

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {**super().get_config(), "layer": serialize(self.layer), "others": [serialize(o) for o in self.others]}

    @classmethod
    def from_config(cls, config):
        deserialize = keras.saving.deserialize_keras_object
        layer, others = deserialize(config.pop("layer")), [deserialize(o) for o in config.pop("others")]
        return cls(layer, others, **config)


@keras.saving.register_keras_serializable("guide")
class Configured(keras.layers.Layer):
    """Serialises what it is made with, as Keras's own layers do."""

    def __init__(self, units, activation=None, initializer="zeros", regularizer=None, constraint=None, **kwargs):
        super().__init__(**kwargs)
        self.units, self.activation = units, keras.activations.get(activation)
        self.initializer = keras.initializers.get(initializer)
        self.regularizer = keras.regularizers.get(regularizer)
        self.constraint = keras.constraints.get(constraint)

    def build(self, input_shape, **kwargs):
        self.w = self.add_weight(
            shape=(input_shape[-1], self.units), initializer=self.initializer, regularizer=self.regularizer,
            constraint=self.constraint, name="w",
        )

    def call(self, inputs, **kwargs):
        return self.activation(inputs @ self.w)

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "initializer": keras.initializers.serialize(self.initializer),
            "regularizer": keras.regularizers.serialize(self.regularizer),
            "constraint": keras.constraints.serialize(self.constraint),
        }

    @classmethod
    def from_config(cls, config):
        made = {"initializer": keras.initializers, "constraint": keras.constraints, "activation": keras.activations}
        return cls(**{key: made[key].deserialize(value) if key in made else value for key, value in config.items()})


@keras.saving.register_keras_serializable("guide")
class Scaled(keras.layers.Wrapper):
    """Scales the outputs of the layer that it wraps."""

    def __init__(self, layer, factor=2.0, **kwargs):
        super().__init__(layer, **kwargs)
        self.factor = factor
        self.input_spec = keras.layers.InputSpec(min_ndim=2)

    def build(self, input_shape):
        super().build(input_shape)
        self.input_spec = keras.InputSpec(shape=input_shape, axes={-1: input_shape[-1]})
        shape = (self.layer.compute_output_shape(input_shape)[-1],)
        self.gain = self.add_weight(shape=shape, initializer="ones", name="gain")

    def call(self, inputs):
        return self.layer(inputs) * self.gain * (self.factor + self.input_spec.ndim) + ops.sum(self.layer.kernel)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


@keras.saving.register_keras_serializable("guide")
class Pruned(keras.layers.Dense):
    """Makes a constant of its kernel's shape."""

    def build(self, input_shape):
        super().build(input_shape)
        kept = np.ones(tuple(self.kernel.shape), "float32")
        kept[0] = 0
        self.kept = ops.convert_to_tensor(kept)

    def call(self, inputs):
        return inputs @ (self.kernel * self.kept) + self.bias


@keras.saving.register_keras_serializable("guide")
class Modelled(keras.layers.Layer):
    """The attention of its model removes the mask of its input: the second finds none."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        inputs = keras.Input((6, 4))
        self.model = keras.Model(inputs, keras.layers.MultiHeadAttention(2, 3)(inputs, inputs))
        self.attention = keras.layers.MultiHeadAttention(2, 3)

    def call(self, x):
        return self.model(x) - 2 * self.attention(x, x)


@keras.saving.register_keras_serializable("guide")
class Sequence(keras.layers.Layer):
    """Doesn't support masking, but a layer within it gives its output a mask."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.lstm = keras.layers.LSTM(4, return_sequences=True)

    def call(self, x):
        return self.lstm(x)


@keras.saving.register_keras_serializable("guide")
class Bare(keras.layers.Dense):
    """Asks for weights that its layers, and itself, don't have, and for the shape of an argument that isn't given."""

    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        self.dense = keras.layers.Dense(5, use_bias=False)
        self.norm = keras.layers.LayerNormalization(center=False)

    def build(self, inputs_shape, others_shape=None):
        super().build(inputs_shape)
        self.dense.build(inputs_shape)
        self.norm.build(inputs_shape)
        self.gain = 1.0 if others_shape is None else 2.0

    def call(self, inputs, others=None):
        absent = [self.bias, self.dense.bias, self.norm.beta]
        y = self.norm(self.dense(inputs)) * self.norm.gamma * self.gain
        return y @ self.kernel + sum(weight is None for weight in absent)


@keras.saving.register_keras_serializable("guide")
class Same(keras.layers.Layer):
    """Returns its input, with its mask."""

    def call(self, x):
        return x


@keras.saving.register_keras_serializable("guide")
class Opposite(keras.layers.Layer):
    """Supports masking, as it has `compute_mask`."""

    def call(self, x):
        return 2 * x

    def compute_mask(self, inputs, mask=None):
        return None if mask is None else ops.logical_not(mask)
'''


@pytest.fixture
def classes(monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], dict[str, Any]]:
    """The classes defined with stock Keras and with this package; registered in both."""
    for table in ("_classes", "_lambdas", "_activations"):
        monkeypatch.setattr(plugins, table, {})
    stock: dict[str, Any] = {"keras": keras, "__name__": "stock"}
    ours: dict[str, Any] = {"keras": layergraph, "__name__": "ours"}
    for names in (stock, ours):
        exec(SOURCE, names)
    return stock, ours


def model(names: dict[str, Any], what: str) -> Any:
    """A model of one of the classes, by the package of the classes."""
    k = names["keras"]
    if what == "Guided":
        q, v = k.Input((4,), name="q"), k.Input((5,), name="v")
        return k.Model([q, v], names["Guided"](name="guided")(q, v, factor=2.0))
    if what == "Decoding":
        a, b = k.Input((6, 4), name="a"), k.Input((6, 4), name="b")
        return k.Model([a, b], names["Decoding"](name="one")(a, b))
    if what == "Answers":
        x = k.Input((5,), name="x")
        answers = names["Answers"](name="one")({"x": x, "y": k.layers.Dense(5)(x)})
        return k.Model(x, [answers["sum"], answers["difference"]])
    if what == "Around":
        x = k.Input((5,), name="x")
        others = [k.layers.Dense(5, activation="tanh", kernel_regularizer="l2"), names["Linear"](5)]
        return k.Model(x, names["Around"](k.layers.Dense(5, dtype="float32"), others, name="one")(x))
    if what == "Configured":
        x = k.Input((5,), name="x")
        orthogonal = k.initializers.Orthogonal(2.0, seed=1)
        y = names["Configured"](4, "relu", orthogonal, "l2", k.constraints.MaxNorm(3), name="one")(x)
        return k.Model(x, [y, names["Configured"](2, name="two")(y)])
    if what == "Scaled":
        x = k.Input((5,), name="x")
        inner = names["Scaled"](names["Derived"](5), name="inner")
        return k.Model(
            x,
            [names["Scaled"](k.layers.Dense(4), 3.0)(inner(x)), names["Scaled"](k.layers.Dense(2, use_bias=False))(x)],
        )
    if what == "Positions":
        x = k.Input((None,), dtype="int32", name="x")
        return k.Model(x, k.layers.GlobalAveragePooling1D()(names["Positions"](name="one")(x)))
    if what == "Pruned":
        x = k.Input((5,), name="x")
        return k.Model(x, names["Pruned"](3, name="one")(x))
    if what == "Masked":
        # Keras computes 83 steps or more to find the shape of a loop of any length.
        x = k.Input((6, 2), name="x")
        return k.Model(x, k.layers.GlobalAveragePooling1D()(names["Masked"](name="m")(k.layers.Masking()(x))))
    if what == "Embedded":
        x = k.Input((4,), dtype="int32", name="x")
        return k.Model(x, names["Embedded"](name="e")(x))
    if what in ("Causal", "Steps"):
        x = k.Input((None, 4), name="x")
        return k.Model(x, names[what](**({"filters": 3, "gain": 2.0} if what == "Causal" else {}), name="one")(x))
    if what == "Derived":
        x = k.Input((5,), name="x")
        return k.Model(x, names["Derived"](3, activation="relu", name="one")(x))
    if what == "Bare":
        x = k.Input((5,), name="x")
        return k.Model(x, names["Bare"](3, use_bias=False, name="one")(x))
    if what == "Wrapped":
        x = k.Input((3, 5), name="x")
        return k.Model(x, k.layers.TimeDistributed(names["Linear"](4, name="inner"), name="each")(x))
    if what == "Shared":
        a, b = k.Input((5,), name="a"), k.Input((5,), name="b")
        layer = names["EarlyWeights"](name="both")
        return k.Model([a, b], k.layers.Add(name="sum")([layer(a), layer(b)]))
    if what == "Half":
        x = k.Input((5,), name="x")
        return k.Model(x, names["Block"](name="b", dtype="mixed_bfloat16")(x))
    x = k.Input((5,), name="x")
    return k.Model(x, names[what](name="one")(names["Linear"](5, name="first")(x)))


WHAT = (
    *("Linear", "EarlyWeights", "Block", "Guided", "Masked", "Embedded", "Counted", "Wrapped", "Shared", "Half"),
    *("Derived", "Causal", "Steps", "Mixed", "Bare", "Decoding"),
    *("Answers", "Around", "Asking", "Positions", "Pruned", "Scaled", "Configured"),
)


def data(what: str) -> Any:
    random = np.random.default_rng(0)
    if what in ("Embedded", "Positions"):
        return np.array([[3, 1, 0, 0], [2, 5, 6, 1], [4, 0, 0, 0]], "int32")
    if what == "Masked":
        x = random.standard_normal((3, 6, 2)).astype("f4")
        x[0, 4:] = x[2, 2:] = 0
        return x
    shapes = {
        "Guided": [(3, 4), (3, 5)],
        "Decoding": [(3, 6, 4), (3, 6, 4)],
        "Wrapped": [(3, 3, 5)],
        "Shared": [(3, 5), (3, 5)],
        "Causal": [(3, 6, 4)],
        "Steps": [(3, 6, 4)],
    }.get(what, [(3, 5)])
    arrays = [random.standard_normal(shape).astype("f4") for shape in shapes]
    return arrays if len(arrays) > 1 else arrays[0]


def moved(weights: list[np.ndarray]) -> list[np.ndarray]:
    """Changes weights from their initial values; all positive, since variances have to be."""
    random = np.random.default_rng(1)
    return [random.uniform(0.1, 0.6, weight.shape).astype("f4") for weight in weights]


def outputs(predicted: Any) -> list[np.ndarray]:
    values = predicted if isinstance(predicted, (list, tuple)) else [predicted]
    return [keras.ops.convert_to_numpy(value).astype("f4") for value in values]


@pytest.mark.parametrize("what", WHAT)
def test_it_computes_what_keras_does_and_files_go_both_ways(classes: Any, what: str, tmp_path: Path) -> None:
    stock, ours = (model(names, what) for names in classes)
    tolerance = 2e-2 if what == "Half" else 1e-5
    assert [w.shape for w in ours.weights] == [tuple(w.shape) for w in stock.weights]
    assert [w.trainable for w in ours.weights] == [w.trainable for w in stock.weights]
    stock.set_weights(moved(stock.get_weights()))
    x = data(what)
    expected = outputs(stock.predict_on_batch(x))
    ours.set_weights(stock.get_weights())
    for got, wanted in zip(outputs(ours.predict_on_batch(x)), expected, strict=True):
        assert_close(got, wanted, tolerance)
    # The order of weights in an `.h5` depends on which layers there are, not on what they compute.
    for ending in ("keras", "h5") if what in ("Block", "Steps", "Mixed", "Around", "Scaled") else ("keras",):
        stock.save(tmp_path / f"stock.{ending}")
        ours.save(tmp_path / f"ours.{ending}")
        there = layergraph.load_model(tmp_path / f"stock.{ending}")
        back = keras.models.load_model(tmp_path / f"ours.{ending}")
        again = layergraph.load_model(tmp_path / f"ours.{ending}")
        for opened in (there, back, again):
            for got, wanted in zip(outputs(opened.predict_on_batch(x)), expected, strict=True):
                assert_close(got, wanted, tolerance)


@pytest.mark.parametrize("what", ["Linear", "Block", "Counted"])
def test_it_trains_as_in_keras(classes: Any, what: str) -> None:
    stock, ours = (model(names, what) for names in classes)
    for one in (stock, ours):
        for layer in one.layers:
            if hasattr(layer, "dropout"):
                # Random numbers differ.
                layer.dropout.rate = 0.0
    stock.set_weights(moved(stock.get_weights()))
    ours.set_weights(stock.get_weights())
    x = np.random.default_rng(2).standard_normal((12, 5)).astype("f4")
    y = np.random.default_rng(3).standard_normal((12, *stock.output_shape[1:])).astype("f4")
    losses = []
    for one, package in ((stock, keras), (ours, layergraph)):
        one.compile(package.optimizers.SGD(0.05), package.losses.MeanSquaredError())
        losses.append(one.fit(x, y, batch_size=4, epochs=3, shuffle=False, verbose=0).history["loss"])
    assert_close(np.array(losses[1]), np.array(losses[0]))
    for got, wanted in zip(ours.get_weights(), stock.get_weights(), strict=True):
        assert_close(got, wanted, 1e-4)


@pytest.mark.filterwarnings("ignore:.*does not support masking")
@pytest.mark.parametrize("what", ["Sequence", "Same", "Opposite", "Tokens"])
def test_masks_of_its_outputs(classes: Any, what: str, tmp_path: Path) -> None:
    def build(names: dict[str, Any]) -> Any:
        k = names["keras"]
        ids = k.Input((4,), dtype="int32", name="ids")
        if what == "Tokens":
            x = names["Tokens"](name="one")(ids)
        else:
            x = names[what](name="one")(k.layers.Embedding(7, 4, mask_zero=True)(ids))
        return k.Model(ids, [k.layers.GlobalAveragePooling1D()(x), k.layers.LSTM(3)(k.layers.Dropout(0.1)(x))])

    stock, ours = map(build, classes)
    stock.set_weights(moved(stock.get_weights()))
    ours.set_weights(stock.get_weights())
    stock.save(tmp_path / "stock.keras")
    ours.save(tmp_path / "ours.keras")
    x = data("Embedded")
    expected = outputs(stock.predict_on_batch(x))
    there, back = layergraph.load_model(tmp_path / "stock.keras"), keras.models.load_model(tmp_path / "ours.keras")
    for one in (ours, there, back):
        for got, wanted in zip(outputs(one.predict_on_batch(x)), expected, strict=True):
            assert_close(got, wanted)


@pytest.mark.filterwarnings("ignore:.*does not support masking")
@pytest.mark.parametrize(
    ("readers", "normalized"),
    [
        (("Attending", "Attending"), False),
        (("AttendingTwice", "Attending"), True),
        (("Attending", "AttendingTwice"), True),
    ],
)
def test_attention_within_a_layer_removes_masks(
    classes: Any, readers: tuple[str, str], normalized: bool, tmp_path: Path
) -> None:
    """Also for a layer that reads the same tensor later (Keras 3.8)."""

    def build(names: dict[str, Any]) -> Any:
        k = names["keras"]
        ids = k.Input((6,), dtype="int32", name="ids")
        x = k.layers.Embedding(7, 4, mask_zero=True)(ids)
        x = k.layers.LayerNormalization()(x) if normalized else x
        return k.Model(ids, [names[reader](name=f"reader{i}")(x) for i, reader in enumerate(readers)])

    stock, ours = map(build, classes)
    stock.set_weights(moved(stock.get_weights()))
    ours.set_weights(stock.get_weights())
    stock.save(tmp_path / "stock.keras")
    x = np.array([[3, 1, 4, 1, 0, 0], [5, 2, 6, 0, 0, 0]], "int32")
    expected = outputs(stock.predict_on_batch(x))
    for one in (ours, layergraph.load_model(tmp_path / "stock.keras")):
        for got, wanted in zip(outputs(one.predict_on_batch(x)), expected, strict=True):
            assert_close(got, wanted)


@pytest.mark.filterwarnings("ignore:.*does not support masking")
@pytest.mark.parametrize("within", ["Attending", "AttendingTwice", "Modelled"])
@pytest.mark.parametrize("nested", [True, False])
def test_attention_within_a_nested_layer_removes_masks(classes: Any, within: str, nested: bool) -> None:
    """Its model has no masks when it is built."""

    def build(names: dict[str, Any]) -> Any:
        k = names["keras"]
        ids, inner = k.Input((6,), dtype="int32"), k.Input((6, 4))
        x = k.layers.Embedding(7, 4, mask_zero=True)(ids)
        layer = names[within]()
        y = k.Model(inner, layer(inner))(x) if nested else layer(x)
        # Keras makes the calls that are further from the outputs first.
        return k.Model(ids, [k.layers.Dense(2)(y), k.layers.MultiHeadAttention(2, 3)(x, x)])

    compare(*map(build, classes))


@pytest.mark.filterwarnings("ignore:.*does not support masking")
@pytest.mark.parametrize("reader", ["before", "after"])
def test_a_returned_input_shares_its_mask(classes: Any, reader: str) -> None:
    """An attention that removes the mask of one removes that of the other."""

    def build(names: dict[str, Any]) -> Any:
        k = names["keras"]
        ids = k.Input((6,), dtype="int32")
        x = k.layers.Embedding(7, 4, mask_zero=True)(ids)
        y = names["Same"]()(x)
        first, second = (x, y) if reader == "before" else (y, x)
        return k.Model(ids, [k.layers.MultiHeadAttention(2, 3)(one, one) for one in (first, second)])

    compare(*map(build, classes))


def compare(stock: Any, ours: Any) -> None:
    """Raises AssertionError if the outputs for padded tokens differ."""
    stock.set_weights(moved(stock.get_weights()))
    ours.set_weights(stock.get_weights())
    x = np.array([[3, 1, 4, 1, 0, 0], [5, 2, 6, 0, 0, 0]], "int32")
    for got, wanted in zip(outputs(ours.predict_on_batch(x)), outputs(stock.predict_on_batch(x)), strict=True):
        assert_close(got, wanted)


def test_a_weight_that_is_assigned_keeps_its_value() -> None:
    """The guide's ComputeSum."""

    class ComputeSum(layergraph.layers.Layer):
        def __init__(self, input_dim: int) -> None:
            super().__init__()
            self.total = self.add_weight(initializer="zeros", shape=(input_dim,), trainable=False)

        def call(self, inputs: Any) -> Any:
            self.total.assign_add(layergraph.ops.sum(inputs, axis=0))
            return self.total

    total = ComputeSum(2)
    assert total(np.ones((2, 2), "f4")).tolist() == [2, 2]
    assert total(np.ones((2, 2), "f4")).tolist() == [4, 4]
    assert total.non_trainable_weights == total.weights
    assert total.trainable_weights == []


def test_calls_at_once_keep_their_own_weights(classes: Any) -> None:
    """Two sets of weights, many calls of one layer in two threads."""
    layer = classes[1]["Block"]()
    x = torch.as_tensor(data("Block"))
    layer(x)
    bound = [Binder(lambda weight, k=k: torch.full(weight.shape, 0.1 * k))(layer) for k in (1, 2)]
    alone = [layer.forward(CallContext(), w, x) for w in bound]
    assert not torch.allclose(*alone)
    wrong: list[int] = []

    def work(k: int) -> None:
        wrong.extend(k for _ in range(200) if not torch.equal(layer.forward(CallContext(), bound[k], x), alone[k]))

    threads = [threading.Thread(target=work, args=(k,)) for k in (0, 1, 0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


class Either(layergraph.layers.Layer):
    """Returns outputs in another structure if `both`."""

    def call(self, inputs: Any, both: bool = False) -> Any:
        return {"twice": 2 * inputs, "others": (inputs + 1, [inputs])} if both else inputs


class AroundEither(layergraph.layers.Layer):
    """Calls one layer for both structures, by turns. The first parameter of `call` has another name than `self`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.either = Either()

    def call(this, inputs: Any) -> Any:  # noqa: N805
        once, several, again = (this.either(inputs, both=both) for both in (False, True, False))
        return once + several["twice"] + several["others"][0] + several["others"][1][0] + again


def structure_of(outputs: Any) -> Any:
    return map_structure(lambda _: None, outputs)


EITHER = {False: None, True: {"twice": None, "others": (None, [None])}}


def test_each_call_of_a_layer_has_the_structure_that_it_returns() -> None:
    """Symbolic calls, whose shapes may be known from earlier ones, calls on arrays, and calls within a layer."""
    layer, x = Either(), layergraph.Input((2,))
    for both in (False, True, False, True):
        assert structure_of(layer(x, both=both)) == EITHER[both]
        assert structure_of(layer(np.ones((3, 2), "f4"), both=both)) == EITHER[both]
    assert layer.compute_output_shape((None, 2)) == (None, 2)
    model = layergraph.Model(x, AroundEither()(x))
    np.testing.assert_array_equal(model.predict(np.ones((1, 2), "f4"), verbose=0), [[7, 7]])


def test_a_call_leaves_nothing_on_the_layer_that_another_at_once_could_mix_up() -> None:
    layer, x = Either(), np.ones((1, 2), "f4")
    layer(x)
    before = dict(vars(layer))
    layer(x, both=True)
    assert vars(layer) == before


def test_what_call_sets_is_seen_afterwards(classes: Any) -> None:
    class Remembering(layergraph.layers.Layer):
        def call(self, inputs: Any) -> Any:
            self.seen = inputs.shape[0]
            return inputs * self.seen

    layer = Remembering()
    layergraph.Model(x := layergraph.Input((2,)), layer(x))
    assert not hasattr(layer, "seen")
    assert layer(np.ones((3, 2), "f4"))[0, 0] == 3
    assert layer.seen == 3


def test_attributes_may_be_set_again_and_share_layers(tmp_path: Path) -> None:
    """Files store a layer under the first of its attributes, as in Keras."""

    def tied(k: Any) -> Any:
        class Tied(k.layers.Layer):
            def __init__(self, **kwargs: Any) -> None:
                super().__init__(**kwargs)
                if k is layergraph:
                    # Keras keeps listing layers that were replaced.
                    self.z, self.a = k.layers.Dense(9), [k.layers.Dense(9) for _ in range(3)]
                    self.a[2].build((None, 4))
                self.z = k.layers.Dense(4, name="shared")
                self.a = [self.z, k.layers.Dense(4)]

            def call(self, x: Any) -> Any:
                return self.a[1](self.z(self.z(x)))

        x = k.Input((4,))
        return k.Model(x, Tied(name="tied")(x)), {"Tied": Tied}

    (ours, own), (stock, theirs) = tied(layergraph), tied(keras)
    assert [w.shape for w in ours.weights] == [(4, 4), (4,), (4, 4), (4,)]
    ours.set_weights(moved(ours.get_weights()))
    ours.save(tmp_path / "ours.keras")
    x = np.ones((2, 4), "f4")
    opened = keras.models.load_model(tmp_path / "ours.keras", custom_objects=theirs)
    assert_close(opened.predict_on_batch(x), ours.predict_on_batch(x))
    stock.set_weights([weight * 2 for weight in moved(stock.get_weights())])
    stock.save(tmp_path / "stock.keras")
    opened = layergraph.load_model(tmp_path / "stock.keras", custom_objects=own)
    assert_close(opened.predict_on_batch(x), stock.predict_on_batch(x))


def test_lists_that_get_their_layers_by_turns(tmp_path: Path) -> None:
    """In an `.h5` the layers are in the order in which lists got them, whichever list was set first."""

    def crossed(k: Any) -> Any:
        class Crossed(k.layers.Layer):
            def __init__(self, **kwargs: Any) -> None:
                super().__init__(**kwargs)
                self.first: list[Any] = []
                self.second: list[Any] = []
                for _ in range(2):
                    self.second.append(k.layers.Dense(4))
                    self.first.append(k.layers.Dense(4))

            def call(self, x: Any) -> Any:
                for layer in (*self.first, *self.second):
                    x = layer(x)
                return x

        x = k.Input((4,))
        return k.Model(x, Crossed()(x)), {"Crossed": Crossed}

    (_, own), (stock, _) = crossed(layergraph), crossed(keras)
    stock.set_weights(moved(stock.get_weights()))
    stock.save(tmp_path / "stock.h5")
    opened = layergraph.load_model(tmp_path / "stock.h5", custom_objects=own)
    x = np.ones((2, 4), "f4")
    assert_close(opened.predict_on_batch(x), stock.predict_on_batch(x))


@pytest.mark.parametrize("ending", ["h5", "keras"])
def test_lists_of_layers_of_keras2(ending: str, tmp_path: Path) -> None:
    """tf.keras 2.15 lists and names them otherwise than Keras 3; the state of its optimizer has its order, too."""
    folder = Path(__file__).parents[2] / "fixtures" / "custom_blocks"
    objects = {"Block": block_of(layergraph)}
    with np.load(folder / "keras2.npz") as arrays:
        x, y, expected, trained = (arrays[name] for name in ("x", "y", "outputs", "trained"))
    model = layergraph.load_model(folder / f"keras2.{ending}", custom_objects=objects)
    assert_close(model.predict(x), expected)
    model.save(tmp_path / f"again.{ending}")
    again = layergraph.load_model(tmp_path / f"again.{ending}", custom_objects=objects)
    with h5py_of(folder / f"keras2.{ending}") as one, h5py_of(tmp_path / f"again.{ending}") as other:
        assert arrays_in(other) == arrays_in(one)
    for loaded in (model, again):
        loaded.fit(x, y, batch_size=4, shuffle=False, verbose=0)
        assert_close(loaded.predict(x), trained)


def h5py_of(path: Path) -> Any:
    if path.suffix == ".h5":
        return h5py.File(path)
    return h5py.File(io.BytesIO(zipfile.ZipFile(path).read("model.weights.h5")))


def arrays_in(file: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of layers in a file."""
    found: dict[str, tuple[int, ...]] = {}
    file.visititems(lambda name, item: found.update({name: item.shape}) if isinstance(item, h5py.Dataset) else None)
    return {name: shape for name, shape in found.items() if name.startswith(("layers/", "model_weights/"))}


def test_layers_of_its_own_freeze_with_it(classes: Any) -> None:
    ours = model(classes[1], "Block")
    ours.get_layer("one").trainable = False
    assert [w.path.split("/")[0] for w in ours.trainable_weights] == ["first", "first"]
    assert not ours.get_layer("one").more[0].trainable


@pytest.mark.parametrize("frozen", ["when it is made", "before it is built", "afterwards"])
def test_what_a_frozen_layer_does_to_layers_that_it_makes_later(frozen: str) -> None:
    """They aren't trained, but only layers that were there when it was frozen are frozen themselves."""

    def trained(k: Any) -> Any:
        class Late(k.layers.Layer):
            def build(self, input_shape: Any) -> None:
                self.inner, self.norm = k.layers.Dense(3, kernel_initializer="ones"), k.layers.BatchNormalization()
                self.inner.build(input_shape)
                self.norm.build(input_shape)

            def call(self, x: Any, training: Any = None) -> Any:
                return self.norm(self.inner(x), training=training)

        layer = Late(trainable=frozen != "when it is made")
        if frozen == "before it is built":
            layer.trainable = False
        x = k.Input((3,))
        made = k.Model(x, k.layers.Dense(1, kernel_initializer="ones")(layer(x)))
        if frozen == "afterwards":
            layer.trainable = False
        made.compile("sgd", "mse")
        rows = np.random.default_rng(0).normal(3, 2, (32, 3))
        made.fit(rows, np.zeros((32, 1)), epochs=2, verbose=0, shuffle=False)
        return layer, made.get_weights()

    (ours, own), (theirs, expected) = trained(layergraph), trained(keras)
    assert ours.norm.trainable is theirs.norm.trainable
    assert [len(layer.trainable_weights) for layer in (ours, theirs)] == [0, 0]
    for one, other in zip(own, expected, strict=True):
        assert_close(one, other)


def divergence(k: Any, generation: int = 3) -> Any:
    """A trained model of a layer that adds the losses of its rows, with the losses of the epochs."""

    class Divergence(k.layers.Layer):  # type: ignore[misc,name-defined]
        def call(self, x: Any) -> Any:
            ops = k.ops
            self.add_loss([0.1 * ops.sum(ops.square(x), axis=-1), ops.mean(x)])
            return x

    x = k.Input((3,))
    model = k.Model(x, Divergence()(k.layers.Dense(2, kernel_initializer="ones")(x)))
    if generation == 2:
        model.training_rules = KERAS2_RULES
    model.compile("sgd", "mse")
    rows = np.random.default_rng(0).normal(size=(10, 3)).astype("f4")
    history = model.fit(rows, np.zeros((10, 2)), batch_size=4, epochs=3, verbose=0, shuffle=False).history
    return model, history["loss"]


def test_losses_of_rows_are_summed() -> None:
    (ours, own), (theirs, expected) = divergence(layergraph), divergence(keras)
    assert own == pytest.approx(expected, rel=1e-5)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert_close(one, other)


def test_keras2_shows_their_mean_and_trains_on_their_sum() -> None:
    (ours, own), (theirs, expected) = divergence(layergraph, 2), divergence(keras)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        assert_close(one, other)
    assert all(value < other for value, other in zip(own, expected, strict=True))


def test_workers_add_the_losses_of_their_rows() -> None:
    """The loop takes the mean of the workers' losses, weighted by their rows."""
    layer = divergence(layergraph)[0].layers[-1]
    x = torch.randn(6, 2)

    def losses(rows: torch.Tensor, shard: Shard | None) -> torch.Tensor:
        context = CallContext(shard=shard)
        layer.forward(context, bind_values(layer), rows)
        assert context.losses is not None
        return torch.stack(context.losses)

    parts = [losses(x[:2], Shard(0, (0, 2, 6))) * 2 / 6, losses(x[2:], Shard(1, (0, 2, 6))) * 4 / 6]
    torch.testing.assert_close(sum(parts), losses(x, None))


def test_layers_are_found_among_other_values_of_a_list() -> None:
    class Mixed(layergraph.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.steps = [None, "relu", layergraph.layers.Dense(2), 3, [layergraph.layers.Dense(3)]]
            self.named = {"size": 4, "last": layergraph.layers.Dense(4)}

        def call(self, x: Any) -> Any:
            return self.named["last"](self.steps[4][0](self.steps[2](x)))

    layer = Mixed()
    layer(layergraph.Input((5,)))
    assert sorted(layer.sublayers) == ["named/dense", "steps/container/dense", "steps/dense"]


def test_methods_of_the_guide_are_there(classes: Any) -> None:
    ours = model(classes[1], "Block")
    config = ours.get_layer("one").get_config()
    again = classes[1]["Block"].from_config(config)
    assert again.widths == (6, 3)
    assert again.name == "one"
    copy = layergraph.models.clone_model(ours)
    assert [w.shape for w in copy.weights] == [w.shape for w in ours.weights]


# Unsupported cases.


def test_neither_call_nor_forward() -> None:
    class Nothing(layergraph.layers.Layer):
        pass

    with pytest.raises(GraphError, match=r"layer 'void' \(Nothing\): the class has neither `call` nor `forward`"):
        Nothing(name="void")(layergraph.Input((2,)))


@pytest.mark.parametrize("look", ["bool(x.sum() > 0)", "float(x[0, 0])", "x.numpy()"])
def test_values_in_a_symbolic_call(look: str) -> None:
    class Looking(layergraph.layers.Layer):
        def call(self, x: Any) -> Any:
            return x if eval(look) is None else x + 1

    with pytest.raises(GraphError, match=r"layer 'look' \(Looking\): .*call depends on the values of tensors"):
        Looking(name="look")(layergraph.Input((2,)))


def test_other_mistakes_are_named() -> None:
    class Early(layergraph.layers.Layer):
        def __init__(self) -> None:
            self.dense = layergraph.layers.Dense(2)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    with pytest.raises(GraphError, match=r"Early: attribute 'dense' is set to a layer before super\(\).__init__"):
        Early()

    class Overwriting(layergraph.layers.Layer):
        def build(self, input_shape: Any) -> None:
            self.total = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x: Any) -> Any:
            self.total = self.total + 1
            return x

    with pytest.raises(GraphError, match=r"call sets attribute 'total'.*expected `assign`"):
        Overwriting(name="o")(layergraph.Input((2,)))

    class Odd(layergraph.layers.Layer):
        def build(self, a_shape: Any, b_shape: Any) -> None:
            pass

        def call(self, x: Any) -> Any:
            return x

    with pytest.raises(GraphError, match=r"layer 'odd' \(Odd\): build has the parameters"):
        Odd(name="odd")(layergraph.Input((2,)))

    class Unwrapping(layergraph.layers.Layer):
        def build(self, input_shape: Any) -> None:
            self.gain = self.add_weight(shape=(), initializer="ones")

        def call(self, x: Any) -> Any:
            return x * self.gain.value

    with pytest.raises(GraphError, match=r"no attribute 'value'; in call the attribute of a weight is its tensor"):
        Unwrapping()(layergraph.Input((2,)))

    class Listing(layergraph.layers.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.dense = layergraph.layers.Dense(2)

        def call(self, x: Any) -> Any:
            return self.dense(x) @ self.dense.weights[0]

    with pytest.raises(GraphError, match=r"Weight.*; in call .* is its tensor, as in self.w or self.dense.kernel"):
        Listing()(layergraph.Input((2,)))

    class Silent(layergraph.layers.Layer):
        def call(self, x: Any) -> Any:
            pass

    with pytest.raises(GraphError, match="call returned None"):
        Silent(name="s")(layergraph.Input((2,)))
    with pytest.raises(GraphError, match=r"layer 'd' \(Dense\): `call` is called outside of a call"):
        layergraph.layers.Dense(2, name="d").call(np.ones((1, 2), "f4"))
    with pytest.raises(ConfigError, match="Lambda: function is 3, expected a function of tensors"):
        layergraph.layers.Lambda(3)
    with pytest.raises(ConfigError, match="initializer 'no_such'"):
        layergraph.layers.Layer().add_weight(shape=(2,), initializer="no_such")
    with pytest.raises(ConfigError, match="expected a layer class or an activation function"):
        layergraph.utils.register_keras_serializable()(int)


def test_what_deserialize_refuses(classes: Any) -> None:
    """Only classes of layers that are known are found."""
    deserialize = layergraph.saving.deserialize_keras_object
    for named in ({"class_name": "eval", "module": "builtins", "config": {}}, {"class_name": "Dense", "config": 3}):
        with pytest.raises(ConfigError, match="to deserialize, expected the config of a layer"):
            deserialize({"x": [named]})
    mine = type("Mine", (layergraph.layers.Dense,), {})
    made = deserialize({"class_name": "Mine", "config": {"units": 3}}, custom_objects={"Mine": mine})
    assert type(made) is mine
    ours = classes[1]["Around"](layergraph.layers.Dense(5), [classes[1]["Linear"](5)])
    again = type(ours).from_config(ours.get_config())
    assert type(again.others[0]) is classes[1]["Linear"]
    assert layergraph.saving.serialize_keras_object({"units": (3, 4)}) == {"units": [3, 4]}


def test_a_lambda_is_of_code_alone(tmp_path: Path) -> None:
    """It computes in a model of Python; no file has one, and none can make one."""
    x = layergraph.Input((None, 3))
    masked = layergraph.layers.Masking()(x)
    kept = layergraph.layers.Lambda(lambda x, mask: x + mask[..., None], mask=lambda x, mask: mask)(masked)
    model = layergraph.Model(x, layergraph.layers.GlobalAveragePooling1D()(kept))
    rows = np.array([[[1, 2, 3], [0, 0, 0]]], "f4")
    assert model.predict(rows).tolist() == [[2, 3, 4]]
    with pytest.raises(ConfigError, match=r"\(Lambda\): a config can't hold its Python function"):
        model.save(tmp_path / "m.keras")


# Files can't name code.


def rewritten(path: Path, change: Any) -> Path:
    """A copy of a `.keras` file with another config."""
    other = path.with_name("changed.keras")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, json.dumps(change(json.loads(content))) if name == "config.json" else content)
    return other


def test_a_file_reaches_registered_classes_alone(classes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module named in a file isn't imported, and neither an unregistered class nor its bases are found."""
    (tmp_path / "module_of_a_file.py").write_text("raise SystemExit('a model file has run code')")
    monkeypatch.syspath_prepend(tmp_path)
    model(classes[1], "Linear").save(tmp_path / "m.keras")

    def named(**other: Any) -> Any:
        def change(config: Any) -> Any:
            config["config"]["layers"][-1].update(other)
            return config

        return rewritten(tmp_path / "m.keras", change)

    for registered in (
        "Linear>Evil",
        "module_of_a_file>Linear",
        "layergraph.plugins>Layer",
        "builtins>eval",
        "guide>eval",
    ):
        path = named(module="module_of_a_file", class_name="Linear", registered_name=registered)
        with pytest.raises(
            UnsupportedModelError,
            match=re.escape(f"class '{registered}' of module 'module_of_a_file' is not supported"),
        ):
            layergraph.load_model(path)
    for bare in ("Layer", "Unregistered", "eval", "module_of_a_file.Linear"):
        with pytest.raises(UnsupportedModelError, match="is not supported"):
            layergraph.load_model(named(module="module_of_a_file", class_name=bare, registered_name=bare))
    assert "module_of_a_file" not in sys.modules


def test_what_a_file_says_in_a_config_stays_data(classes: Any, tmp_path: Path) -> None:
    """The class gets plain values, or an error that they are invalid; nothing in them is looked up."""
    model(classes[1], "Linear").save(tmp_path / "m.keras")

    def change(config: Any) -> Any:
        layer = config["config"]["layers"][-1]
        layer["config"]["units"] = {"class_name": "Evil", "module": "os", "config": {"command": "true"}}
        return config

    with pytest.raises(CorruptFileError, match="layer 'one': can't be called with its arguments: int"):
        layergraph.load_model(rewritten(tmp_path / "m.keras", change))

    def more(config: Any) -> Any:
        config["config"]["layers"][-1]["config"]["forward"] = "os.system"
        return config

    with pytest.raises(UnsupportedModelError, match="layer 'one': Linear: unknown option 'forward'"):
        layergraph.load_model(rewritten(tmp_path / "m.keras", more))


def test_custom_objects_last_for_one_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_classes", {})

    class Doubled(layergraph.layers.Layer):
        def call(self, x: Any) -> Any:
            return x * 2

    x = layergraph.Input((2,))
    layergraph.Model(x, Doubled()(x)).save(tmp_path / "m.keras")
    with pytest.raises(UnsupportedModelError, match="class 'Doubled'"):
        layergraph.load_model(tmp_path / "m.keras")
    opened = layergraph.load_model(tmp_path / "m.keras", custom_objects={"Doubled": Doubled})
    assert opened.predict_on_batch(np.ones((1, 2), "f4")).tolist() == [[2, 2]]
    with pytest.raises(UnsupportedModelError, match="class 'Doubled'"):
        layergraph.load_model(tmp_path / "m.keras")
