"""Embeddings multiplied with a recurrent kernel beforehand: the same numbers with less work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from layergraph import Input, Model, layers

RECURRENT = {
    "lstm": lambda: layers.LSTM(4),
    "lstm, all steps, backwards": lambda: layers.LSTM(4, return_sequences=True, go_backwards=True),
    "gru": lambda: layers.GRU(5),
    "gru, reset before": lambda: layers.GRU(5, reset_after=False, use_bias=False),
    "simple": lambda: layers.SimpleRNN(6, activation="relu"),
    "other activations": lambda: layers.LSTM(4, activation="softsign", recurrent_activation="hard_sigmoid"),
}


def widths(model: Model) -> list[int]:
    """Columns of each table of embeddings in the program that engines get."""
    program = model.plan().inference_program(packed=False, joined=True)
    return [w.embeddings.shape[1] for w in program.weights if hasattr(w, "embeddings")]


def check(model: Model, length: int = 7) -> None:
    ids = np.random.default_rng(0).integers(0, 9, (4, length)).astype("int32")
    ids[0, 3:] = 0
    program = model.plan().inference_program(packed=False, joined=True)
    with torch.no_grad():
        got = program([torch.from_numpy(ids)])
    for a, b in zip(got, model.plan().run_eagerly([ids]), strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("recurrent", RECURRENT)
def test_a_projected_table_gives_the_numbers_of_an_embedding(recurrent: str, masked: bool) -> None:
    entry = Input((7,), dtype="int32")
    layer = RECURRENT[recurrent]()
    model = Model(entry, layer(layers.Embedding(9, 32, mask_zero=masked)(entry)))
    assert widths(model) == [layer.gates * layer.units]
    check(model)


def test_tables_stay_where_others_read_them_or_nothing_is_saved() -> None:
    entry = Input((7,), dtype="int32")
    embedded: Any = layers.Embedding(9, 32)(entry)
    both = Model(entry, [layers.LSTM(4)(embedded), layers.GlobalAveragePooling1D()(embedded)])
    assert widths(both) == [32]
    check(both)
    narrow = Model(entry, layers.LSTM(8)(layers.Embedding(9, 32)(entry)))
    assert widths(narrow) == [32]


def test_a_table_with_infinities_stays() -> None:
    entry = Input((7,), dtype="int32")
    embedding = layers.Embedding(9, 32)
    model = Model(entry, layers.LSTM(4)(embedding(entry)))
    embedding.set_weights([np.where(np.arange(9)[:, None] == 3, np.inf, np.ones((9, 32))).astype("float32")])
    assert widths(model) == [32]
