"""Permutations in recorded graphs cancel one another out, and the graph computes what it did."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from layergraph import Input, Model, layers
from layergraph.execution.engines.source import Source
from layergraph.ops.table import OPERATIONS
from served import reference

RANDOM_MODELS = 25


def source(model: Model, shape: tuple[int, ...]) -> Source:
    rng = np.random.default_rng(0)
    first, second = ([rng.standard_normal((rows, *shape)).astype("float32")] for rows in (2, 3))
    return Source(model.plan().inference_program(packed=False, joined=True), first, second, 1)


def permutations(graph: Any) -> int:
    return len(graph.findAllNodes("aten::permute"))


def check(model: Model, shape: tuple[int, ...]) -> int:
    """Compares the graph with the model's calls one by one; how many permutations it has."""
    made = source(model, shape)
    for rows in (1, 2, 5):
        x = np.random.default_rng(rows).standard_normal((rows, *shape)).astype("float32")
        with torch.no_grad():
            got = made.graph(torch.from_numpy(x))
        for a, b in zip(got, reference(model, x), strict=True):
            np.testing.assert_allclose(a.numpy(), b, rtol=1e-5, atol=1e-5)
    return permutations(made.graph.graph)


def block(rng: random.Random, x: Any, rank: int) -> Any:
    """Some calls that keep the shape but for the channels."""
    convolve = getattr(layers, f"Conv{rank}D")
    match rng.randrange(8):
        case 0:
            return layers.Activation(rng.choice(["relu", "silu", "gelu", "tanh", "softmax"]))(x)
        case 1:
            return layers.BatchNormalization(beta_initializer="random_normal")(x)
        case 2:
            return layers.Add()([x, convolve(x.shape[-1], 3, padding="same", activation="relu")(x)])
        case 3:
            return layers.Concatenate()([x, convolve(3, 1, activation=rng.choice([None, "relu"]))(x)])
        case 4:
            pooled = getattr(layers, f"GlobalAveragePooling{rank}D")(keepdims=rng.random() < 0.5)(x)
            gate = layers.Dense(x.shape[-1], activation="sigmoid")(pooled)
            return layers.Multiply()([x, layers.Reshape((*[1] * rank, x.shape[-1]))(gate)])
        case 5:
            return getattr(layers, f"ZeroPadding{rank}D")(1)(getattr(layers, f"MaxPooling{rank}D")(3, strides=1)(x))
        case 6:
            return layers.Concatenate(axis=1)([x, x])
        case _:
            return convolve(4, 3, strides=rng.choice([1, 1, 2]), padding="same")(x)


@pytest.mark.parametrize("seed", range(RANDOM_MODELS))
def test_random_graphs_compute_what_they_did(seed: int) -> None:
    rng = random.Random(seed)
    rank = rng.choice([1, 2])
    shape = (*[9, 10][:rank], 3)
    x = entry = Input(shape)
    made = []
    for _ in range(6):
        x = block(rng, x, rank)
        made.append(x)
    extra = [rng.choice(made)] if rng.random() < 0.4 else []
    if rng.random() < 0.5:
        x = layers.Flatten()(x)
    check(Model(entry, [x, *extra] if extra and extra[0] is not x else x), shape)


def test_only_the_first_permutation_is_left_of_a_residual_network() -> None:
    x = entry = Input((12, 12, 3))
    for _ in range(2):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, strides=2, padding="same")(x)))
        y = layers.Conv2D(4, 3, activation="relu")(layers.ZeroPadding2D(1)(x))
        x = layers.Concatenate()([layers.Add()([x, y]), y])
    assert check(Model(entry, layers.GlobalAveragePooling2D()(x)), (12, 12, 3)) == 1


@pytest.mark.parametrize("axis", [1, 2, 3, 4, -1, -2, -4])
def test_a_new_axis_stays_where_it_is(axis: int) -> None:
    entry = Input((6, 7, 3))
    x = layers.Conv2D(4, 3, activation="relu")(entry)
    check(Model(entry, OPERATIONS["ExpandDims"](axis=axis)(x)), (6, 7, 3))


def test_sequences_keep_the_height_that_convolutions_over_one_axis_add() -> None:
    x = entry = Input((12, 3))
    for _ in range(3):
        x = layers.Activation("relu")(layers.Conv1D(4, 3, padding="causal")(x))
    assert check(Model(entry, layers.GlobalMaxPooling1D()(x)), (12, 3)) == 1
