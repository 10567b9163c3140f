"""Max pooling before a rectifier: bit for bit the run that pools after it."""

from __future__ import annotations

import numpy as np
import pytest
from layergraph import Input, Model
from layergraph import layers as own_layers

RNG = np.random.default_rng(5)
X = RNG.standard_normal((12, 9, 8, 3)).astype("float32")
#: A window of equal values, and one that is all below zero.
X[0], X[1] = 0.0, -1.0
Y = RNG.standard_normal((12, 2)).astype("float32")


def built(first: str, second: str, **pooling: object) -> Model:
    x = Input((9, 8, 3))
    h = own_layers.Conv2D(4, 3, activation=first)(x)
    h = own_layers.MaxPooling2D(2, **pooling)(h)
    h = own_layers.BatchNormalization()(own_layers.Conv2D(4, 2, use_bias=False)(h))
    h = own_layers.MaxPooling2D(2, strides=1)(own_layers.Activation(second)(h))
    return Model(x, own_layers.Dense(2)(own_layers.Flatten()(h)))


def rectified(model: Model) -> int:
    return sum(type(step.call).__name__ == "_Rectified" for step in model.plan()._reordered())


@pytest.mark.parametrize("pooling", [{}, {"padding": "same"}, {"padding": "same", "strides": 1}], ids=str)
@pytest.mark.parametrize(("first", "second", "moved"), [("relu", "relu6", 2), ("relu6", "relu", 2), ("elu", "relu", 1)])
def test_same_run_bit_for_bit(first: str, second: str, moved: int, pooling: dict[str, object]) -> None:
    model, plain = built(first, second, **pooling), built(first, second, **pooling)
    plain.set_weights(model.get_weights())
    plain.plan()._forward_steps = plain.plan().steps
    assert rectified(model) == moved
    histories = []
    for one in (model, plain):
        one.compile("adam", "mse")
        histories.append(one.fit(X, Y, epochs=3, batch_size=4, shuffle=False, verbose=0).history)
    assert histories[0] == histories[1]
    for own, other in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)
    np.testing.assert_array_equal(model.predict(X), plain.predict(X))


def test_what_somebody_else_reads_or_penalises_stays() -> None:
    x = Input((8, 8, 3))
    h = own_layers.Conv2D(4, 3, activation="relu")(x)
    assert rectified(Model(x, [h, own_layers.MaxPooling2D()(h)])) == 0
    penalised = own_layers.Conv2D(4, 3, activation="relu", activity_regularizer="l2")(x)
    assert rectified(Model(x, own_layers.MaxPooling2D()(penalised))) == 0
    assert rectified(Model(x, own_layers.AveragePooling2D()(h))) == 0
