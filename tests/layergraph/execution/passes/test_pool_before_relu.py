"""Max pooling before a ReLU: bit for bit the results of pooling after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from layergraph import Input, Model, layers
from oracles import flat
from served import reference

RNG = np.random.default_rng(5)
X = RNG.standard_normal((12, 9, 8, 3)).astype("float32")
#: A window of equal values, and one with only negative values.
X[0], X[1] = 0.0, -1.0
Y = RNG.standard_normal((12, 2)).astype("float32")


def built(first: str, second: str, **pooling: object) -> Model:
    x = Input((9, 8, 3))
    h = layers.Conv2D(4, 3, activation=first)(x)
    h = layers.MaxPooling2D(2, **pooling)(h)
    h = layers.BatchNormalization()(layers.Conv2D(4, 2, use_bias=False)(h))
    h = layers.MaxPooling2D(2, strides=1)(layers.Activation(second)(h))
    return Model(x, layers.Dense(2)(layers.Flatten()(h)))


def rectified(model: Model) -> int:
    return sum(type(step.call).__name__ == "_Rectified" for step in model.plan()._reordered(training=True))


@pytest.mark.parametrize(
    ("first", "second", "moved", "pooling"),
    [
        ("relu", "relu6", 2, {"padding": "same", "strides": 1}),
        ("relu6", "relu", 2, {"padding": "same"}),
        ("elu", "relu", 1, {}),
    ],
)
def test_same_run_bit_for_bit(first: str, second: str, moved: int, pooling: dict[str, object]) -> None:
    model, plain = built(first, second, **pooling), built(first, second, **pooling)
    plain.set_weights(model.get_weights())
    plain.plan()._forward_steps = dict.fromkeys((False, True), plain.plan().steps)
    assert rectified(model) == moved
    histories = []
    for one in (model, plain):
        one.compile("adam", "mse")
        histories.append(one.fit(X, Y, epochs=1, batch_size=4, shuffle=False, verbose=0).history)
    assert histories[0] == histories[1]
    for own, other in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)
    np.testing.assert_array_equal(model.predict(X), plain.predict(X))


def rectified_by(layer: Any) -> Callable[[Any], Any]:
    return lambda x: layers.MaxPooling2D()(layer(x))


def read_twice(x: Any) -> Any:
    h = layers.Conv2D(4, 3, activation="relu")(x)
    return [h, layers.MaxPooling2D()(h)]


def pooled_twice(x: Any) -> Any:
    h = layers.Conv2D(4, 3, activation="relu")(x)
    return [layers.MaxPooling2D()(h), layers.MaxPooling2D(3)(h)]


class Shifted(layers.MaxPooling2D):
    """A plugin's pooling, which depends on negative values."""

    def forward(self, run: Any, w: Any, x: Any) -> Any:
        return super().forward(run, w, x - 1)


class Flipped(layers.Activation):
    """A plugin's activation."""

    def forward(self, run: Any, w: Any, x: Any) -> Any:
        return super().forward(run, w, -x)


#: Graphs -> whether pooling is moved before the activation.
GRAPHS: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "a convolution": (rectified_by(layers.Conv2D(4, 3, activation="relu")), True),
    "a depthwise convolution": (rectified_by(layers.DepthwiseConv2D(3, activation="relu6")), True),
    "a layer": (rectified_by(layers.ReLU()), True),
    "a layer that clips": (rectified_by(layers.ReLU(6.0)), True),
    "a layer that clips elsewhere": (rectified_by(layers.ReLU(0.5)), False),
    "a slope": (rectified_by(layers.ReLU(negative_slope=0.5)), False),
    "a threshold": (rectified_by(layers.ReLU(threshold=0.5)), False),
    "another function": (rectified_by(layers.Activation("softplus")), False),
    "a function that turns the order round": (rectified_by(Flipped("relu")), False),
    "a transposed convolution": (rectified_by(layers.Conv2DTranspose(4, 3, activation="relu")), False),
    "read by others": (read_twice, False),
    "pooled twice": (pooled_twice, False),
    "penalised": (rectified_by(layers.Conv2D(4, 3, activation="relu", activity_regularizer="l2")), False),
    "averages": (lambda x: layers.AveragePooling2D()(layers.ReLU()(x)), False),
    "a plugin's pooling": (lambda x: Shifted()(layers.ReLU()(x)), False),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_only_what_keeps_the_order_and_nobody_else_reads_comes_after_the_pooling(case: str) -> None:
    make, moved = GRAPHS[case]
    x = Input((9, 8, 3))
    model = Model(x, make(x))
    assert rectified(model) == moved
    data = 3 * X
    for got, expected in zip(flat(model.predict(data)), reference(model, data), strict=True):
        np.testing.assert_array_equal(got, expected)
