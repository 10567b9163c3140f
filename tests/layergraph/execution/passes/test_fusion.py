"""Convolutions fused with the calls after them: the same numbers, fewer calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from layergraph import Input, Model, layers
from layergraph.execution.passes.fusion import FusedConvolution
from layergraph.functional.invocation import Invocation
from served import check_served, reference, served


def calls(model: Model) -> list[str]:
    return [type(step.call).__name__ for step in model.plan().program().steps]


def images(rows: int = 2, channels: int = 4) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, 9, 8, channels)).astype("float32")


def shaken(model: Model) -> Model:
    """Randomises statistics and scales."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        value = weight.numpy() + 0.3 * rng.standard_normal(weight.shape)
        weight.assign((np.abs(value) + 0.1 if "variance" in weight.name else value).astype("float32"))
    return model


FUSED, ALONE = FusedConvolution.__name__, Invocation.__name__

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


@pytest.mark.parametrize(
    ("convolution", "after"),
    [*((name, "normalised and activated") for name in CONVOLUTIONS), *(("same, strided", name) for name in FOLLOWERS)],
)
def test_one_call_gives_the_numbers_of_several(convolution: str, after: str) -> None:
    x = entry = Input((9, 8, 4))
    for layer in [CONVOLUTIONS[convolution](), *FOLLOWERS[after]()]:
        x = layer(x)
    model = shaken(Model(entry, x))
    assert calls(model) == [FUSED]
    check_served(model, images())


def test_what_others_read_stays() -> None:
    entry = Input((9, 8, 4))
    middle = layers.Conv2D(4, 3, padding="same")(entry)
    normalised = layers.BatchNormalization()(middle)
    model = shaken(Model(entry, [layers.Activation("relu")(normalised), normalised, layers.Add()([middle, entry])]))
    check_served(model, images())


class Halved(layers.BatchNormalization):
    """A plugin's normalisation, which computes something else."""

    def forward(self, run: Any, w: Any, x: Any, mask: Any = None) -> Any:
        return super().forward(run, w, x, mask) / 2


class Tripled(layers.Conv2D):
    """A plugin's convolution."""

    def forward(self, run: Any, w: Any, x: Any) -> Any:
        return super().forward(run, w, x) * 3


class Shifted(layers.Activation):
    """A plugin's activation."""

    def forward(self, run: Any, w: Any, x: Any) -> Any:
        return super().forward(run, w, x) + 1


def convolution(**options: Any) -> Any:
    return layers.Conv2D(4, 3, **options)


def zeros_in_two_places(x: Any) -> Any:
    padded = layers.ZeroPadding2D(1)(x)
    return [convolution()(padded), padded]


def read_before_the_activation(x: Any) -> Any:
    normalised = layers.BatchNormalization()(convolution()(x))
    return [layers.ReLU()(normalised), layers.Flatten()(normalised)]


