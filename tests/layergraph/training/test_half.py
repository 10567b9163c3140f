"""Training in half precision: rounded where stock Keras rounds, so that losses stay equal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
from oracles import keras

#: Layers whose bias Keras adds to a product or convolution after rounding it.
BODIES: dict[str, tuple[tuple[int, ...], Callable[[Any], Any]]] = {
    "Dense": ((5,), lambda x: keras.layers.Dense(4, "tanh")(keras.layers.Dense(6, "elu")(x))),
    "Dense of steps": ((5, 3), lambda x: keras.layers.Flatten()(keras.layers.Dense(4, "tanh")(x))),
    "Conv1D": ((5, 3), lambda x: keras.layers.Flatten()(keras.layers.Conv1D(4, 2, activation="tanh")(x))),
    "Conv2D": ((6, 6, 2), lambda x: keras.layers.Flatten()(keras.layers.Conv2D(3, 3, activation="relu")(x))),
    "DepthwiseConv2D": ((6, 6, 2), lambda x: keras.layers.Flatten()(keras.layers.DepthwiseConv2D(3)(x))),
    "SeparableConv2D": ((6, 6, 2), lambda x: keras.layers.Flatten()(keras.layers.SeparableConv2D(3, 3)(x))),
    "Conv2DTranspose": ((4, 4, 2), lambda x: keras.layers.Flatten()(keras.layers.Conv2DTranspose(3, 3)(x))),
    "LSTM": ((5, 3), lambda x: keras.layers.LSTM(4)(x)),
    "GRU": ((5, 3), lambda x: keras.layers.GRU(4)(x)),
}


@pytest.mark.parametrize("kind", BODIES)
def test_a_run_in_bfloat16_gives_the_losses_of_keras(kind: str, tmp_path: Path) -> None:
    shape, body = BODIES[kind]
    rng = np.random.default_rng(3)
    keras.utils.set_random_seed(3)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        entry = keras.Input(shape)
        theirs = keras.Model(entry, keras.layers.Dense(1, dtype="float32")(body(entry)))
    finally:
        keras.config.set_dtype_policy("float32")
    theirs.set_weights([w + 0.1 * rng.random(w.shape, "float32") for w in theirs.get_weights()])
    theirs.compile(keras.optimizers.SGD(0.01, momentum=0.5), "mse", metrics=["mae"])
    theirs.save(tmp_path / "model.keras")
    ours = layergraph.load_model(tmp_path / "model.keras")
    x, y = rng.standard_normal((10, *shape)).astype("float32"), rng.standard_normal((10, 1)).astype("float32")
    fit: dict[str, Any] = {"batch_size": 4, "epochs": 3, "shuffle": False, "verbose": 0}
    want, got = theirs.fit(x, y, **fit).history, ours.fit(x, y, **fit).history
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5, err_msg=name)
    for own, weight in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(own, weight, rtol=1e-5, atol=1e-5)
