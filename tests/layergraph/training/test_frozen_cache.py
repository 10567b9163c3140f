"""Kept outputs of frozen layers: the same losses and weights as without, and as stock Keras's, for less work."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
import torch
from layergraph import layers as own_layers
from layergraph.errors import ConfigError
from layergraph.layers.convolutional.convolution import Conv2D
from layergraph.training.callbacks.callback import Callback
from layergraph.training.checkpoint import Checkpoints
from layergraph.training.frozen_cache import FrozenCache

RNG = np.random.default_rng(4)
ROWS, TRAINED = 29, 20
IMAGES = {name: RNG.standard_normal((ROWS, 8, 8, 2)).astype("float32") for name in ("left", "right")}
X = {**IMAGES, "words": RNG.integers(0, 9, (ROWS, 5))}
Y = RNG.integers(0, 3, ROWS)
FIT: dict[str, Any] = {"epochs": 3, "batch_size": 8, "verbose": 0, "validation_split": 0.3}
FROZEN = ("encoder", "embedding", "mixed")


def build(k: Any, layers: Any) -> Any:
    """An encoder called twice, a masked branch, an input read by both parts, and an output of the trunk itself."""
    x = k.Input((8, 8, 2), name="image")
    h = layers.Conv2D(4, 3, activation="relu", name="conv_1")(x)
    h = layers.BatchNormalization(name="batch_norm")(h)
    h = layers.Conv2D(4, 3, name="conv_2")(layers.MaxPooling2D(name="pool")(h))
    encoder = k.Model(x, layers.Flatten(name="flat")(h), name="encoder")
    left, right = k.Input((8, 8, 2), name="left"), k.Input((8, 8, 2), name="right")
    words = k.Input((5,), dtype="int32", name="words")
    text = layers.Embedding(9, 4, mask_zero=True, name="embedding")(words)
    text = layers.LSTM(4, name="lstm")(layers.Dense(4, name="mixed")(text))
    side = layers.Dense(2, name="side")(layers.Flatten(name="flat_right")(right))
    h = layers.Concatenate(name="join")([encoder(left), encoder(right), text, side])
    return k.Model([left, right, words], layers.Dense(3, activation="softmax", name="out")(h))


def compiled(frozen: Any = FROZEN, weights: Any = None) -> Any:
    layergraph.utils.set_random_seed(0)
    model = build(layergraph, own_layers)
    if weights is not None:
        model.set_weights(weights)
    for name in frozen:
        model.get_layer(name).trainable = False
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def fitted(cache: Any, model: Any = None, **settings: Any) -> tuple[dict[str, Any], list[Any]]:
    model = model or compiled()
    history = model.fit(X, Y, seed=3, cache_frozen=cache, **{**FIT, **settings}).history
    return history, model.get_weights()


def same(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    return one[0] == other[0] and all(np.array_equal(a, b) for a, b in zip(one[1], other[1], strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"validation_steps": 2, "validation_batch_size": 3},
        {"steps_per_epoch": 2, "epochs": 5, "sample_weight": np.linspace(0, 2, ROWS, dtype="float32")},
    ],
    ids=["epochs", "validation", "steps"],
)
def test_without_shuffling_nothing_differs_in_a_single_bit(settings: dict[str, Any]) -> None:
    assert same(fitted(cache=True, shuffle=False, **settings), fitted(cache=False, shuffle=False, **settings))


def test_with_shuffling_nothing_differs_but_by_rounding() -> None:
    (history, weights), (expected, expected_weights) = fitted(cache=True), fitted(cache=False)
    assert history.keys() == expected.keys()
    for name, values in expected.items():
        assert history[name] == pytest.approx(values, rel=1e-6), name
    for own, reference in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(own, reference, rtol=1e-5, atol=1e-6)


def test_the_trunk_runs_once_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    convolved = Conv2D.convolved

    def counted(self: Any, w: Any, x: torch.Tensor) -> torch.Tensor:
        rows.append(len(x) if self.name == "conv_1" else 0)
        return convolved(self, w, x)

    monkeypatch.setattr(Conv2D, "convolved", counted)
    fitted(cache=False)
    assert sum(rows) == 2 * 3 * ROWS
    rows.clear()
    fitted(cache=True, validation_batch_size=4)
    # Each row of training and validation in each of the two calls; tried on two rows; the first row's shapes.
    assert sum(rows) == 2 * (ROWS + 2 + 1 + 1)


def test_lora_weights_that_came_after_a_prediction_are_trained() -> None:
    results = []
    for cache in (True, False):
        model = compiled()
        # Its plan binds the weights as they are.
        model.predict(X, verbose=0)
        layergraph.utils.set_random_seed(1)
        model.get_layer("out").enable_lora(2)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        results.append(fitted(cache=cache, model=model, shuffle=False))
    assert same(*results)
    losses = results[0][0]["loss"]
    assert losses[0] > losses[-1]


def chain(*middle: Any, frozen: bool = True, last: bool = True) -> Any:
    """Dense layers, frozen, around the layers of a case; then one that is trained."""
    x = layergraph.Input((6,), name="x")
    first = own_layers.Dense(6, name="first")
    second = own_layers.Dense(6, name="second")
    first.trainable = second.trainable = not frozen
    h = first(x)
    for layer in middle:
        h = layer(h)
    model = layergraph.Model(x, own_layers.Dense(1, name="out")(second(h) if last else h))
    model.compile("sgd", "mse")
    return model


class Jitter(own_layers.Layer):
    """Random, without torch's generator for the run."""

    def call(self, inputs: Any) -> Any:
        return inputs + torch.rand(())