#: Graphs with calls that can't be fused into a convolution -> the remaining calls, in order.
UNMERGED: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "activated, then normalised": (
        lambda x: layers.BatchNormalization()(convolution(activation="tanh")(x)),
        [FUSED, ALONE],
    ),
    "activated by a layer, then normalised": (
        lambda x: layers.BatchNormalization()(layers.ReLU()(convolution()(x))),
        [FUSED, ALONE],
    ),
    "normalised twice": (
        lambda x: layers.BatchNormalization()(layers.BatchNormalization()(convolution()(x))),
        [FUSED, ALONE],
    ),
    "activated twice": (
        lambda x: layers.Activation("exponential")(layers.Activation("tanh")(convolution()(x))),
        [FUSED, ALONE],
    ),
    "its own activation, then another": (
        lambda x: layers.Activation("exponential")(convolution(activation="tanh")(x)),
        [FUSED, ALONE],
    ),
    "a slope": (lambda x: layers.ReLU(negative_slope=0.5)(convolution()(x)), [FUSED, ALONE]),
    "a threshold": (lambda x: layers.ReLU(threshold=0.5)(convolution()(x)), [FUSED, ALONE]),
    "a largest value": (lambda x: layers.ReLU(max_value=0.25)(convolution()(x)), [FUSED, ALONE]),
    "a leaky rectifier": (lambda x: layers.LeakyReLU()(convolution()(x)), [FUSED, ALONE]),
    "a layer as its activation": (lambda x: convolution(activation=layers.LeakyReLU())(x), [ALONE]),
    "a layer in an activation": (lambda x: layers.Activation(layers.LeakyReLU())(convolution()(x)), [FUSED, ALONE]),
    "another type": (lambda x: layers.BatchNormalization()(convolution(dtype="float64")(x)), [ALONE, ALONE]),
    "a normalisation in another type": (
        lambda x: layers.BatchNormalization(dtype="float64")(convolution()(x)),
        [FUSED, ALONE],
    ),
    "a normalisation in training": (
        lambda x: layers.BatchNormalization()(convolution()(x), training=True),
        [FUSED, ALONE],
    ),
    "another layer between": (lambda x: layers.ReLU()(layers.Dropout(0.5)(convolution()(x))), [FUSED, ALONE, ALONE]),
    "zeros in another order of axes": (
        lambda x: convolution()(layers.ZeroPadding2D((1, 2), data_format="channels_first")(x)),
        [ALONE, FUSED],
    ),
    "zeros in two places": (zeros_in_two_places, [ALONE, FUSED]),
    "zeros around another type": (
        lambda x: convolution()(layers.ZeroPadding2D(1)(layers.Rescaling(2.0, dtype="float64")(x))),
        [ALONE, ALONE, FUSED],
    ),
    "zeros before another layer": (lambda x: layers.BatchNormalization()(layers.ZeroPadding2D(1)(x)), [ALONE, ALONE]),
    "read before the activation": (read_before_the_activation, [FUSED, ALONE, ALONE]),
    "a transposed convolution": (
        lambda x: layers.BatchNormalization()(layers.Conv2DTranspose(4, 3)(x)),
        [ALONE, ALONE],
    ),
    "a plugin's normalisation": (lambda x: Halved()(convolution()(x)), [FUSED, ALONE]),
    "a plugin's activation": (lambda x: Shifted("relu")(convolution()(x)), [FUSED, ALONE]),
    "a plugin's convolution": (lambda x: layers.BatchNormalization()(Tripled(4, 3)(x)), [ALONE, ALONE]),
}


@pytest.mark.parametrize("case", UNMERGED)
def test_what_does_not_belong_to_a_convolution_stays_apart(case: str) -> None:
    made, left = UNMERGED[case]
    entry = Input((9, 8, 4))
    model = shaken(Model(entry, made(entry)))
    assert calls(model) == left
    check_served(model, images())


@pytest.mark.parametrize("number", range(5))
def test_each_weight_that_changes_counts(number: int) -> None:
    """Weights of the convolution and of the normalisation."""
    entry = Input((9, 8, 4))
    model = shaken(Model(entry, layers.BatchNormalization()(layers.Conv2D(3, 3)(entry))))
    (before,) = served(model, images())
    weight = model.weights[number]
    weight.assign(weight.numpy() + 0.5)
    assert not np.allclose(before, served(model, images())[0], atol=1e-3)
    check_served(model, images())


def test_a_shared_convolution_is_fused_where_it_is_called() -> None:
    entry = Input((9, 8, 4))
    shared = layers.Conv2D(4, 3, padding="same")
    once = layers.BatchNormalization()(shared(entry))
    model = shaken(Model(entry, layers.Activation("relu")(shared(once))))
    check_served(model, images())


def test_training_changes_what_is_fused() -> None:
    entry = Input((9, 8, 4))
    x = layers.Activation("relu")(layers.BatchNormalization()(layers.Conv2D(3, 3)(entry)))
    model = Model(entry, layers.GlobalAveragePooling2D()(x))
    (before,) = served(model, images())
    model.compile(optimizer="sgd", loss="mse")
    model.fit(images(8), np.ones((8, 3), "float32"), epochs=2, verbose=0)
    (after,) = served(model, images())
    assert not np.allclose(before, after)
    check_served(model, images())


