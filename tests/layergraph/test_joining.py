"""Calls of shared layers as one call: the same numbers, fewer calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from layergraph import Input, Model, layers


def encoder() -> Model:
    entry = Input((6, 3))
    return Model(entry, layers.LSTM(5)(layers.Dense(4, activation="relu")(layers.Masking()(entry))))


def twins() -> Model:
    """One encoder on two inputs; what follows differs."""
    left, right, shared = Input((6, 3)), Input((6, 3)), encoder()
    return Model([left, right], layers.subtract([shared(left), layers.ReLU()(shared(right))]))


def chain() -> Model:
    """Calls of one layer that wait for one another."""
    entry, shared = Input((4,)), layers.Dense(4, activation="tanh")
    return Model(entry, shared(shared(shared(entry))))


def crossed() -> Model:
    """Two shared layers, each called before the other."""
    left, right = Input((4,)), Input((4,))
    one, two = layers.Dense(4), layers.Dense(4, activation="relu")
    return Model([left, right], [two(one(left)), one(two(right)), one(left)])


def pair_of_tensors() -> Model:
    """A shared model that adds its two inputs; one call's output is an output of the whole."""
    a, b, c = Input((4,)), Input((4,)), Input((4,))
    x, y = Input((4,)), Input((4,))
    shared = Model([x, y], layers.Dense(3)(layers.add([x, y])))
    first = shared([a, b])
    return Model([a, b, c], [first, layers.concatenate([shared([b, c]), shared([c, a])])])


def other_lengths() -> Model:
    """A shared layer on sequences of different lengths, which can't be one batch."""
    short, long, shared = Input((3, 2)), Input((5, 2)), layers.GRU(4)
    return Model([short, long], layers.add([shared(short), shared(long)]))


#: Model -> how many calls of layers there are, apart and joined.
MODELS: dict[Any, tuple[int, int]] = {
    twins: (8, 5),
    chain: (3, 3),
    crossed: (5, 4),
    pair_of_tensors: (7, 3),
    other_lengths: (3, 3),
}


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("rows", [1, 3])
def test_joined_calls_give_the_same_numbers(make: Any, rows: int) -> None:
    plan = make().plan()
    rng = np.random.default_rng(rows)
    inputs = [rng.standard_normal((rows, *spec.shape[1:])).astype("float32") for spec in plan.input_specs]
    for array in inputs:
        array[0, -1] = 0  # a masked step
    tensors = [torch.from_numpy(array) for array in inputs]
    apart, joined = (plan.inference_program(packed=False, joined=joined) for joined in (False, True))
    with torch.no_grad():
        for expected, got in zip(apart(tensors), joined(tensors), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    counts = tuple(sum(step.made != () for step in program.steps) for program in (apart, joined))
    assert counts == MODELS[make]


def two_texts() -> Model:
    """A shared layer on two sequences of any length."""
    left, right = Input((None,), dtype="int32", name="left"), Input((None,), dtype="int32", name="right")
    embedding, shared = layers.Embedding(9, 3, mask_zero=True), layers.LSTM(4)
    return Model([left, right], layers.concatenate([shared(embedding(left)), shared(embedding(right))]))


def cropped() -> Model:
    """A shared layer on a sequence and on a part of it."""
    entry, shared = Input((None, 3), name="left"), layers.GRU(4)
    return Model(entry, layers.concatenate([shared(entry), shared(layers.Cropping1D(1)(entry))]))


@pytest.mark.parametrize("make", [two_texts, cropped])
def test_sequences_of_different_lengths_are_apart(make: Any) -> None:
    plan = make().plan()
    rng = np.random.default_rng(0)
    for left, right in [(7, 4), (4, 4), (3, 9)]:
        lengths = {"left": left, "right": right}
        inputs = {
            spec.name: rng.integers(0, 9, (2, lengths[spec.name], *spec.shape[2:])).astype(spec.dtype)
            for spec in plan.input_specs
        }
        tensors = [torch.from_numpy(inputs[spec.name]) for spec in plan.input_specs]
        with torch.no_grad():
            (expected,) = plan.inference_program(packed=False, joined=False)(tensors)
        np.testing.assert_allclose(next(iter(plan.run(inputs).values())), expected, rtol=1e-6, atol=1e-6)
