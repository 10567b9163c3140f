"""Zeros around images as the padding of the layer that reads them: stock Keras's numbers, which pads separately."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import layergraph
import numpy as np
import pytest
from layergraph import Input, layers
from layergraph.execution.passes.fold_padding import PaddedPooling
from served import check_served, reference, served

RANDOM_MODELS = 10


def _pair(rng: random.Random, most: int = 2) -> tuple[int, int]:
    return rng.randint(0, most), rng.randint(0, most)


def _zeros(rng: random.Random, rank: int, layout: str) -> keras.Layer:
    pads = [rng.choice([_pair(rng), (1, 1), (0, 1)]) for _ in range(rank)]
    if rank == 1:
        return keras.layers.ZeroPadding1D(pads[0], data_format=layout)
    return keras.layers.ZeroPadding2D(pads, data_format=layout)


def _reader(rng: random.Random, rank: int, layout: str) -> keras.Layer:
    """A layer that reads the zeros: a convolution or a pooling, with any padding of its own."""
    window, stride = rng.randint(1, 4), rng.randint(1, 3)
    padding = rng.choice(["valid", "valid", "same"])
    activation = rng.choice([None, "relu", "sigmoid"])
    kind = rng.choice(["Conv", "Conv", "DepthwiseConv", "MaxPooling", "MaxPooling", "AveragePooling"])
    layer = getattr(keras.layers, f"{kind}{rank}D")
    if kind == "AveragePooling":
        padding = "valid"  # Keras on torch counts padding, TensorFlow doesn't.
    if "Pooling" in kind:
        return layer(window, strides=stride, padding=padding, data_format=layout)
    options = {"strides": stride, "padding": padding, "activation": activation, "data_format": layout}
    return layer(4, window, **options) if kind == "Conv" else layer(window, **options)


def _random_model(seed: int) -> keras.Model:
    """A chain of paddings and their readers, activations and normalisations; some values are read twice."""
    rng = random.Random(seed)
    rank, layout = rng.choice([1, 2, 2]), rng.choice(["channels_last", "channels_last", "channels_first"])
    spatial = [rng.randint(40, 46) for _ in range(rank)]
    shape = [4, *spatial] if layout == "channels_first" else [*spatial, 4]
    x = entry = keras.Input(shape)
    outputs = []
    for _ in range(3):
        if rng.random() < 0.5:
            axis = 1 if layout == "channels_first" else -1
            x = keras.layers.BatchNormalization(axis=axis, moving_mean_initializer="random_normal")(x)
        if rng.random() < 0.6:
            x = rng.choice([keras.layers.ReLU(), keras.layers.ReLU(6.0), keras.layers.Activation("relu")])(x)
        x = _zeros(rng, rank, layout)(x)
        if rng.random() < 0.15:
            outputs.append(x)
        x = _reader(rng, rank, layout)(x)
    return keras.Model(entry, [*outputs, x])


@pytest.mark.parametrize("seed", range(RANDOM_MODELS))
def test_random_models_give_the_numbers_of_keras(seed: int, tmp_path: Path) -> None:
    stock = _random_model(seed)
    stock.save(tmp_path / "model.keras")
    model = layergraph.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(seed).standard_normal((2, *stock.input_shape[1:])).astype("float32")
    for got, expected in zip(served(model, x), reference(stock, x), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def _calls(model: layergraph.Model) -> list[str]:
    return [type(step.call).__name__ for step in model.plan().program().steps]


def test_zeros_go_into_a_convolution() -> None:
    entry = Input((9, 8, 4))
    padded = layers.ZeroPadding2D(((0, 1), (2, 1)))(entry)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(3, 3, strides=2)(padded)))
    assert _calls(layergraph.Model(entry, x)) == ["FusedConvolution"]


def zeros_in_two_places(x: Any) -> Any:
    padded = layers.ZeroPadding2D(1)(layers.ReLU()(x))
    return [layers.MaxPooling2D(3)(padded), layers.Flatten()(padded)]


def pooled(window: Any = 3, **options: Any) -> Callable[[Any], Any]:
    """Zeros around the output of a ReLU, and max pooling."""
    return lambda x: layers.MaxPooling2D(window, **options)(layers.ZeroPadding2D(1)(layers.ReLU()(x)))


def after(before: Any) -> Callable[[Any], Any]:
    return lambda x: layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(before(x)))


#: Graphs -> whether the zeros become the pooling's own padding.
POOLED: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "rectified": (pooled(), True),
    "windows that overlap": (pooled(strides=1), True),
    "a row left over": (pooled(4, strides=3), True),
    "half a window of zeros": (pooled(2), True),
    "clipped": (after(layers.ReLU(6.0)), True),
    "a rectifier by name": (after(layers.Activation("relu")), True),
    "a logistic function": (after(layers.Activation("sigmoid")), True),
    "a convolution's rectifier": (after(layers.Conv2D(3, 1, activation="relu")), True),
    "a threshold": (after(layers.ReLU(threshold=0.5)), True),
    "anything": (after(layers.Activation("linear")), False),
    "a convolution": (after(layers.Conv2D(3, 1)), False),
    "values below zero": (after(layers.Activation("tanh")), False),
    "a slope": (after(layers.ReLU(negative_slope=0.5)), False),
    "a slope behind a threshold": (after(layers.ReLU(negative_slope=0.5, threshold=0.5)), False),
    "a pooling that pads by itself": (pooled(padding="same"), False),
    "a window of zeros alone": (pooled(1), False),
    "one window of zeros alone": (pooled((3, 1)), False),
    "averages": (lambda x: layers.AveragePooling2D(3)(layers.ZeroPadding2D(1)(layers.ReLU()(x))), False),
    "more zeros behind": (
        lambda x: layers.MaxPooling2D(3)(layers.ZeroPadding2D(((0, 1), (1, 1)))(layers.ReLU()(x))),
        False,
    ),
    "zeros in another order of axes": (
        lambda x: layers.MaxPooling2D(3)(layers.ZeroPadding2D(1, data_format="channels_first")(layers.ReLU()(x))),
        False,
    ),
    "zeros in two places": (zeros_in_two_places, False),
}


@pytest.mark.parametrize("case", POOLED)
def test_zeros_go_into_a_max_pooling_only_where_they_change_nothing(case: str) -> None:
    made, folds = POOLED[case]
    entry = Input((9, 8, 4))
    model = layergraph.Model(entry, made(entry))
    assert (PaddedPooling.__name__ in _calls(model)) == folds
    # All values in the first image are negative, so zeros would be the maximum.
    x = np.random.default_rng(0).standard_normal((2, 9, 8, 4)).astype("float32")
    x[0] = -np.abs(x[0])
    check_served(model, x)


def test_nan_and_no_rows_pass_a_padded_pooling() -> None:
    entry = Input((None, None, 2))
    x = layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(layers.ReLU()(entry)))
    model = layergraph.Model(entry, x)
    images = np.full((1, 4, 4, 2), np.nan, "float32")
    assert np.isnan(served(model, images)).all()
    (none,) = served(model, images[:0])
    assert none.shape == (0, 2, 2, 2)
