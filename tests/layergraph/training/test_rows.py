"""Chosen rows: training on some rows of arrays equals training on copies of them, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from layergraph import Input, Model
from layergraph.errors import ConfigError, DataError
from layergraph.layers import Dense, Dropout

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(30, 4)).astype("float32")
Y = RANDOM.integers(0, 3, size=(30, 1))
WEIGHTS = RANDOM.random(30).astype("float32")
ROWS = RANDOM.permutation(30)[:17]
OTHERS = np.setdiff1d(np.arange(30), ROWS)


def model():
    x = Input((4,))
    made = Model(x, Dense(3, "softmax")(Dropout(0.3)(Dense(5, "relu")(x))))
    made.set_weights([np.linspace(-1, 1, w.size, dtype="float32").reshape(w.shape) for w in made.get_weights()])
    made.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return made


def mapped(array, tmp_path, name):
    np.save(tmp_path / f"{name}.npy", array)
    return np.load(tmp_path / f"{name}.npy", mmap_mode="r")


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize(
    "weighted", [{"sample_weight": WEIGHTS}, {"class_weight": {0: 2.0, 1: 0.5}}, {}], ids=["rows", "classes", "none"]
)
def test_training_on_rows_is_training_on_copies_of_them(tmp_path, on_disk, weighted):
    x, y = (mapped(X, tmp_path, "x"), mapped(Y, tmp_path, "y")) if on_disk else (X, Y)
    options = {"epochs": 2, "batch_size": 4, "seed": 5, "verbose": 0}
    chosen, copied = model(), model()
    got = chosen.fit(x, y, rows=ROWS, validation_rows=OTHERS, **weighted, **options)
    copies = {name: value[ROWS] if name == "sample_weight" else value for name, value in weighted.items()}
    held_out = (X[OTHERS], Y[OTHERS], *([WEIGHTS[OTHERS]] if "sample_weight" in weighted else []))
    expected = copied.fit(X[ROWS], Y[ROWS], validation_data=held_out, **copies, **options)
    assert got.history == expected.history
    for one, other in zip(chosen.get_weights(), copied.get_weights(), strict=True):
        assert one.tobytes() == other.tobytes()
    assert chosen.evaluate(x, y, rows=OTHERS, verbose=0) == copied.evaluate(X[OTHERS], Y[OTHERS], verbose=0)


def test_outputs_of_frozen_layers_are_kept_for_the_chosen_rows():
    x = Input((4,))
    histories = []
    for given, options in (((X, Y), {"rows": ROWS, "validation_rows": OTHERS}), ((X[ROWS], Y[ROWS]), {})):
        frozen = Dense(5, "relu", kernel_initializer="ones")
        made = Model(x, Dense(3, "softmax", kernel_initializer="zeros")(frozen(x)))
        frozen.trainable = False
        made.compile("adam", "sparse_categorical_crossentropy")
        held_out = {} if options else {"validation_data": (X[OTHERS], Y[OTHERS])}
        settings = {"epochs": 2, "batch_size": 4, "seed": 5, "verbose": 0, "cache_frozen": True, "shuffle": False}
        histories.append(made.fit(*given, **options, **held_out, **settings).history)
    assert histories[0] == histories[1]


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([], "rows: got shape (0,), expected the indices of 1 or more rows"),
        ([[1]], "rows: got shape (1, 1)"),
        ([0, 30], "rows: got indices from 0 to 30, expected 0 to 29"),
        ([-1], "rows: got indices from -1 to -1"),
    ],
)
def test_indices_that_are_of_no_rows_are_refused(rows, text):
    for method in (model().fit, model().evaluate):
        with pytest.raises(DataError) as caught:
            method(X, Y, rows=rows, verbose=0)
        assert text in str(caught.value)


def test_batches_have_no_rows_to_choose():
    with pytest.raises(ConfigError, match="rows: got batches, expected arrays"):
        model().fit(iter([(X, Y)]), rows=[0], verbose=0)
    with pytest.raises(ConfigError, match="validation_rows: got it with other validation data"):
        model().fit(X, Y, validation_data=(X, Y), validation_rows=[0], verbose=0)