def test_nan_stays_nan() -> None:
    entry = Input((9, 8, 4))
    model = Model(entry, layers.Conv2D(3, 3, activation="relu", padding="same")(entry))
    x = images()
    x[0, 4, 4, 1] = np.nan
    (got,), (expected,) = served(model, x), reference(model, x)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    assert np.isnan(got).any()


def test_a_normalisation_that_would_lose_precision_is_applied_afterwards() -> None:
    """Near a mean of 50 with a factor of 30,000: for x * 30,000 - 1,500,000, rounding alone is off by 0.06."""
    entry = Input((9, 8, 1))
    model = Model(entry, layers.BatchNormalization(epsilon=0.0)(layers.Conv2D(1, 1, use_bias=False)(entry)))
    model.layers[-2].set_weights([np.ones((1, 1, 1, 1), "float32")])
    model.layers[-1].set_weights([np.full(1, value, "float32") for value in (1, 0, 50, 1 / 30_000**2)])
    assert calls(model) == [FUSED]
    x = 50 + images(channels=1) / 1000
    expected = (x.astype("float64") - 50) * 30_000
    np.testing.assert_allclose(served(model, x)[0], expected, rtol=1e-5, atol=1e-5)


def test_zero_rows_and_other_sizes_after_packing() -> None:
    entry = Input((None, None, 4))
    model = shaken(Model(entry, layers.Conv2D(3, 3, padding="same", strides=2)(entry)))
    for shape in ((2, 9, 8, 4), (0, 9, 8, 4), (5, 20, 31, 4), (1, 3, 3, 4)):
        x = np.random.default_rng(0).standard_normal(shape).astype("float32")
        check_served(model, x)


@pytest.fixture
def one_thread() -> Iterator[None]:
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("rows", [(2, 0), (0, 2)])
def test_zero_rows_before_and_after_packing_with_one_thread(rows: tuple[int, int]) -> None:
    """torch chooses its convolution by the number of threads."""
    entry = Input((9, 8, 4))
    model = shaken(Model(entry, layers.Conv2D(6, 3, groups=2)(entry)))
    for count in rows:
        check_served(model, images(count))
    (step,) = model.plan().program(joined=True).steps
    assert step.call._folded.packed


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
    assert calls(model) == [FUSED]
    data = np.random.default_rng(0).standard_normal((2, *entry.shape[1:])).astype("float32")
    check_served(model, data)


@pytest.mark.parametrize(("data_format", "axis"), [("channels_first", -1), ("channels_last", 1), ("channels_first", 2)])
def test_a_normalisation_of_another_axis_than_the_channels_stays(data_format: str, axis: int) -> None:
    entry = Input((4, 9, 8))
    x = layers.Conv2D(3, 1, data_format=data_format)(entry)
    model = shaken(Model(entry, layers.BatchNormalization(axis=axis)(x)))
    assert len(calls(model)) == 2
    data = np.random.default_rng(0).standard_normal((2, 4, 9, 8)).astype("float32")
    check_served(model, data)


def test_zeros_around_channels_first_images_are_the_convolutions_padding() -> None:
    entry = Input((4, 9, 8))
    x = layers.ZeroPadding2D(1, data_format="channels_first")(entry)
    model = shaken(Model(entry, layers.Conv2D(3, 3, strides=2, data_format="channels_first")(x)))
    assert calls(model) == [FUSED]
    data = np.random.default_rng(0).standard_normal((2, 4, 9, 8)).astype("float32")
    check_served(model, data)


def test_masked_convolutions_are_left_alone() -> None:
    entry = Input((5,), dtype="int32")
    x = layers.Conv1D(3, 3, padding="same")(layers.Embedding(9, 4, mask_zero=True)(entry))
    model = Model(entry, layers.GlobalAveragePooling1D()(x))
    assert FUSED not in calls(model)
    check_served(model, np.array([[1, 0, 3, 0, 0], [4, 5, 6, 7, 8]], "int32"))
