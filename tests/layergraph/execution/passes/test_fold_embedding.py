"""Embeddings multiplied with a recurrent kernel in advance: the same numbers with less work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from layergraph import Input, Model, layers
from served import reference

RECURRENT = {
    "lstm": lambda: layers.LSTM(4),
    "lstm, all steps, backwards": lambda: layers.LSTM(4, return_sequences=True, go_backwards=True),
    "gru": lambda: layers.GRU(5),
    "gru, reset before": lambda: layers.GRU(5, reset_after=False, use_bias=False),
    "simple": lambda: layers.SimpleRNN(6, activation="relu"),
    "other activations": lambda: layers.LSTM(4, activation="softsign", recurrent_activation="hard_sigmoid"),
}


def widths(model: Model) -> list[int]:
    """Columns of each embedding table in the program that engines get."""
    program = model.plan().inference_program(packed=False, joined=True)
    return [w.embeddings.shape[1] for w in program.weights if hasattr(w, "embeddings")]


def check(model: Model, length: int = 7) -> None:
    ids = np.random.default_rng(0).integers(0, 9, (4, length)).astype("int32")
    ids[0, 3:] = 0
    program = model.plan().inference_program(packed=False, joined=True)
    with torch.no_grad():
        got = program([torch.from_numpy(ids)])
    for a, b in zip(got, reference(model, ids), strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("recurrent", RECURRENT)
def test_a_projected_table_gives_the_numbers_of_an_embedding(recurrent: str, masked: bool) -> None:
    entry = Input((7,), dtype="int32")
    layer = RECURRENT[recurrent]()
    model = Model(entry, layer(layers.Embedding(9, 32, mask_zero=masked)(entry)))
    assert widths(model) == [layer.gates * layer.units]
    check(model)


class Doubled(layers.Embedding):
    """A plugin's embedding, which returns other numbers."""

    def forward(self, run: Any, w: Any, x: Any) -> Any:
        return super().forward(run, w, x) * 2


def read_twice(ids: Any) -> Any:
    embedded = layers.Embedding(9, 32)(ids)
    return [layers.LSTM(4)(embedded), layers.GlobalAveragePooling1D()(embedded)]


def an_output(ids: Any) -> Any:
    embedded = layers.Embedding(9, 32)(ids)
    return [layers.LSTM(4)(embedded), embedded]


def with_a_state(ids: Any) -> Any:
    table = layers.Embedding(9, 32)
    return layers.GRU(4)(table(ids), initial_state=layers.Dense(4)(layers.Flatten()(layers.Embedding(9, 2)(ids))))


#: Graphs whose table isn't multiplied with a kernel -> the columns of each table.
STAYING: dict[str, tuple[Any, list[int]]] = {
    "read twice": (read_twice, [32]),
    "an output": (an_output, [32]),
    "a state": (with_a_state, [2, 32]),
    "a kernel that is no narrower": (lambda ids: layers.LSTM(8)(layers.Embedding(9, 32)(ids)), [32]),
    "a layer between": (lambda ids: layers.LSTM(4)(layers.Activation("tanh")(layers.Embedding(9, 32)(ids))), [32]),
    "a plugin's table": (lambda ids: layers.LSTM(4)(Doubled(9, 32)(ids)), [32]),
    "other layers": (lambda ids: layers.Bidirectional(layers.LSTM(4))(layers.Embedding(9, 32)(ids)), [32]),
    "another type": (lambda ids: layers.LSTM(4)(layers.Embedding(9, 32, dtype="float64")(ids)), [32]),
}


@pytest.mark.parametrize("case", STAYING)
def test_tables_stay_where_others_read_them_or_nothing_is_saved(case: str) -> None:
    make, columns = STAYING[case]
    entry = Input((7,), dtype="int32")
    model = Model(entry, make(entry))
    assert sorted(widths(model)) == columns
    check(model)


def test_a_table_that_is_read_by_one_of_two_layers_is_projected_for_it_alone() -> None:
    entry = Input((7,), dtype="int32")
    model = Model(
        entry, [layers.LSTM(4)(layers.Embedding(9, 32)(entry)), layers.GRU(20)(layers.Embedding(9, 31)(entry))]
    )
    assert sorted(widths(model)) == [16, 31]
    check(model)


def test_a_table_with_infinities_stays() -> None:
    entry = Input((7,), dtype="int32")
    embedding = layers.Embedding(9, 32)
    model = Model(entry, layers.LSTM(4)(embedding(entry)))
    embedding.set_weights([np.where(np.arange(9)[:, None] == 3, np.inf, np.ones((9, 32))).astype("float32")])
    assert widths(model) == [32]
