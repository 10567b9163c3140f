"""Arrays in row groups, made of arrays in memory; and what two workers, started by torchrun, train on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from layergraph import Input, Model, layers, utils
from layergraph.training import row_groups
from layergraph.training.mapped_text import MappedText
from layergraph.training.row_groups import GroupedArray, GroupedRows
from layergraph.training.workers import Workers
from torch import distributed

Array = np.ndarray[Any, Any]

ADAM = {"class_name": "Adam", "config": {"learning_rate": 0.01}}


def grouped(arrays: Sequence[Array], rows: Sequence[int], read: list[int] | None = None) -> list[GroupedArray]:
    """Returns arrays in groups of these numbers of rows; `read` gets the number of each group that is read."""
    ends = np.cumsum(rows)

    def part(array: Array, group: int) -> Array | MappedText:
        found = array[ends[group] - rows[group] : ends[group]]
        return MappedText.of(found.ravel().tolist(), found.shape) if array.dtype == object else found

    def group(number: int) -> list[Array | MappedText]:
        if read is not None:
            read.append(number)
        return [part(array, number) for array in arrays]

    source = GroupedRows(rows, [8 * count for count in rows], group)
    return [GroupedArray(source, place, array.shape, array.dtype) for place, array in enumerate(arrays)]


def model(features: int = 1) -> Model:
    x = Input((features,))
    made = Model(x, layers.Dense(1)(x))
    made.compile("sgd", "mse")
    return made


def classifier() -> Model:
    x = Input((4,))
    made = Model(x, layers.Dense(3, activation="softmax")(layers.Dense(5, activation="tanh")(x)))
    made.compile(ADAM, "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    return made


def mixed() -> Model:
    """Numbers, text, statistics of whole batches, and random numbers."""
    x, words = Input((4,), name="x"), Input((2,), dtype="string", name="words")
    lookup = layers.StringLookup(vocabulary=["a", "b", "c"])
    embedded = layers.Flatten()(layers.Embedding(5, 3)(lookup(words)))
    hidden = layers.BatchNormalization()(layers.Dense(6, activation="relu")(x))
    joined = layers.Dropout(0.2)(layers.Concatenate()([hidden, embedded]))
    made = Model([x, words], layers.Dense(3, activation="softmax")(joined))
    made.compile(ADAM, "sparse_categorical_crossentropy", weighted_metrics=["accuracy"])
    return made


def check(workers: Workers) -> None:
    """Trains with two workers and with one process, on groups of several sizes, and compares."""
    row_groups.HELD_BYTES, row_groups.HELD_GROUPS = 1, 2
    rng = np.random.default_rng(0)
    # Many groups; one group, which only one worker reads; and as much data as fits into memory. The last batch of
    # validation has one row, which both workers compute.
    for rows, held, shuffle in (
        ((30, 7, 50, 1, 22, 41, 13, 32), 1, True),
        ((30, 7, 50, 1, 22, 41, 13, 32), 1, False),
        ((196,), 1, True),
        ((60, 60, 76), 1 << 20, True),
    ):
        row_groups.HELD_BYTES = held
        x, y = rng.random((196, 4), np.float32), rng.integers(0, 3, 196)
        words = np.array([[b"a", b"b"][n % 2 :] + [b"c", b"zz"][: 1 + n % 2] for n in range(196)], object)[:, :2]
        weight = rng.random(196).astype(np.float32)
        fitted = []
        for group in (workers, None):
            utils.set_random_seed(3)
            one = mixed()
            read: list[int] = []
            given, text, labels, weights = grouped([x, words, y, weight], rows, read)
            history = one.fit(
                {"x": given, "words": text}, labels, sample_weight=weights, epochs=2, batch_size=16, seed=5,
                validation_split=0.25, shuffle=shuffle, verbose=0, workers=group,
            ).history  # fmt: skip
            fitted.append((one.get_weights(), history))
            if group is not None:
                parts: list[Any] = [None, None]
                distributed.all_gather_object(parts, sorted(set(read)))
                assert not set(parts[0]) & set(parts[1]), parts
                assert sorted(parts[0] + parts[1]) == list(range(len(rows))), parts
        for ours, theirs in zip(fitted[0][0], fitted[1][0], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        for name, values in fitted[1][1].items():
            np.testing.assert_allclose(fitted[0][1][name], values, rtol=1e-5, err_msg=name)
