"""Nested and named outputs in training: names of logs, losses and labels, against stock Keras."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import layergraph
import numpy as np
import pytest
from layergraph.errors import DataError

RNG = np.random.default_rng(7)
X = RNG.standard_normal((10, 4)).astype("float32")
Y = [RNG.standard_normal((10, 2)).astype("float32") for _ in range(3)]


def model(nest: Callable[[Any, Any, Any], Any]) -> keras.Model:
    """One layer called twice, and another: three outputs, nested by `nest`."""
    inputs = keras.Input((4,))
    twice, other = keras.layers.Dense(2, name="twice"), keras.layers.Dense(2, name="other")
    hidden = keras.layers.Dense(4, activation="tanh", name="hidden")(inputs)
    return keras.Model(inputs, nest(twice(inputs), twice(hidden), other(inputs)))


#: Nesting of the outputs; losses, loss weights and metrics; and labels with their own nesting.
CASES: dict[str, tuple[Callable[[Any, Any, Any], Any], dict[str, Any], Any]] = {
    "one layer's outputs": (lambda a, b, c: [a, b, c], {"loss": ["mse", "mae", "mse"], "metrics": [["mae"]] * 3}, Y),
    "by the layer's name": (
        lambda a, b, c: [a, b, c],
        {"loss": {"twice": "mse", "other": "mae"}, "weighted_metrics": {"twice": ["mae"]}},
        Y,
    ),
    "a list in a dict": (
        lambda a, b, c: {"first": a, "rest": [b, c]},
        {"loss": {"first": "mse", "rest": ["mae", "mse"]}, "metrics": {"first": ["mae"], "rest": [["mse"], []]}},
        {"first": Y[0], "rest": Y[1:]},
    ),
    "losses and labels in a list": (
        lambda a, b, c: [a, {"left": b, "right": c}],
        {"loss": [None, "mse", "mae"]},
        Y,
    ),
    "weights in a list": (
        lambda a, b, c: [a, {"left": b, "right": c}],
        {"loss": ["mse", {"left": "mae", "right": "mse"}], "loss_weights": [0.5, 2.0, 0.1]},
        [Y[0], {"left": Y[1], "right": Y[2]}],
    ),
    "dicts in a list": (
        lambda a, b, c: [{"left": a}, {"left": b, "right": c}],
        {"loss": "mse", "metrics": [{"left": ["mae"]}, {"left": ["mae"], "right": ["mse"]}]},
        [{"left": Y[0]}, {"left": Y[1], "right": Y[2]}],
    ),
}


@pytest.mark.filterwarnings("ignore:(?s).*structure of `inputs`:UserWarning")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("from_file", [True, False])
def test_logs(name: str, from_file: bool, tmp_path: Path) -> None:
    nest, arguments, labels = CASES[name]
    theirs = model(nest)
    theirs.compile("sgd", **arguments)
    theirs.save(tmp_path / "model.keras")
    ours = layergraph.load_model(tmp_path / "model.keras")
    if not from_file:
        ours.compile("sgd", **arguments)
    fit = {"epochs": 2, "batch_size": 4, "shuffle": False, "verbose": 0, "validation_data": (X, labels)}
    expected = theirs.fit(X, labels, **fit).history
    found = ours.fit(X, labels, **fit).history
    assert list(found) == list(expected)
    for log, values in expected.items():
        np.testing.assert_allclose(found[log], values, rtol=1e-5, atol=1e-6, err_msg=log)


def test_one_array_for_several_outputs_is_refused(tmp_path: Path) -> None:
    theirs = model(lambda a, b, c: [a, {"left": b, "right": c}])
    theirs.save(tmp_path / "model.keras")
    ours = layergraph.load_model(tmp_path / "model.keras")
    ours.compile("sgd", "mse")
    with pytest.raises(DataError, match=r"got an array at \[1\], expected the nesting"):
        ours.fit(X, Y[:2], verbose=0)
