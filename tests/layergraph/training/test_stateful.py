"""Stateful layers: each batch in training starts with the states of the one before, as in stock Keras."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import layergraph
import numpy as np
import pytest
from keras import layers
from layergraph.errors import ConfigError
from layergraph.training.callbacks.callback import Callback
from layergraph.training.checkpoint import Checkpoints
from layergraph.training.shareable import check_shareable

RNG = np.random.default_rng(5)
ROWS = 4
X = RNG.standard_normal((12, 5, 3)).astype("float32")
Y = RNG.standard_normal((12, 1)).astype("float32")

LAYERS: dict[str, Callable[[], Any]] = {
    "LSTM": lambda: layers.LSTM(2, stateful=True),
    "GRU": lambda: layers.GRU(2, stateful=True, go_backwards=True),
    "cells": lambda: layers.RNN([layers.LSTMCell(2), layers.GRUCell(3)], stateful=True),
    "both ways": lambda: layers.Bidirectional(layers.LSTM(2, stateful=True)),
    "masked": lambda: keras.Sequential([layers.Masking(), layers.GRU(2, stateful=True)]),
}


def saved(path: Path, stack: Any, shape: tuple[int, ...] = X.shape[1:]) -> keras.Model:
    inputs = keras.Input(batch_shape=(ROWS, *shape))
    model = keras.Model(inputs, layers.Dense(1)(layers.Flatten()(stack(inputs))))
    model.compile(keras.optimizers.Adam(0.02), "mse", metrics=["mae"])
    model.save(path)
    return model


@pytest.mark.parametrize("name", LAYERS)
def test_evaluation_goes_on_from_batch_to_batch(name: str, tmp_path: Path) -> None:
    theirs = saved(tmp_path / "model.keras", LAYERS[name]())
    ours = layergraph.load_model(tmp_path / "model.keras")
    x = X * (RNG.random((12, 5, 1)) < 0.7) if name == "masked" else X
    for _ in range(2):
        expected = theirs.evaluate(x, Y, batch_size=ROWS, verbose=0)
        assert ours.evaluate(x, Y, batch_size=ROWS, verbose=0) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(
        ours.predict(x, batch_size=ROWS), theirs.predict(x, batch_size=ROWS, verbose=0), rtol=1e-5, atol=1e-6
    )


def test_a_convolutional_layer_goes_on(tmp_path: Path) -> None:
    x = RNG.standard_normal((12, 3, 4, 2)).astype("float32")
    theirs = saved(tmp_path / "model.keras", layers.ConvLSTM1D(2, 2, stateful=True), x.shape[1:])
    ours = layergraph.load_model(tmp_path / "model.keras")
    expected = theirs.evaluate(x, Y, batch_size=ROWS, verbose=0)
    assert ours.evaluate(x, Y, batch_size=ROWS, verbose=0) == pytest.approx(expected, rel=1e-5)


def test_training_goes_on_from_batch_to_batch(tmp_path: Path) -> None:
    """Keras on torch fails to train such a model, except with the states as inputs."""
    original = saved(tmp_path / "model.keras", layers.LSTM(2, stateful=True))
    inputs, h, c = keras.Input((5, 3)), keras.Input((2,)), keras.Input((2,))
    output, *ends = layers.LSTM(2, return_state=True)(inputs, initial_state=[h, c])
    theirs = keras.Model([inputs, h, c], layers.Dense(1)(output))
    after = keras.Model([inputs, h, c], ends)
    theirs.set_weights(original.get_weights())
    theirs.compile(keras.optimizers.Adam(0.02), "mse", metrics=["mae"])
    states = [np.zeros((ROWS, 2), "float32")] * 2
    for _ in range(2):
        for start in range(0, 12, ROWS):
            batch = [X[start : start + ROWS], *states]
            states = after.predict(batch, verbose=0)
            theirs.train_on_batch(batch, Y[start : start + ROWS])
    ours = layergraph.load_model(tmp_path / "model.keras")
    ours.fit(X, Y, batch_size=ROWS, epochs=2, shuffle=False, verbose=0)
    for own, their in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(own, their, rtol=1e-4, atol=1e-5)


class Killed(Exception):
    """Interrupts a run."""


class Killer(Callback):
    """Interrupts a run in the second epoch."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.model.optimizer.iterations == 5:
            raise Killed


def test_a_run_that_goes_on_has_the_states_of_its_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path / "model.keras", layers.GRU(2, stateful=True))
    fit: dict[str, Any] = {"batch_size": ROWS, "epochs": 3, "shuffle": False, "verbose": 0, "validation_data": (X, Y)}
    whole = layergraph.load_model(tmp_path / "model.keras")
    expected = whole.fit(X, Y, **fit).history
    checkpoints = Checkpoints(tmp_path / "kept", every_steps=1)
    broken = layergraph.load_model(tmp_path / "model.keras")
    with pytest.raises(Killed):
        broken.fit(X, Y, **fit, checkpoints=checkpoints, callbacks=[Killer()])
    resumed = layergraph.load_model(tmp_path / "model.keras")
    assert resumed.fit(X, Y, **fit, checkpoints=checkpoints).history["loss"][-1] == expected["loss"][-1]
    for own, other in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(own, other)


def test_states_begin_anew_when_asked_to_and_for_other_numbers_of_rows(tmp_path: Path) -> None:
    saved(tmp_path / "model.keras", layers.GRU(2, stateful=True))
    ours = layergraph.load_model(tmp_path / "model.keras")
    first = ours.predict(X[:ROWS])
    assert not np.allclose(ours.predict(X[:ROWS]), first)
    ours.reset_states()
    np.testing.assert_array_equal(ours.predict(X[:ROWS]), first)
    np.testing.assert_allclose(ours.predict(X[:2]), first[:2], rtol=1e-6)
    assert np.array_equal(*[ours.plan().run({ours.input_names[0]: X[:ROWS]})[ours.output_names[0]] for _ in range(2)])


def test_states_go_on_in_outputs_that_nobody_reads(tmp_path: Path) -> None:
    """A nested model is executed as a whole: the next batch starts with the states of its call."""
    entry, inside = (keras.Input(batch_shape=(ROWS, *X.shape[1:])) for _ in range(2))
    recurrent = layers.GRU(2, stateful=True)
    inner = keras.Model(inside, [recurrent(inside), layers.Dense(1)(layers.Flatten()(inside))])
    theirs = keras.Model(entry, layers.Add()([layers.Dense(1)(recurrent(entry)), inner(entry)[1]]))
    theirs.save(tmp_path / "model.keras")
    ours = layergraph.load_model(tmp_path / "model.keras")
    expected = theirs.predict(X, batch_size=ROWS, verbose=0)
    np.testing.assert_allclose(ours.predict(X, batch_size=ROWS), expected, rtol=1e-5, atol=1e-6)


def test_several_workers_do_not_share_them(tmp_path: Path) -> None:
    saved(tmp_path / "model.keras", layers.GRU(2, stateful=True))
    with pytest.raises(ConfigError, match=r"\(GRU\) is stateful"):
        check_shareable(layergraph.load_model(tmp_path / "model.keras"))
