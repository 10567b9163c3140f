"""Which pixels graphs expect."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from layergraph import Input, Model, Sequential, layers
from layerserve_server.extensions.page.image_ranges import expected, image_ranges
from layerserve_server.extensions.page.try_parts import input_field
from layerserve_server.protocols.inference.inference_pb2 import ModelMetadataResponse

PIXELS, UNIT, SIGNED = (0.0, 255.0), (0.0, 1.0), (-1.0, 1.0)


@pytest.mark.parametrize(
    ("scale", "offset", "found"),
    [
        (1 / 255, 0.0, PIXELS),
        (0.00392, 0.0, PIXELS),
        (1 / 127.5, -1.0, PIXELS),
        (255.0, 0.0, UNIT),
        (2.0, -1.0, UNIT),
        (0.5, 0.5, SIGNED),
        (127.5, 127.5, SIGNED),
        # ImageNet's deviations and means, by channel.
        ([1 / 58.4, 1 / 57.1, 1 / 57.4], [-2.1, -2.0, -1.8], PIXELS),
        ([[[4.4, 4.5, 4.4]]], [-2.1, -2.0, -1.8], UNIT),
        ([1 / 255] * 3, 0.0, PIXELS),
        # Neither one number nor one for each channel; what can't be a scale.
        ([], 0.0, None),
        ([[]], [], None),
        ([[1.0], [2.0]], [1.0, 2.0, 3.0], None),
        (float("nan"), float("inf"), UNIT),
        (1e308, -1e308, UNIT),
    ],
)
def test_a_rescaling_says_what_it_takes(scale: object, offset: object, found: object) -> None:
    assert expected(scale, offset) == found


def rescaled(before: object) -> Model:
    image = Input((8, 8, 3), name="image")
    return Model(image, layers.Flatten()(layers.Rescaling(1 / 255)(before(image))))


def nested() -> Model:
    """A backbone that begins with the Rescaling."""
    inner = Input((8, 8, 3))
    backbone = Model(inner, layers.Conv2D(2, 3)(layers.Rescaling(1 / 255)(inner)))
    image = Input((8, 8, 3), name="image")
    return Model(image, layers.Flatten()(backbone(image)))


def two_takers() -> Model:
    image = Input((8, 8, 3), name="image")
    return Model(image, layers.Add()([layers.Rescaling(1 / 255)(image), image]))


def two_inputs() -> Model:
    image, other = Input((8, 8, 3), name="image"), Input((8, 8, 3), name="other")
    return Model([other, image], layers.Add()([layers.Rescaling(1 / 255)(image), other]))


MODELS = {
    "first": (lambda: rescaled(lambda x: x), {"image": PIXELS}),
    "behind layers that keep the range": (
        lambda: rescaled(lambda x: layers.Resizing(4, 4)(layers.RandomFlip()(x))), {"image": PIXELS}
    ),
    "behind a model of random changes": (
        lambda: rescaled(Sequential([Input((8, 8, 3)), layers.RandomFlip(), layers.RandomRotation(0.1)])),
        {"image": PIXELS},
    ),
    "in a nested model": (nested, {"image": PIXELS}),
    "behind a convolution": (lambda: rescaled(layers.Conv2D(3, 1)), {}),
    "behind a nested convolution": (lambda: rescaled(Sequential([Input((8, 8, 3)), layers.Conv2D(3, 1)])), {}),
    "beside another use of the image": (two_takers, {}),
    "of one input of two": (two_inputs, {"image": PIXELS}),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_the_first_layer_that_computes_with_an_image_decides(name: str) -> None:
    make, found = MODELS[name]
    assert image_ranges(make()) == found


def test_a_model_without_a_graph_says_nothing() -> None:
    assert image_ranges(SimpleNamespace()) == {}


def test_whole_numbers_are_pixels_whatever_the_graph_is() -> None:
    def field(datatype: str, pixels: tuple[float, float] | None = None) -> tuple[tuple[float, float], bool]:
        spec = ModelMetadataResponse.TensorMetadata(name="image", datatype=datatype, shape=[-1, 8, 8, 3])
        found = input_field(spec, pixels)
        return found.range, found.range_known

    assert field("FP32") == (UNIT, False)
    assert field("FP32", PIXELS) == (PIXELS, True)
    assert field("UINT8") == (PIXELS, True)
