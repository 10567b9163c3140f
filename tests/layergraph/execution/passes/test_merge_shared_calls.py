"""Calls of shared layers merged into one call: the same numbers, fewer calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from layergraph import Input, Model, layers
from layergraph.execution.passes.merge_shared_calls import Together
from layergraph.execution.program import Program
from served import check_served, reference, served


def encoder() -> Model:
    entry = Input((6, 3))
    return Model(entry, layers.LSTM(5)(layers.Dense(4, activation="relu")(layers.Masking()(entry))))


def twins() -> Model:
    """One encoder on two inputs, followed by different layers."""
    left, right, shared = Input((6, 3)), Input((6, 3)), encoder()
    return Model([left, right], layers.subtract([shared(left), layers.ReLU()(shared(right))]))


def chain() -> Model:
    """Calls of one layer, each on the output of the one before."""
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


def one_masked() -> Model:
    """A shared model on two sequences, one of them with a mask that isn't recorded in the model's own calls."""
    left, right, inner = Input((6,)), Input((6,)), Input((6, 3))
    shared = Model(inner, layers.GRU(4)(layers.Dense(3)(inner)))
    embedded = [layers.Embedding(9, 3, mask_zero=zero)(x) for x, zero in ((left, True), (right, False))]
    return Model([left, right], layers.subtract([shared(x) for x in embedded]))


def one_layer_masked() -> Model:
    """A shared layer on two sequences, one of them with a mask."""
    left, right, shared = Input((6,)), Input((6,)), layers.GRU(4)
    embedded = [layers.Embedding(9, 3, mask_zero=zero)(x) for x, zero in ((left, True), (right, False))]
    return Model([left, right], layers.subtract([shared(x) for x in embedded]))


def both_masked() -> Model:
    """A shared layer on two sequences with masks, which it passes on."""
    left, right, shared = Input((6,)), Input((6,)), layers.Dense(4, activation="tanh")
    embedded = [layers.Embedding(9, 3, mask_zero=True)(x) for x in (left, right)]
    return Model([left, right], [layers.LSTM(3)(shared(x)) for x in embedded])


def mask_that_ends() -> Model:
    """A shared layer on two sequences, one of which had a mask that an earlier layer doesn't pass on."""
    left, right, shared = Input((6,)), Input((6,)), layers.Dense(4, activation="tanh")
    embedded = [layers.Embedding(9, 3, mask_zero=zero)(x) for x, zero in ((left, True), (right, False))]
    return Model([left, right], layers.subtract([shared(layers.Permute((2, 1))(x)) for x in embedded]))


def other_states() -> Model:
    """A shared layer with an initial state in one call."""
    left, right, state, shared = Input((6, 3)), Input((6, 3)), Input((4,)), layers.GRU(4)
    return Model([left, right, state], [shared(left), shared(right, initial_state=state), shared(right)])


def other_types() -> Model:
    """A shared embedding that gets integers and floats."""
    left, right, shared = Input((6,)), Input((6,), dtype="int32"), layers.Embedding(9, 3)
    return Model([left, right], [shared(left), shared(right)])


def both_outputs_twice() -> Model:
    """Calls whose outputs are model outputs, and are also read together in another order than they were merged in."""
    left, right, shared = Input((4,)), Input((4,)), layers.Dense(4, activation="tanh")
    one, two = shared(left), shared(right)
    return Model([left, right], [two, one, layers.subtract([two, one]), shared(layers.subtract([one, two]))])


#: Model -> numbers of layer calls, separate and merged.
MODELS: dict[Any, tuple[int, int]] = {
    twins: (8, 5),
    chain: (3, 3),
    crossed: (5, 4),
    pair_of_tensors: (7, 3),
    other_lengths: (3, 3),
    one_masked: (7, 7),
    one_layer_masked: (5, 5),
    both_masked: (6, 5),
    mask_that_ends: (7, 6),
    other_states: (3, 2),
    other_types: (2, 2),
    both_outputs_twice: (5, 4),
}


def calls(program: Program) -> int:
    """Names of layer calls, without concatenations and splits."""
    return sum(step.made != () for step in program.steps)


def ids_or_numbers(rng: np.random.Generator, rows: int, spec: Any) -> np.ndarray:
    """Random ids for sequences of numbers, as embeddings need them."""
    shape = (rows, *spec.shape[1:])
    return (
        rng.integers(0, 9, shape).astype(spec.dtype) if shape[1:] == (6,) else rng.normal(size=shape).astype("float32")
    )


@pytest.mark.parametrize("make", MODELS)
def test_joined_calls_give_the_same_numbers(make: Any) -> None:
    model, rows = make(), 3
    plan = model.plan()
    rng = np.random.default_rng(rows)
    inputs = [ids_or_numbers(rng, rows, spec) for spec in plan.input_specs]
    for array in inputs:
        array[0, -1] = 0  # a masked step
    for got, expected in zip(served(model, inputs), reference(model, inputs), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    separate, joined = (plan.inference_program(packed=False, joined=joined) for joined in (False, True))
    assert (calls(separate), calls(joined)) == MODELS[make]


def test_what_goes_through_several_shared_layers_is_concatenated_once() -> None:
    left, right, one, two = Input((4,)), Input((4,)), layers.Dense(4, activation="relu"), layers.Dense(3)
    model = Model([left, right], layers.concatenate([two(one(left)), two(one(right))]))
    steps = model.plan().inference_program(packed=False, joined=True).steps
    assert sum(isinstance(step.call, Together) for step in steps) == 1


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
    model = make()
    rng = np.random.default_rng(0)
    for left, right in [(7, 4), (4, 4), (3, 9)]:
        lengths = {"left": left, "right": right}
        inputs = {
            spec.name: rng.integers(0, 9, (2, lengths[spec.name], *spec.shape[2:])).astype(spec.dtype)
            for spec in model.input_specs
        }
        check_served(model, inputs, tolerance=1e-6)
