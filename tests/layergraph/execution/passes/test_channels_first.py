"""Permutations in traced graphs cancel one another out, and the graph computes the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from layergraph import Input, Model, layers
from layergraph.execution import tracing
from layergraph.execution.engines.exported_graph import ExportedGraph
from layergraph.execution.passes.channels_first import cancel_permutations
from layergraph.ops.table import OPERATIONS
from served import reference
from torch.nn import functional

RANDOM_MODELS = 10


def source(model: Model, shape: tuple[int, ...]) -> ExportedGraph:
    rng = np.random.default_rng(0)
    first, second = ([rng.standard_normal((rows, *shape)).astype("float32")] for rows in (2, 3))
    return ExportedGraph(model.plan().inference_program(packed=False, joined=True), first, second, 1)


def permutations(graph: Any) -> int:
    return len(graph.findAllNodes("aten::permute"))


def check(model: Model, shape: tuple[int, ...]) -> int:
    """Compares the graph with eager calls; returns its number of permutations."""
    made = source(model, shape)
    for rows in (1, 2, 5):
        x = np.random.default_rng(rows).standard_normal((rows, *shape)).astype("float32")
        with torch.no_grad():
            got = made.graph(torch.from_numpy(x))
        for a, b in zip(got, reference(model, x), strict=True):
            np.testing.assert_allclose(a.numpy(), b, rtol=1e-5, atol=1e-5)
    return permutations(made.graph.graph)


def block(rng: random.Random, x: Any, rank: int) -> Any:
    """Some calls that keep the shape except for the channels."""
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


def turned(x: torch.Tensor) -> torch.Tensor:
    """Permutes to channels first."""
    return x.permute(0, 3, 1, 2)


def back(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1)


NUMBER = torch.tensor(2.5)
CHANNELS = torch.linspace(-1, 1, 4).reshape(4, 1, 1)
WHOLE = torch.linspace(-1, 1, 4 * 3 * 5).reshape(1, 4, 3, 5)
REST = torch.linspace(-1, 1, 2 * 4 * 3 * 5).reshape(2, 4, 3, 5)

#: Operations on images (rows, 3, 5, 4), and the number of permutations that remain.
CALLS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], int]] = {
    "there and back": (lambda x: back(turned(x)), 0),
    "there and back from the end": (lambda x: turned(x).permute(0, -2, -1, -3), 0),
    "twice the same way": (lambda x: turned(turned(x)), 1),
    "thrice the same way": (lambda x: turned(turned(turned(x))), 0),
    "a constant for each channel": (lambda x: back(turned(x) * CHANNELS), 0),
    "a constant for each place": (lambda x: back(WHOLE - turned(x)), 0),
    "a constant for each row too": (lambda x: back(turned(x) + REST), 0),
    "a number without axes": (lambda x: back(turned(x) * NUMBER), 0),
    "bounds": (lambda x: back(torch.clamp(turned(x), -1, 3)), 0),
    "a constant of more axes": (lambda x: (turned(x) + REST[None])[0].permute(0, 2, 3, 1), 2),
    "two alike": (lambda x: back(turned(x) + turned(x).relu()), 0),
    "alike, in two steps": (lambda x: back(turned(x) + x.permute(0, 3, 2, 1).permute(0, 1, 3, 2)), 0),
    "two orders": (lambda x: turned(x) + x.permute(0, 3, 2, 1)[:, :, :3, :1], 2),
    "two ways": (lambda x: turned(x) + x.reshape(2, 4, 3, 5), 1),
    "zeros around": (lambda x: back(functional.pad(turned(x), [1, 2, 3, 0])), 0),
    "zeros around channels": (lambda x: back(functional.pad(turned(x), [0, 0, 0, 0, 2, 1])), 0),
    "another number around": (lambda x: back(functional.pad(turned(x), [1, 2], value=3.5)), 0),
    "zeros as many as it has steps": (lambda x: back(functional.pad(turned(x), [0, x.shape[2]])), 2),
    "mirrored around": (lambda x: back(functional.pad(turned(x), [1, 2, 1, 1], mode="reflect")), 2),
    "the edge around": (lambda x: back(functional.pad(turned(x), [1, 2, 1, 1], mode="replicate")), 2),
    "padded before": (lambda x: turned(functional.pad(x, [0, 0, 1, 2, 3, 0])), 1),
    "padded before with channels": (lambda x: turned(functional.pad(x, [2, 1, 0, 0, 3, 0])), 1),
    "mirrored before": (lambda x: turned(functional.pad(x, [1, 2, 1, 1], mode="reflect")), 1),
    "padded for two": (lambda x: (lambda y: turned(y) * y.mean())(functional.pad(x, [0, 0, 1, 1])), 1),
    "the mean of each channel": (lambda x: turned(x).mean((2, 3)), 0),
    "the mean of each place": (lambda x: back(turned(x).mean(1, keepdim=True)), 0),
    "the mean of each height": (lambda x: turned(x).mean((-1,)), 1),
    "the largest": (lambda x: turned(x).amax((1, 3)), 0),
    "the mean of all": (lambda x: turned(x).mean(), 1),
    "the sum over rows": (lambda x: turned(x).sum(0, keepdim=True), 1),
    "one after the other": (lambda x: back(torch.cat([turned(x), turned(x).relu()], 1)), 0),
    "beside one another": (lambda x: back(torch.cat([turned(x), turned(x).relu()], -1)), 0),
    "with another": (lambda x: torch.cat([turned(x), x.reshape(2, 4, 3, 5)], 2), 1),
    "an axis of one gone": (lambda x: turned(x[:, :, :1])[:, :, :, :1].squeeze(3), 1),
    "an axis of one gone from the end": (lambda x: turned(x.mean(1, keepdim=True)).squeeze(-2), 1),
    "axes of one gone": (lambda x: turned(x.mean((1, 2), keepdim=True)).squeeze(), 1),
    "an axis more and away": (lambda x: back(turned(x).unsqueeze(2).squeeze(2)), 0),
    "another axis more and away": (lambda x: turned(x.mean(1, keepdim=True)).squeeze(2).unsqueeze(1), 1),
    "an axis more at the end": (lambda x: turned(x).unsqueeze(-1), 1),
    "lengths": (lambda x: turned(x).reshape(turned(x).shape[0], -1), 1),
}


@pytest.mark.filterwarnings("ignore:.torch.jit.trace. is deprecated")
@pytest.mark.parametrize("name", CALLS)
def test_permutations_go_behind_what_follows_them(name: str) -> None:
    """Numbers stay the same, and so do the graph's value types, which engines rely on."""
    call, left = CALLS[name]
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 5, 4)).astype("float32"))
    traced = torch.jit.trace(call, (x,), check_trace=False)
    # As in traced graphs, lists of numbers are constants.
    torch._C._jit_pass_constant_propagation(traced.graph)
    tracing._spell_out(traced.graph)
    cancel_permutations(traced.graph)
    assert permutations(traced.graph) == left
    for node in traced.graph.findAllNodes("aten::permute"):
        before, axes, after = node.inputsAt(0).type().sizes(), node.inputsAt(1).toIValue(), node.output().type().sizes()
        assert after == [before[axis] for axis in axes]
    with torch.no_grad():
        np.testing.assert_allclose(traced(x).numpy(), call(x).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace. is deprecated")
def test_an_axis_that_goes_and_comes_back_is_left_alone() -> None:
    """Behind a permutation, as one convolution over an axis leaves it and the next one takes it."""
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 1, 5, 4)).astype("float32"))
    for gone, back_at, left in ((2, 2, 0), (2, -2, 0), (2, 1, 1)):
        traced = torch.jit.trace(
            lambda x, a=gone, b=back_at: turned(x).squeeze(a).unsqueeze(b), (x,), check_trace=False
        )
        torch._C._jit_pass_constant_propagation(traced.graph)
        cancel_permutations(traced.graph)
        assert len(traced.graph.findAllNodes("aten::squeeze")) == left
        with torch.no_grad():
            np.testing.assert_array_equal(traced(x).numpy(), turned(x).squeeze(gone).unsqueeze(back_at).numpy())