class Centred(own_layers.Layer):
    """Reads all rows."""

    def call(self, inputs: Any) -> Any:
        return inputs - inputs.mean(0)


def statistics() -> Any:
    return own_layers.BatchNormalization(scale=False, center=False, name="middle")


OBSTACLES: dict[str, tuple[Any, str]] = {
    "dropout": (lambda: [own_layers.Dropout(0.5, name="middle")], "is random in training"),
    "noise": (lambda: [own_layers.GaussianNoise(1.0, name="middle")], "is random in training"),
    "own random numbers": (lambda: [Jitter(name="middle")], "is random in training"),
    "statistics": (lambda: [statistics()], "updates statistics in training"),
    "penalty": (lambda: [own_layers.ActivityRegularization(0.1, name="middle")], "adds to the loss"),
    "rows": (lambda: [Centred(name="middle")], "computes rows together"),
}


@pytest.mark.parametrize(("made", "reason"), OBSTACLES.values(), ids=OBSTACLES)
def test_what_makes_it_inexact_is_refused_by_name(made: Any, reason: str) -> None:
    model, x = chain(*made()), RNG.standard_normal((8, 6)).astype("float32")
    with pytest.raises(ConfigError, match=rf"cache_frozen: layer 'middle' \(\w+\) {reason}"):
        model.fit(x, x[:, :1], verbose=0, cache_frozen=True)


@pytest.mark.parametrize(("made", "reason"), OBSTACLES.values(), ids=OBSTACLES)
def test_what_comes_before_it_is_kept_where_that_is_not_required(made: Any, reason: str) -> None:
    x = RNG.standard_normal((8, 6)).astype("float32")
    told: list[str] = []
    results = []
    for cache in (False, FrozenCache(log=told.append)):
        layergraph.utils.set_random_seed(1)
        torch.manual_seed(1)
        model = chain(*made())
        history = model.fit(x, x[:, :1], batch_size=4, epochs=3, seed=2, shuffle=False, verbose=0, cache_frozen=cache)
        results.append((history.history, model.get_weights()))
    assert told == ["outputs of 1 frozen layers are computed once and kept: 192 bytes"]
    if made is not OBSTACLES["own random numbers"][0]:
        assert same(*results)


def test_a_layer_with_a_state_is_refused() -> None:
    x = layergraph.Input(batch_shape=(4, 1, 6), name="x")
    lstm = own_layers.LSTM(6, stateful=True, trainable=False, name="lstm")
    model = layergraph.Model(x, own_layers.Dense(1)(lstm(x)))
    model.compile("sgd", "mse")
    with pytest.raises(ConfigError, match=r"layer 'lstm' \(LSTM\) has a state"):
        model.fit(np.zeros((8, 1, 6), "float32"), np.zeros((8, 1)), batch_size=4, verbose=0, cache_frozen=True)


def test_statistics_at_the_end_of_the_trunk_only_end_it() -> None:
    x = RNG.standard_normal((8, 6)).astype("float32")
    settings = {"batch_size": 4, "epochs": 3, "shuffle": False, "verbose": 0}
    results = []
    for cache in (False, True):
        layergraph.utils.set_random_seed(1)
        model = chain(statistics(), last=False)
        results.append((model.fit(x, x[:, :1], **settings, cache_frozen=cache).history, model.get_weights()))
    assert same(*results)


def test_a_frozen_embedding_alone_is_looked_up_in_each_step() -> None:
    words = layergraph.Input((5,), dtype="int32", name="words")
    table = own_layers.Embedding(9, 4, trainable=False, name="table")
    model = layergraph.Model(words, own_layers.Dense(1)(own_layers.Flatten()(table(words))))
    model.compile("sgd", "mse")
    with pytest.raises(ConfigError, match="no frozen layer with a matrix of weights comes before all trained ones"):
        model.fit(X["words"], np.zeros((ROWS, 1)), verbose=0, cache_frozen=True)


def of_text() -> Any:
    text = layergraph.Input((2,), dtype="string", name="text")
    words = own_layers.StringLookup(vocabulary=["a", "b", "c"], name="lookup")(text)
    h = own_layers.Flatten()(own_layers.Embedding(5, 3, trainable=False, name="table")(words))
    h = own_layers.Dense(3, trainable=False, name="mixed")(h)
    model = layergraph.Model(text, own_layers.Dense(1, name="out")(h))
    model.compile("sgd", "mse")
    return model


