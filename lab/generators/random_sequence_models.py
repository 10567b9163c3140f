"""Random models of sequences, of which steps are compared with whole sequences; some can't be stepped.

`random_sequence_model(api, seed)` makes the same decisions for stock Keras and for layergraph, as `random_graphs` does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

WIDTHS = (2, 3, 4)
#: Number of timesteps where a model fixes it.
TIMESTEPS = 8
#: Number of ids of an Embedding.
IDS = 9


@dataclass
class SequenceModel:
    """A model and what is known of it.

    breaker     name of the layer that makes stepping impossible; "" if there is none
    ids         inputs that take ids
    static      inputs without timesteps
    memory      kinds of what it remembers: recurrent, convolution, masks, initial,
                shared (one layer called twice, which in stock Keras has one state)
    open        whether it takes any number of timesteps
    """

    model: Any
    breaker: str = ""
    ids: list[str] = field(default_factory=list)
    static: list[str] = field(default_factory=list)
    memory: set[str] = field(default_factory=set)
    open: bool = True


def random_sequence_model(
    api: Any, seed: int, *, breaks: bool = False, stateful: bool = False, rows: int | None = None
) -> SequenceModel:
    """The model of a seed.

    breaks     whether a layer looks at other timesteps
    stateful   whether recurrent layers keep their states between batches of `rows`, as Keras has it
    """
    return _Maker(api, seed, stateful=stateful, rows=rows).model(breaks=breaks)


class _Maker:
    def __init__(self, api: Any, seed: int, *, stateful: bool, rows: int | None) -> None:
        self.api = api
        self.layers = api.layers
        self.rng = np.random.default_rng(seed)
        self.state: dict[str, Any] = {"stateful": True} if stateful else {}
        self.rows = rows
        self.count = 0
        self.made = SequenceModel(None)
        self.inputs: list[Any] = []
        #: Tensors (rows, timesteps, features) that later layers may take.
        self.pool: list[Any] = []
        #: Outputs so far.
        self.ends: list[Any] = []
        self.timesteps = None if self.flag() else TIMESTEPS
        self.made.open = self.timesteps is None

    def flag(self, chance: float = 0.5) -> bool:
        return bool(self.rng.random() < chance)

    def pick(self, choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def name(self, kind: str = "n") -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def model(self, *, breaks: bool) -> SequenceModel:
        for _ in range(self.pick((1, 1, 2))):
            self.pool.append(self.sequence())
        for _ in range(self.pick((1, 2, 3))):
            self.pool.append(self.pointwise(self.pick(self.pool)))
        remembered = self.recurrent(self.pick(self.pool), sequences=True)
        self.pool.append(remembered)
        for _ in range(self.pick((1, 2, 3, 4))):
            x = self.pick(self.pool)
            made = self.pick((self.pointwise, self.pointwise, self.joined, self.remembering, self.nested))(x)
            self.pool.append(made)
        if breaks:
            self.ends.append(self.broken(self.pool[-1]))
        self.ends.append(self.end(self.layers.Concatenate(name=self.name())([remembered, self.pool[-1]])))
        if self.flag(0.4):
            self.ends.append(self.end(self.pick(self.pool)))
        used = self.api.Model(self.inputs, self.ends)
        self.made.model = used
        return self.made

    # Inputs.

    def add_input(self, shape: tuple[Any, ...], dtype: str = "float32") -> Any:
        name = self.name("input")
        self.inputs.append(self.api.Input(batch_shape=(self.rows, *shape), dtype=dtype, name=name))
        return self.inputs[-1]

    def sequence(self) -> Any:
        """An input with timesteps, as (rows, timesteps, features)."""
        layers, kind = self.layers, self.pick(("plain", "plain", "ids", "masked", "images", "scalars"))
        width = self.pick(WIDTHS)
        if kind == "ids":
            x = self.add_input((self.timesteps,), "int32")
            self.made.ids.append(x.name)
            masked = self.flag()
            self.made.memory |= {"masks"} if masked else set()
            return layers.Embedding(IDS, width, mask_zero=masked, name=self.name())(x)
        if kind == "masked":
            self.made.memory.add("masks")
            return layers.Masking(name=self.name())(self.add_input((self.timesteps, width)))
        if kind == "images":
            x = self.add_input((self.timesteps, 5, 4, 2))
            if self.flag():
                x = layers.ConvLSTM2D(2, 3, padding="same", return_sequences=True, name=self.name(), **self.state)(x)
                self.made.memory.add("recurrent")
            else:
                filters = layers.Conv2D(2, 3, activation="relu", name=self.name())
                x = layers.TimeDistributed(filters, name=self.name())(x)
            return layers.TimeDistributed(layers.Flatten(name=self.name()), name=self.name())(x)
        if kind == "scalars" and self.timesteps:
            return layers.Reshape((self.timesteps, 1), name=self.name())(self.add_input((self.timesteps,)))
        return self.add_input((self.timesteps, width))

    def static(self, width: int) -> Any:
        """An input without timesteps."""
        x = self.add_input((self.pick(WIDTHS),))
        self.made.static.append(x.name)
        return self.layers.Dense(width, activation="tanh", name=self.name())(x)

    # Layers that a step needs no state for.

    def pointwise(self, x: Any) -> Any:
        layers, units, name = self.layers, self.pick(WIDTHS), self.name()
        activation = self.pick(("linear", "relu", "tanh", "sigmoid", "softmax", "gelu"))
        choices = [
            lambda: layers.Dense(units, activation=activation, name=name),
            lambda: layers.Activation(activation, name=name),
            lambda: layers.BatchNormalization(name=name),
            lambda: layers.LayerNormalization(name=name),
            lambda: layers.Dropout(0.5, name=name),
            lambda: layers.SpatialDropout1D(0.5, name=name),
            lambda: layers.LeakyReLU(name=name),
            lambda: layers.Conv1D(units, 1, padding=self.pick(("same", "valid", "causal")), name=name),
            lambda: layers.TimeDistributed(layers.Dense(units, activation=activation, name=self.name()), name=name),
            lambda: layers.EinsumDense("abc,cd->abd", output_shape=(None, units), bias_axes="d", name=name),
        ]
        if self.flag(0.2):
            return self.pick((lambda: x * 2.0 - 0.5, lambda: abs(x), lambda: self.api.ops.relu(x) + 1.0))()
        return self.pick(choices)()(x)

    def joined(self, x: Any) -> Any:
        layers, other = self.layers, self.pick(self.pool)
        if self.flag(0.3):
            factor = layers.Reshape((1, x.shape[-1]), name=self.name())(self.static(x.shape[-1]))
            return layers.Multiply(name=self.name())([x, factor])
        if x.shape[-1] == other.shape[-1] and self.flag():
            kind = self.pick((layers.Add, layers.Average, layers.Maximum, layers.Multiply))
            return kind(name=self.name())([x, other])
        return layers.Concatenate(name=self.name())([x, other])

    # Layers with states.

    def remembering(self, x: Any) -> Any:
        return self.convolution(x) if self.flag(0.35) else self.recurrent(x, sequences=True)

    def convolution(self, x: Any) -> Any:
        self.made.memory.add("convolution")
        return self.layers.Conv1D(
            self.pick(WIDTHS),
            self.pick((2, 3)),
            padding="causal",
            dilation_rate=self.pick((1, 2, 3)),
            activation=self.pick(("relu", "tanh")),
            name=self.name(),
        )(x)

    def recurrent(self, x: Any, *, sequences: bool) -> Any:
        layers, units = self.layers, self.pick(WIDTHS)
        self.made.memory.add("recurrent")
        options = {"return_sequences": sequences, "name": self.name(), **self.state}
        kind = self.pick(("LSTM", "GRU", "SimpleRNN", "odd", "cells", "states", "initial", "shared"))
        if kind in ("LSTM", "GRU", "SimpleRNN"):
            return getattr(layers, kind)(units, **options)(x)
        if kind == "odd":
            return self.pick(
                (
                    lambda: layers.GRU(units, reset_after=False, **options),
                    lambda: layers.LSTM(units, activation="relu", recurrent_activation="hard_sigmoid", **options),
                    lambda: layers.SimpleRNN(units, activation="sigmoid", unroll=bool(self.timesteps), **options),
                    lambda: layers.LSTM(units, zero_output_for_mask=True, dropout=0.3, **options),
                )
            )()(x)
        if kind == "cells":
            cells = [layers.LSTMCell(units, name=self.name()), layers.GRUCell(self.pick(WIDTHS), name=self.name())]
            if self.flag():
                return layers.RNN(cells, **options)(x)
            return layers.RNN(cells[int(self.flag())], **options)(x)
        if kind == "states":
            y, *states = layers.LSTM(units, return_state=True, **options)(x)
            self.ends.append(self.pick(states))
            return y
        if kind == "initial":
            self.made.memory.add("initial")
            begin = self.static(units)
            return layers.GRU(units, **options)(x, initial_state=begin)
        self.made.memory.add("shared")
        shared = layers.LSTM(x.shape[-1], **{**options, "return_sequences": True})
        y = shared(shared(x))
        return y if sequences else y[:, -1]

    def nested(self, x: Any) -> Any:
        layers, units = self.layers, self.pick(WIDTHS)
        self.made.memory.add("recurrent")
        within = self.api.Input(batch_shape=(self.rows, *x.shape[1:]), name=self.name("input"))
        kind = self.pick(("GRU", "LSTM"))
        y = getattr(layers, kind)(units, return_sequences=True, name=self.name(), **self.state)(self.pointwise(within))
        inner = self.api.Model(within, self.pointwise(y), name=self.name())
        if x.shape[-1] != inner.outputs[0].shape[-1]:
            return inner(x)
        self.made.memory.add("shared")
        return inner(inner(x))

    def end(self, x: Any) -> Any:
        """An output: of each timestep, or of the last."""
        layers = self.layers
        kind = self.pick(("each", "each", "last", "sliced"))
        if kind == "each":
            return layers.Dense(2, name=self.name())(x)
        y = self.recurrent(x, sequences=False) if kind == "last" else x[:, -1]
        return layers.Dense(3, activation="softmax", name=self.name())(y) if self.flag() else y

    # Layers that look at other timesteps.

    def broken(self, x: Any) -> Any:
        layers, ops, name = self.layers, self.api.ops, self.name("broken")
        self.made.breaker = name
        units = self.pick(WIDTHS)
        choices = [
            lambda: layers.Bidirectional(layers.LSTM(units, name=self.name()), name=name)(x),
            lambda: layers.GRU(units, go_backwards=True, return_sequences=True, name=name)(x),
            lambda: layers.GlobalAveragePooling1D(name=name)(x),
            lambda: layers.GlobalMaxPooling1D(name=name)(x),
            lambda: layers.MaxPooling1D(2, strides=1, padding="same", name=name)(x),
            lambda: layers.Conv1D(units, 3, padding="same", name=name)(x),
            lambda: layers.Conv1D(units, 2, padding="valid", name=name)(x),
            lambda: layers.Conv1D(units, 2, padding="causal", strides=2, name=name)(x),
            lambda: layers.Attention(name=name)([x, x]),
            lambda: layers.MultiHeadAttention(2, 3, name=name)(x, x),
            lambda: layers.MultiHeadAttention(2, 3, name=name)(x, x, use_causal_mask=True),
            lambda: layers.Softmax(axis=1, name=name)(x),
            lambda: layers.LayerNormalization(axis=1, name=name)(x) if self.timesteps else None,
            lambda: layers.BatchNormalization(axis=1, name=name)(x) if self.timesteps else None,
            lambda: layers.Flatten(name=name)(x) if self.timesteps else None,
            lambda: layers.Permute((2, 1), name=name)(x),
            lambda: layers.ZeroPadding1D(1, name=name)(x),
            lambda: layers.UpSampling1D(2, name=name)(x),
            lambda: layers.Dot(axes=2, name=name)([x, x]),
            lambda: self.recurrent(
                layers.RepeatVector(3, name=name)(layers.LSTM(units, name=self.name())(x)), sequences=True
            ),
            lambda: self.reshaped(x, name),
            lambda: self.operation(ops.cumsum(x, axis=1)),
            lambda: self.operation(ops.flip(x, axis=1)),
            lambda: self.operation(ops.mean(x, axis=1, keepdims=True)),
            lambda: self.operation(x[:, 0]),
            lambda: self.operation(x[:, ::2]),
        ]
        while True:
            made = self.pick(choices)()
            if made is not None:
                return made

    def reshaped(self, x: Any, name: str) -> Any:
        if not self.timesteps:
            return None
        return self.layers.Reshape((self.timesteps // 2, x.shape[-1] * 2), name=name)(x)

    def operation(self, made: Any) -> Any:
        """An operation's output. Keras gives operations names of its own."""
        self.made.breaker = "*"
        return made


def random_arrays(made: SequenceModel, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Random inputs by name, with the same number of timesteps for all. Some timesteps are zeros, as masks want it."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for tensor in made.model.inputs:
        name = tensor.name
        shape = [rows, *(TIMESTEPS if size is None else size for size in tensor.shape[1:])]
        if name in made.ids:
            arrays[name] = rng.integers(0, IDS, shape).astype("int32") * (rng.random(shape) < 0.7)
        else:
            arrays[name] = rng.standard_normal(shape).astype("float32")
            if "masks" in made.memory and name not in made.static:
                arrays[name][rng.random(shape[:2]) < 0.3] = 0
        arrays[name] = arrays[name].astype("int32" if name in made.ids else "float32")
    return arrays
