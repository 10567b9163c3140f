"""Convolutions with what follows them as one call: the same numbers, fewer calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from layergraph import Input, Model, layers
from layergraph.execution.fusion import FusedConvolution
from layergraph.functional.run import Run


def unfused(model: Model, x: np.ndarray) -> list[np.ndarray]:
    with torch.no_grad():
        outputs, _ = model.plan().forward(Run(losses=None), [torch.from_numpy(x)])
    return [output.numpy() for output in outputs]


def calls(model: Model) -> list[str]:
    return [type(step.call).__name__ for step in model.plan().program().steps]


def images(rows: int = 2, channels: int = 4) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, 9, 8, channels)).astype("float32")


def shaken(model: Model) -> Model:
    """Statistics and scales off their first values."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        value = weight.numpy() + 0.3 * rng.standard_normal(weight.shape)
        weight.assign((np.abs(value) + 0.1 if "variance" in weight.name else value).astype("float32"))
    return model


CONVOLUTIONS = {
    "plain": lambda: layers.Conv2D(6, 3),
    "same, strided": lambda: layers.Conv2D(6, 3, strides=2, padding="same", use_bias=False),
    "even kernel": lambda: layers.Conv2D(6, 4, padding="same"),
    "grouped": lambda: layers.Conv2D(6, 3, groups=2, padding="same"),
    "dilated": lambda: layers.Conv2D(6, 3, dilation_rate=2),
    "depthwise": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same"),
}
FOLLOWERS = {
    "nothing": lambda: [],
    "normalised": lambda: [layers.BatchNormalization()],
    "normalised without scale": lambda: [layers.BatchNormalization(scale=False, center=False)],
    "activated": lambda: [layers.Activation("relu")],
    "normalised and activated": lambda: [layers.BatchNormalization(), layers.ReLU(max_value=6)],
    "normalised and swish": lambda: [layers.BatchNormalization(), layers.Activation("swish")],
}


@pytest.mark.parametrize("after", FOLLOWERS)
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_one_call_gives_the_numbers_of_several(convolution: str, after: str) -> None:
    x = entry = Input((9, 8, 4))
    for layer in [CONVOLUTIONS[convolution](), *FOLLOWERS[after]()]:
        x = layer(x)
    model = shaken(Model(entry, x))
    assert calls(model) == ["FusedConvolution"]
    np.testing.assert_allclose(model.predict(images()), unfused(model, images())[0], rtol=1e-5, atol=1e-5)


