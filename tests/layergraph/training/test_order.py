"""Calls of a shared layer that change its statistics or states, in the order in which stock Keras makes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import layergraph
import numpy as np
import pytest

L = keras.layers
RNG = np.random.default_rng(3)
A, B = RNG.standard_normal((9, 3)).astype("float32"), 3 * RNG.standard_normal((9, 3)).astype("float32") + 1
Y = RNG.standard_normal((9, 2)).astype("float32")


def joined(i: Any, j: Any, *branches: Any) -> Any:
    return keras.Model([i, j], L.Dense(2, name="out")(L.Add(name="add")(list(branches))))


def entries() -> tuple[Any, Any]:
    return keras.Input((3,), name="i"), keras.Input((3,), name="j")


def norm() -> Any:
    return L.BatchNormalization(momentum=0.5, name="norm")


def towers() -> Any:
    (i, j), shared, dense = entries(), norm(), L.Dense(3, name="dense")
    return joined(i, j, dense(shared(i)), dense(shared(j)))


def depths() -> Any:
    (i, j), shared, dense = entries(), norm(), L.Dense(3, name="dense")
    return joined(i, j, dense(shared(i)), dense(shared(j)), shared(dense(i)))


def in_a_model() -> Any:
    (i, j), shared, entry = entries(), norm(), keras.Input((3,))
    inner = keras.Model(entry, L.Dense(3, name="dense")(shared(entry)), name="inner")
    return joined(i, j, inner(shared(i)), inner(shared(j)))


def models() -> Any:
    (i, j), shared, entry = entries(), norm(), keras.Input((3,))
    inner = keras.Model(entry, L.Dense(3, name="dense")(entry), name="inner")
    return joined(i, j, inner(shared(i)), inner(shared(j)), shared(inner(i)))


@pytest.mark.parametrize("make", [towers, depths, in_a_model, models])
def test_moving_statistics(tmp_path: Path, make: Callable[[], Any]) -> None:
    theirs = make()
    theirs.compile(keras.optimizers.SGD(0.01), "mse")
    theirs.save(tmp_path / "model.keras")
    ours = layergraph.load_model(tmp_path / "model.keras")
    fit = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
    expected, found = (model.fit([A, B], Y, **fit).history for model in (theirs, ours))
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)
    for own, their in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(own, their, rtol=1e-5, atol=1e-6)


def test_states(tmp_path: Path) -> None:
    i, j = (keras.Input(batch_shape=(3, 4, 2), name=name) for name in "ij")
    shared, dense = L.GRU(3, stateful=True, name="gru"), L.Dense(3, name="dense")
    theirs = joined(i, j, dense(shared(i)), dense(shared(j)))
    theirs.compile("sgd", "mse")
    theirs.save(tmp_path / "model.keras")
    ours = layergraph.load_model(tmp_path / "model.keras")
    data = [RNG.standard_normal((6, 4, 2)).astype("float32") for _ in range(2)]
    expected, found = (model.evaluate(data, Y[:6], batch_size=3, verbose=0) for model in (theirs, ours))
    assert found == pytest.approx(expected, rel=1e-5)
    predicted, want = (model.predict(data, batch_size=3, verbose=0) for model in (ours, theirs))
    np.testing.assert_allclose(predicted, want, rtol=1e-5, atol=1e-6)
