"""RNN with cells of one's own, from the same source with stock Keras and with this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import layergraph
import numpy as np
import pytest
from layergraph import plugins
from layergraph.errors import ConfigError, GraphError
from oracles import assert_close, perturb

SOURCE = '''
ops = keras.ops


@keras.saving.register_keras_serializable("cells")
class Minimal(keras.layers.Layer):
    """The cell of Keras's guide."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), initializer="uniform", name="kernel")
        self.recurrent = self.add_weight(shape=(self.units, self.units), initializer="uniform", name="recurrent")

    def call(self, inputs, states):
        output = ops.tanh(ops.matmul(inputs, self.kernel) + ops.matmul(states[0], self.recurrent))
        return output, [output]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("cells")
class Two(keras.layers.Layer):
    """Two states of other sizes than the output, and first states of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.state_size, self.output_size = [3, 2], 5
        self.dense = keras.layers.Dense(3, activation="tanh")
        self.out = keras.layers.Dense(5)

    def build(self, input_shape):
        self.dense.build((None, input_shape[-1] + 3))
        self.out.build((None, 5))

    def call(self, inputs, states, training=None):
        a, b = states
        a = self.dense(ops.concatenate([inputs, a], axis=-1))
        b = b * 0.5 + a[:, :2]
        return self.out(ops.concatenate([a, b], axis=-1)), [a, b]

    def get_initial_state(self, batch_size=None):
        return [ops.ones((batch_size, 3)), ops.zeros((batch_size, 2))]


@keras.saving.register_keras_serializable("cells")
class Normalized(keras.layers.LSTMCell):
    def __init__(self, units, **kwargs):
        super().__init__(units, **kwargs)
        self.norm = keras.layers.LayerNormalization()

    def build(self, input_shape):
        super().build(input_shape)
        self.norm.build((None, self.units))

    def call(self, inputs, states, training=False):
        h, (_, c) = super().call(inputs, states, training=training)
        return self.norm(h), [h, c]


@keras.saving.register_keras_serializable("cells")
class Residual(keras.layers.Layer):
    """Calls a cell of Keras's."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.cell = keras.layers.GRUCell(4)
        self.state_size = self.cell.state_size

    def build(self, input_shape):
        self.cell.build(input_shape)

    def call(self, inputs, states):
        output, states = self.cell(inputs, states)
        return output + inputs, states
'''


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], dict[str, Any]]:
    """The classes defined with stock Keras and with this package; registered in both."""
    monkeypatch.setattr(plugins, "_classes", {})
    stock: dict[str, Any] = {"keras": keras, "__name__": "stock"}
    ours: dict[str, Any] = {"keras": layergraph, "__name__": "ours"}
    for names in (stock, ours):
        exec(SOURCE, names)
    return stock, ours


def states(k: Any, names: dict[str, Any], x: Any) -> Any:
    return k.layers.RNN(names["Two"](), return_sequences=True, return_state=True, zero_output_for_mask=True)(x)


def both_ways(k: Any, names: dict[str, Any], x: Any) -> Any:
    return k.layers.Bidirectional(k.layers.RNN(names["Minimal"](3), return_sequences=True))(x)


def stacked(k: Any, names: dict[str, Any], x: Any) -> Any:
    layer = k.layers.RNN([names["Two"](), k.layers.LSTMCell(3), names["Minimal"](4)], return_state=True)
    output, (a, b), (h, c), m = layer(x)
    return [output, a, b, h, c, m]


def derived(k: Any, names: dict[str, Any], x: Any) -> Any:
    return k.layers.RNN(names["Normalized"](3), go_backwards=True)(x)


def residual(k: Any, names: dict[str, Any], x: Any) -> Any:
    return k.layers.RNN(names["Residual"](), return_sequences=True)(x)


def started(k: Any, names: dict[str, Any], x: Any) -> Any:
    first = k.layers.GlobalAveragePooling1D()(x)
    return k.layers.RNN(names["Minimal"](4))(x, initial_state=first)


CASES = [states, both_ways, stacked, derived, residual, started]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("layers", CASES)
def test_it_computes_and_trains_as_in_keras(cells: Any, layers: Any, masked: bool, tmp_path: Path) -> None:
    def build(k: Any, names: dict[str, Any]) -> Any:
        x = k.Input((None, 4))
        return k.Model(x, layers(k, names, k.layers.Masking()(x) if masked else x))

    stock, ours = build(keras, cells[0]), build(layergraph, cells[1])
    perturb(stock)
    ours.set_weights(stock.get_weights())
    x = np.random.default_rng(0).standard_normal((4, 5, 4)).astype("f4")
    x[0, :2] = x[1, 3:] = x[2] = 0
    for ending in ("keras", "h5"):
        stock.save(tmp_path / f"stock.{ending}")
        ours.save(tmp_path / f"ours.{ending}")
    read = [layergraph.load_model(tmp_path / name) for name in ("stock.keras", "stock.h5", "ours.keras", "ours.h5")]
    back = [keras.models.load_model(tmp_path / f"ours.{ending}") for ending in ("keras", "h5")]
    expected = keras.tree.flatten(stock.predict_on_batch(x))
    for model in (ours, *read, *back):
        for got, wanted in zip(keras.tree.flatten(model.predict_on_batch(x)), expected, strict=True):
            assert_close(np.asarray(got), wanted)
    targets = [np.ones_like(output) for output in expected]
    for model in (stock, ours, read[0]):
        model.compile("sgd", "mse")
        model.fit(x, targets if len(targets) > 1 else targets[0], batch_size=2, epochs=2, shuffle=False, verbose=0)
        for got, wanted in zip(model.get_weights(), stock.get_weights(), strict=True):
            assert_close(got, wanted)


def test_penalties_of_a_cell_count_at_each_timestep(cells: Any) -> None:
    def loss(k: Any, names: dict[str, Any]) -> float:
        x = k.Input((5, 4))
        cell = names["Two"](activity_regularizer="l2")
        model = k.Model(x, k.layers.RNN(cell)(x))
        model.set_weights([np.full_like(weight, 0.3) for weight in model.get_weights()])
        model.compile("sgd", "mse")
        rows = np.random.default_rng(0).standard_normal((4, 5, 4)).astype("f4")
        return float(model.evaluate(rows, np.zeros((4, 5), "f4"), verbose=0))

    assert loss(layergraph, cells[1]) == pytest.approx(loss(keras, cells[0]), rel=1e-5)


def test_wrong_cells_are_named() -> None:
    class Stateless(layergraph.layers.Layer):
        def call(self, inputs: Any, states: Any) -> Any:
            return inputs, states

    with pytest.raises(
        ConfigError, match=r"expected a cell.*or a layer that has state_size and call\(inputs, states\)"
    ):
        layergraph.layers.RNN(Stateless())

    class Square(Stateless):
        state_size = ((2, 2), "a")

    x = layergraph.Input((5, 4))
    with pytest.raises(GraphError, match=r"\(Square\): state_size is .*, expected an integer or a list of integers"):
        layergraph.layers.RNN(Square())(x)

    class Forgetful(Stateless):
        state_size = (4, 4)

        def call(self, inputs: Any, states: Any) -> Any:
            return inputs, states[:1]

    with pytest.raises(GraphError, match=r"\(Forgetful\): call returns 2 tensors, expected the output and 2 states"):
        layergraph.layers.RNN(Forgetful())(x)