def test_what_others_read_stays() -> None:
    entry = Input((9, 8, 4))
    middle = layers.Conv2D(4, 3, padding="same")(entry)
    normalised = layers.BatchNormalization()(middle)
    model = shaken(Model(entry, [layers.Activation("relu")(normalised), normalised, layers.Add()([middle, entry])]))
    x = images()
    for got, want in zip(model.predict(x), unfused(model, x), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_a_shared_convolution_is_fused_where_it_is_called() -> None:
    entry = Input((9, 8, 4))
    shared = layers.Conv2D(4, 3, padding="same")
    once = layers.BatchNormalization()(shared(entry))
    model = shaken(Model(entry, layers.Activation("relu")(shared(once))))
    np.testing.assert_allclose(model.predict(images()), unfused(model, images())[0], rtol=1e-5, atol=1e-5)


def test_training_changes_what_is_fused() -> None:
    entry = Input((9, 8, 4))
    x = layers.Activation("relu")(layers.BatchNormalization()(layers.Conv2D(3, 3)(entry)))
    model = Model(entry, layers.GlobalAveragePooling2D()(x))
    before = model.predict(images())
    model.compile(optimizer="sgd", loss="mse")
    model.fit(images(8), np.ones((8, 3), "float32"), epochs=2, verbose=0)
    after = model.predict(images())
    assert not np.allclose(before, after)
    np.testing.assert_allclose(after, unfused(model, images())[0], rtol=1e-5, atol=1e-5)


def test_nan_stays_nan() -> None:
    entry = Input((9, 8, 4))
    model = Model(entry, layers.Conv2D(3, 3, activation="relu", padding="same")(entry))
    x = images()
    x[0, 4, 4, 1] = np.nan
    np.testing.assert_array_equal(np.isnan(model.predict(x)), np.isnan(unfused(model, x)[0]))
    assert np.isnan(model.predict(x)).any()


def test_a_normalisation_that_would_lose_precision_is_applied_afterwards() -> None:
    entry = Input((9, 8, 4))
    model = Model(entry, layers.BatchNormalization(epsilon=0.0)(layers.Conv2D(3, 3)(entry)))
    normalization = model.layers[-1]
    gamma, beta, mean, _ = normalization.get_weights()
    normalization.set_weights([gamma, beta, mean + 50, np.full(3, 1e-10, "float32")])
    np.testing.assert_allclose(model.predict(images()), unfused(model, images())[0], rtol=1e-5)


def test_zero_rows_and_other_sizes_after_packing() -> None:
    entry = Input((None, None, 4))
    model = shaken(Model(entry, layers.Conv2D(3, 3, padding="same", strides=2)(entry)))
    for shape in ((2, 9, 8, 4), (0, 9, 8, 4), (5, 20, 31, 4), (1, 3, 3, 4)):
        x = np.random.default_rng(0).standard_normal(shape).astype("float32")
        np.testing.assert_allclose(model.predict(x), unfused(model, x)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("rank", "made"),
    [
        (1, lambda: layers.Conv1D(6, 3, padding="same", strides=2, data_format="channels_first")),
        (1, lambda: layers.DepthwiseConv1D(2, padding="same", data_format="channels_first")),
        (2, lambda: layers.Conv2D(6, (3, 2), padding="same", groups=2, data_format="channels_first")),
        (2, lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, data_format="channels_first")),
    ],
)
@pytest.mark.parametrize("activation", ["relu", "softmax"])
def test_channels_may_come_first(rank: int, made: Callable[[], Any], activation: str) -> None:
    entry = Input((4, 9, 8)[: rank + 1])
    x = layers.BatchNormalization(axis=1)(made()(entry))
    model = shaken(Model(entry, layers.Activation(activation)(x)))
    assert calls(model) == ["FusedConvolution"]
    data = np.random.default_rng(0).standard_normal((2, *entry.shape[1:])).astype("float32")
    np.testing.assert_allclose(model.predict(data), unfused(model, data)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("data_format", "axis"), [("channels_first", -1), ("channels_last", 1), ("channels_first", 2)])
def test_a_normalisation_of_another_axis_than_the_channels_stays(data_format: str, axis: int) -> None:
    entry = Input((4, 9, 8))
    x = layers.Conv2D(3, 1, data_format=data_format)(entry)
    model = shaken(Model(entry, layers.BatchNormalization(axis=axis)(x)))
    assert len(calls(model)) == 2
    data = np.random.default_rng(0).standard_normal((2, 4, 9, 8)).astype("float32")
    np.testing.assert_allclose(model.predict(data), unfused(model, data)[0], rtol=1e-5, atol=1e-5)


def test_zeros_around_channels_first_images_are_the_convolutions_padding() -> None:
    entry = Input((4, 9, 8))
    x = layers.ZeroPadding2D(1, data_format="channels_first")(entry)
    model = shaken(Model(entry, layers.Conv2D(3, 3, strides=2, data_format="channels_first")(x)))
    assert calls(model) == ["FusedConvolution"]
    data = np.random.default_rng(0).standard_normal((2, 4, 9, 8)).astype("float32")
    np.testing.assert_allclose(model.predict(data), unfused(model, data)[0], rtol=1e-5, atol=1e-5)


def test_masked_convolutions_are_left_alone() -> None:
    entry = Input((5,), dtype="int32")
    x = layers.Conv1D(3, 3, padding="same")(layers.Embedding(9, 4, mask_zero=True)(entry))
    model = Model(entry, layers.GlobalAveragePooling1D()(x))
    assert FusedConvolution.__name__ not in calls(model)
