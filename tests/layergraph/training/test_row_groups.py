"""Data in row groups: few are in memory, each worker reads its own, and numbers are those of one process and Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grouped_data
import keras
import numpy as np
import pytest
import torch
from grouped_data import grouped
from layergraph.errors import DataError
from layergraph.training import row_groups
from layergraph.training.callbacks.callback import Callback
from layergraph.training.checkpoint import Checkpoints
from layergraph.training.epochs import Epochs, GroupedOrder, epoch_order
from layergraph.training.mapped_text import MappedText
from layergraph.training.row_groups import RowGroups

#: Numbers of rows of groups, none a multiple of a batch's.
ROWS = (30, 7, 50, 1, 22, 41, 13, 36)


@pytest.fixture(autouse=True)
def _little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "HELD_BYTES", 1)
    monkeypatch.setattr(row_groups, "HELD_GROUPS", 2)


def whole_order(groups: RowGroups, seed: int, number: int, size: int) -> list[int]:
    """The rows of an epoch, batch by batch."""
    order = GroupedOrder(groups, seed, number)
    starts = range(0, groups.rows, size)
    return [int(row) for start in starts for row in order[start : min(start + size, groups.rows)]]


@pytest.mark.parametrize("size", [1, 7, 300])
def test_an_epoch_has_each_row_once_from_few_groups_at_a_time(size: int) -> None:
    groups = RowGroups.of(ROWS, [8] * len(ROWS))
    found = whole_order(groups, 3, 0, size)
    assert sorted(found) == list(range(200))
    assert found != whole_order(groups, 3, 1, size)
    assert found != whole_order(groups, 4, 0, size)
    at = 0
    for block in groups.blocks(epoch_order(len(ROWS), 3, 0).tolist()):
        rows = int(sum(ROWS[group] for group in block))
        if size == 1:
            assert {int(group) for group in groups.of_rows(np.array(found[at : at + rows]))} == set(block)
        at += rows


def test_a_batch_is_the_same_wherever_a_run_goes_on() -> None:
    groups = RowGroups.of(ROWS, [8] * len(ROWS))
    order = whole_order(groups, 5, 2, 16)
    for start in range(0, 200, 16):
        stop = min(200, start + 16)
        assert GroupedOrder(groups, 5, 2)[start:stop].tolist() == order[start:stop]


def test_data_that_fits_into_memory_is_shuffled_as_arrays_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "HELD_BYTES", 1 << 20)
    x = np.arange(200.0, dtype=np.float32)[:, None]
    model = grouped_data.model()
    plain, by_groups = (
        Epochs(model._data(model._ready(), given, x), 16, seed=2, shuffle=True, number=0)
        for given in (x, grouped([x], ROWS)[0])
    )
    for _ in range(plain.steps):
        assert torch.equal(plain.take().inputs[0], by_groups.take().inputs[0])


@pytest.mark.parametrize("workers", [1, 2, 3, 5, 8, 9])
def test_workers_read_groups_of_their_own(workers: int) -> None:
    groups = RowGroups.of([100] * 48, [8] * 48)
    owners = groups.owners(np.arange(4800), workers).reshape(48, 100)
    assert (owners == owners[:, :1]).all()
    counts = np.bincount(owners[:, 0], minlength=workers)
    assert counts.min() >= 48 // workers - 1
    assert counts.max() <= 48 // workers + 2
    # Also of groups that are neighbours.
    assert len(set(owners[:12, 0].tolist())) == min(workers, 12) or workers > 6


def test_each_group_is_read_at_most_once_an_epoch() -> None:
    x = np.random.default_rng(1).random((200, 3), np.float32)
    read: list[int] = []
    array, labels = grouped([x, x[:, :1]], ROWS, read)
    model = grouped_data.model(3)
    model.fit(array, labels, epochs=2, batch_size=16, seed=1, verbose=0)
    counts = np.bincount(read, minlength=len(ROWS))
    assert counts.min() >= 1
    assert counts.max() <= 2
    assert len(array._source._held) <= 2


def test_small_groups_that_are_adjacent_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_groups, "HELD_BYTES", 1 << 20)
    x = np.arange(1000)
    (array,) = grouped([x], [1] * 1000)
    assert len(array.groups.ends) in range(16, 20)
    np.testing.assert_array_equal(array.take(torch.tensor([999, 0, 500])), [999, 0, 500])


def test_parts_of_an_array_are_those_of_an_array_in_memory() -> None:
    x, text = np.arange(400.0).reshape(200, 2), np.array([b"a" * (n % 5) for n in range(200)], object)
    one, words = grouped([x, text], ROWS)
    some = torch.tensor([5, 3, 120, 60])
    np.testing.assert_array_equal(one[20:190][10:].take(some), x[30:190][some.numpy()])
    np.testing.assert_array_equal(one.reshape((200, 2, 1)).take(slice(3, 9)), x[3:9, :, None])
    np.testing.assert_array_equal(words[1:].take(some), text[1:][some.numpy()])
    assert one[10:40].groups.rows == 30
    assert one[200:].take(slice(0, 5)).shape == (0, 2)


def test_texts_of_several_groups_are_joined() -> None:
    parts = [MappedText.of([b"a", b"", b"bc", b"d"], (2, 2)), MappedText.of([b"", b"xyz"], (1, 2))]
    assert MappedText.joined(parts).take(slice(0, 3)).tolist() == [[b"a", b""], [b"bc", b"d"], [b"", b"xyz"]]


def test_a_run_has_the_numbers_of_keras_with_the_same_order() -> None:
    """Labels, weights by class, a split for validation, and a last batch of fewer rows."""
    rng = np.random.default_rng(5)
    x, y = rng.random((200, 4), np.float32), rng.integers(0, 3, 200)
    model = grouped_data.classifier()
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(3, activation="softmax")(keras.layers.Dense(5, activation="tanh")(inputs))
    stock = keras.Model(inputs, outputs)
    stock.set_weights(model.get_weights())
    stock.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    weights = {0: 1.0, 1: 3.0, 2: 0.5}
    array, labels = grouped([x, y], ROWS)
    options: dict[str, Any] = {"batch_size": 16, "verbose": 0, "class_weight": weights}
    history = model.fit(array, labels, epochs=3, seed=7, validation_split=0.2, **options).history
    training = array[:160].groups
    for epoch in range(3):
        order = whole_order(training, 7, epoch, 16)
        told = stock.fit(x[order], y[order], shuffle=False, validation_data=(x[160:], y[160:]), **options).history
        for name, (value,) in told.items():
            np.testing.assert_allclose(history[name][epoch], value, rtol=1e-5, err_msg=f"{name} of epoch {epoch}")
    for ours, theirs in zip(model.get_weights(), stock.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_rows_of_a_split_are_read_by_groups() -> None:
    x = np.arange(200.0, dtype=np.float32)[:, None]
    read: list[int] = []
    array, labels = grouped([x, x], ROWS, read)
    chosen = np.random.default_rng(2).permutation(200)[:90]
    model = grouped_data.model()
    model.fit(array, labels, rows=chosen, epochs=1, batch_size=16, seed=1, verbose=0)
    assert len(read) <= len(ROWS)
    held = model._data(model._ready(), array, labels).chosen("rows", chosen)
    epochs = Epochs(held, 16, seed=1, shuffle=True, number=0)
    found = [row for _ in range(epochs.steps) for row in epochs.take().inputs[0].flatten().tolist()]
    assert sorted(found) == sorted(chosen)
    with pytest.raises(DataError, match="indices from 0 to 200"):
        model.fit(array, labels, rows=[0, 200], verbose=0)


def test_a_class_out_of_range_is_found_when_it_is_read() -> None:
    y = np.zeros(200, np.int64)
    y[131] = 3
    array, labels = grouped([np.zeros((200, 4), np.float32), y], ROWS)
    with pytest.raises(DataError, match=r"labels of output 'dense.*': row 132 has class 3, expected 0 to 2"):
        grouped_data.classifier().fit(array, labels, verbose=0)


def test_text_is_not_taken_for_numbers() -> None:
    (array,) = grouped([np.array([b"a"] * 200, object)], ROWS)
    with pytest.raises(DataError, match="got dtype object, expected numbers"):
        grouped_data.model().fit(array, np.zeros((200, 1)), verbose=0)


class Stopped(Exception):
    pass


def test_a_run_goes_on_after_any_batch_as_if_unbroken(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    x, y = rng.random((60, 4), np.float32), rng.integers(0, 3, 60)
    initial = grouped_data.classifier().get_weights()

    def run(checkpoints: Checkpoints | None, stop: int | None) -> list[Any]:
        """Trains on groups that are read anew, up to a batch if one is given."""
        model = grouped_data.classifier()
        model.set_weights(initial)
        batches = iter(range(100))

        class Stop(Callback):
            def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
                if next(batches) == stop:
                    raise Stopped

        array, labels = grouped([x, y], (13, 7, 2, 20, 11, 7))
        model.fit(array, labels, epochs=2, batch_size=8, seed=3, verbose=0, checkpoints=checkpoints, callbacks=[Stop()])
        return model.get_weights()

    unbroken = run(None, None)
    for stop in range(1, 16):
        checkpoints = Checkpoints(tmp_path / f"{stop}", every_steps=1)
        with pytest.raises(Stopped):
            run(checkpoints, stop)
        for ours, expected in zip(run(Checkpoints(tmp_path / f"{stop}", every_steps=1), None), unbroken, strict=True):
            np.testing.assert_array_equal(ours, expected)
