"""Losses by row during an evaluation. Those of single losses are compared with stock Keras in test_losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from layergraph import Input, Model, layers

RNG = np.random.default_rng(8)


def two_outputs() -> Model:
    x = Input((3,), name="x")
    body = layers.Dense(4, activation="tanh", kernel_regularizer="l2")(x)
    return Model(x, [layers.Dense(2, name="a")(body), layers.Dense(1, name="b")(body)])


def collected(model: Model, *data: Any, **options: Any) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    parts: list[dict[str, np.ndarray]] = []

    def add(losses):
        parts.append({name: value.numpy() for name, value in losses.items()})

    logs = model.evaluate(*data, verbose=0, return_dict=True, row_losses=add, **options)
    return logs, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_rows_of_several_outputs_are_added_with_their_loss_weights():
    model, x = two_outputs(), RNG.standard_normal((11, 3)).astype("float32")
    y = [RNG.standard_normal((11, 2)).astype("float32"), RNG.standard_normal((11, 1)).astype("float32")]
    model.compile("sgd", ["mse", "mae"], loss_weights=[2.0, 0.5], metrics=["mae", "mse"])
    plain = model.evaluate(x, y, verbose=0, return_dict=True)
    logs, rows = collected(model, x, y, batch_size=4)
    assert list(rows) == ["loss", "a_loss", "b_loss"]
    # The numbers are those of an evaluation without losses by row, also of one with other batches.
    assert logs == pytest.approx(plain, rel=1e-5)
    np.testing.assert_allclose(rows["loss"], 2 * rows["a_loss"] + 0.5 * rows["b_loss"], rtol=1e-5)
    assert rows["a_loss"].mean() == pytest.approx(logs["a_loss"], rel=1e-5)
    a, b = model.predict(x)
    np.testing.assert_allclose(rows["a_loss"], ((a - y[0]) ** 2).mean(1), rtol=1e-4)
    np.testing.assert_allclose(rows["b_loss"], np.abs(b - y[1])[:, 0], rtol=1e-4)
    # The penalty of the regularizer belongs to no row.
    assert rows["loss"].mean() < logs["loss"]


def test_an_output_without_labels_has_no_losses():
    model, x = two_outputs(), RNG.standard_normal((5, 3)).astype("float32")
    model.compile("sgd", {"b": "mse"})
    _, rows = collected(model, x, {"b": np.zeros((5, 1), "float32")})
    assert list(rows) == ["loss"]
    np.testing.assert_allclose(rows["loss"], model.predict(x)[1][:, 0] ** 2, rtol=1e-4)


def test_losses_of_single_rows_with_masks_are_those_of_their_evaluation():
    words = Input((6,), dtype="int32", name="words")
    hidden = layers.GRU(4, return_sequences=True)(layers.Embedding(9, 5, mask_zero=True)(words))
    model = Model(words, layers.Dense(3, activation="softmax", name="y")(hidden))
    model.compile("sgd", "sparse_categorical_crossentropy")
    x = RNG.integers(1, 9, (7, 6)) * (np.arange(6) < RNG.integers(1, 7, (7, 1)))
    y, weights = RNG.integers(0, 3, (7, 6)), RNG.uniform(0, 2, 7).astype("float32")
    _, rows = collected(model, x, y, sample_weight=weights, batch_size=3)
    alone = [
        model.evaluate(x[i : i + 1], y[i : i + 1], sample_weight=weights[i : i + 1], verbose=0) for i in range(len(x))
    ]
    np.testing.assert_allclose(rows["loss"], alone, rtol=1e-4)