def test_text_is_read_once() -> None:
    x = np.array([["a", "b"], ["c", "x"], ["b", "b"]])
    settings = {"batch_size": 2, "epochs": 3, "shuffle": False, "verbose": 0}
    results = []
    for cache in (False, True):
        layergraph.utils.set_random_seed(1)
        model = of_text()
        history = model.fit(x, np.ones((3, 1)), **settings, cache_frozen=cache).history
        results.append((history, model.trainable_weights))
    assert results[0][0] == results[1][0]
    for own, reference in zip(results[0][1], results[1][1], strict=True):
        assert np.array_equal(own.numpy(), reference.numpy())


def test_one_pass_over_the_data_keeps_nothing() -> None:
    told: list[str] = []
    fitted(FrozenCache(log=told.append), epochs=1)
    assert told == []


def test_more_than_allowed_is_not_kept() -> None:
    told: list[str] = []
    fitted(FrozenCache(max_bytes=1000, log=told.append))
    # For each row: two outputs of the encoder, the mixed vectors, and their mask.
    size = ROWS * (2 * 4 * 4 + 5 * 4 * 4 + 5)
    assert told == [f"outputs of frozen layers aren't kept: they take {size} bytes, expected at most 1000"]
    with pytest.raises(ConfigError, match=f"cache_frozen: they take {size} bytes"):
        fitted(FrozenCache(max_bytes=1000, required=True))


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    told: list[str] = []
    expected = fitted(cache=False, shuffle=False)
    assert same(fitted(FrozenCache(tmp_path, log=told.append), shuffle=False), expected)
    assert "can't be reserved: No space left on device" in told[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["generator", "loader"])
def test_batches_have_no_rows_to_keep(kind: str) -> None:
    model, x = chain(), RNG.standard_normal((8, 6)).astype("float32")
    batches: Any = iter([(x, x[:, :1])] * 4)
    if kind == "loader":
        pairs = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(x[:, :1]))
        batches = torch.utils.data.DataLoader(pairs)
    with pytest.raises(ConfigError, match="cache_frozen: got batches, expected arrays"):
        model.fit(batches, steps_per_epoch=1, verbose=0, cache_frozen=True)


class _StoppedError(Exception):
    pass


class _Stopping(Checkpoints):
    def write(self, state: Any) -> None:
        super().write(state)
        if self._stops:
            raise _StoppedError

    _stops = False

    def stop(self) -> None:
        self._stops = True
        self.ask()


class _After(Callback):
    """Stops after some batches of training."""

    def __init__(self, batches: int, checkpoints: _Stopping) -> None:
        super().__init__()
        self._left = batches
        self._checkpoints = checkpoints

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._left -= 1
        if not self._left:
            self._checkpoints.stop()


@pytest.mark.parametrize("stops", [[("keeping", 2)], [("keeping", 1), ("training", 4)], [("training", 8)]], ids=str)
def test_a_resumed_run_is_the_unbroken_one(tmp_path: Path, stops: list[tuple[str, int]]) -> None:
    expected = fitted(FrozenCache(tmp_path / "whole", required=True))
    kept: list[int] = []
    for what, count in [*stops, ("", 0)]:
        checkpoints = _Stopping(tmp_path / "checkpoints")

        def pause(what: str = what, count: int = count, checkpoints: _Stopping = checkpoints) -> None:
            kept.append(1)
            if what == "keeping" and len(kept) == count:
                checkpoints.stop()

        callbacks = [_After(count, checkpoints)] if what == "training" else []
        cache = FrozenCache(tmp_path / "cache", required=True, pause=pause)
        try:
            result = fitted(cache, checkpoints=checkpoints, callbacks=callbacks)
        except _StoppedError:
            continue
    assert same(result, expected)
    # No row is computed twice.
    assert len(kept) == -(-TRAINED // 8) + -(-(ROWS - TRAINED) // 8)
    assert json.loads((tmp_path / "cache" / "training.json").read_text())["done"] == TRAINED


def test_a_run_that_began_without_goes_on_without(tmp_path: Path) -> None:
    told: list[str] = []
    expected = fitted(cache=False)
    checkpoints = _Stopping(tmp_path)
    with pytest.raises(_StoppedError):
        fitted(cache=False, checkpoints=checkpoints, callbacks=[_After(4, checkpoints)])
    resumed = fitted(FrozenCache(log=told.append), checkpoints=Checkpoints(tmp_path))
    assert told == []
    assert same(resumed, expected)


def test_files_of_another_run_are_not_taken(tmp_path: Path) -> None:
    expected = fitted(cache=False, shuffle=False)
    fitted(FrozenCache(tmp_path, required=True), shuffle=False, batch_size=4)
    assert same(fitted(FrozenCache(tmp_path, required=True), shuffle=False), expected)
    note = json.loads((tmp_path / "training.json").read_text())
    damaged = ("{", "[]", "{}", "[" * 100_000, json.dumps({**note, "done": None}), json.dumps({**note, "done": 10**6}))
    for text in damaged:
        (tmp_path / "training.json").write_text(text)
        (tmp_path / "training.0").write_bytes(bytes((tmp_path / "training.0").stat().st_size))
        assert same(fitted(FrozenCache(tmp_path, required=True), shuffle=False), expected)
