"""Zeros around images as the padding of what reads them: the numbers of stock Keras, which pads for itself."""

from __future__ import annotations

import random
from pathlib import Path

import keras
import layergraph
import numpy as np
import pytest
from layergraph.execution.zero_padding import PaddedPooling

RANDOM_MODELS = 24


def _pair(rng: random.Random, most: int = 2) -> tuple[int, int]:
    return rng.randint(0, most), rng.randint(0, most)


def _zeros(rng: random.Random, rank: int, layout: str) -> keras.Layer:
    pads = [rng.choice([_pair(rng), (1, 1), (0, 1)]) for _ in range(rank)]
    if rank == 1:
        return keras.layers.ZeroPadding1D(pads[0], data_format=layout)
    return keras.layers.ZeroPadding2D(pads, data_format=layout)


def _reader(rng: random.Random, rank: int, layout: str) -> keras.Layer:
    """What reads the zeros: a convolution or a pooling, padding anyhow by itself."""
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
    """A chain of paddings and their readers, with rectifiers and normalisations between, some values read twice."""
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
    expected = stock.predict_on_batch(x)
    plan = model.plan()
    got = plan.run({plan.input_specs[0].name: x})
    for a, b in zip(got.values(), expected if isinstance(expected, list) else [expected], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def _calls(entry: layergraph.functional.tensor.Tensor, output: layergraph.functional.tensor.Tensor) -> list[str]:
    plan = layergraph.Model(entry, output).plan()
    return [type(step.call).__name__ for step in plan.program().steps]


def test_zeros_go_into_a_convolution() -> None:
    from layergraph import Input, layers

    entry = Input((9, 8, 4))
    padded = layers.ZeroPadding2D(((0, 1), (2, 1)))(entry)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(3, 3, strides=2)(padded)))
    assert _calls(entry, x) == ["FusedConvolution"]


@pytest.mark.parametrize(("rectified", "window", "folds"), [(True, 3, True), (False, 3, False), (True, 1, False)])
def test_zeros_go_into_a_max_pooling_only_where_they_change_nothing(rectified: bool, window: int, folds: bool) -> None:
    from layergraph import Input, layers

    entry = Input((9, 8, 4))
    x = layers.ReLU()(entry) if rectified else entry
    x = layers.MaxPooling2D(window, strides=2)(layers.ZeroPadding2D(1)(x))
    assert (PaddedPooling.__name__ in _calls(entry, x)) == folds


def test_nan_and_no_rows_pass_a_padded_pooling() -> None:
    from layergraph import Input, layers

    entry = Input((None, None, 2))
    x = layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(layers.ReLU()(entry)))
    model = layergraph.Model(entry, x)
    images = np.full((1, 4, 4, 2), np.nan, "float32")
    assert np.isnan(model.predict(images)).all()
    assert model.predict(images[:0]).shape == (0, 2, 2, 2)
