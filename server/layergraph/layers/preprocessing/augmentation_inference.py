"""Random augmentation layers supported in inference only, where images pass unchanged."""

from __future__ import annotations

from typing import Any

from layergraph.config.options import (
    anything,
    boolean,
    fraction,
    integer,
    nonnegative,
    number,
    one_of,
    option,
    optional,
    positive_int,
)
from layergraph.functional.layer import Layer
from layergraph.layers.preprocessing.augmentation import FILL_MODES, RandomImageLayer, Unseeded, bounds, value_range


def _kernel_size(value: Any) -> Any:
    return tuple(positive_int(item) for item in value) if isinstance(value, (list, tuple)) else positive_int(value)


class _Coloured(RandomImageLayer):
    """Changes pixel values, which are within `value_range`."""

    value_range: tuple[float, float] = option(value_range, default=(0, 255), kw_only=True)


class AugMix(_Coloured):
    """Mixes chains of random augmentations (Hendrycks et al., 2020; keras.layers.AugMix)."""

    num_chains: int = option(positive_int, default=3, kw_only=True)
    chain_depth: int = option(positive_int, default=3, kw_only=True)
    factor: Any = option(bounds, default=0.3, kw_only=True)
    alpha: float = option(nonnegative, default=1.0, kw_only=True)
    all_ops: bool = option(boolean, default=True, kw_only=True)
    interpolation: str = option(one_of("bilinear", "nearest"), default="bilinear", kw_only=True)


class CutMix(RandomImageLayer):
    """Replaces a box in each image by that of another image (Yun et al., 2019; keras.layers.CutMix)."""

    factor: Any = option(bounds, default=1.0)


class MixUp(RandomImageLayer):
    """Blends pairs of images (Zhang et al., 2017; keras.layers.MixUp)."""

    alpha: float = option(nonnegative, default=0.2)


class MaxNumBoundingBoxes(Unseeded):
    """Limits the number of bounding boxes; images are unaffected (keras.layers.MaxNumBoundingBoxes)."""

    max_number: int = option(positive_int)
    fill_value: int = option(integer, default=-1)


class RandAugment(_Coloured):
    """Applies a few randomly chosen augmentations (Cubuk et al., 2020; keras.layers.RandAugment)."""

    num_ops: int = option(positive_int, default=2, kw_only=True)
    factor: Any = option(bounds, default=0.5, kw_only=True)
    interpolation: str = option(one_of("bilinear", "nearest"), default="bilinear", kw_only=True)


class RandomColorDegeneration(_Coloured):
    """Reduces the colour saturation (keras.layers.RandomColorDegeneration)."""

    factor: Any = option(bounds)


class RandomColorJitter(_Coloured):
    """Changes brightness, contrast, saturation and hue (keras.layers.RandomColorJitter)."""

    brightness_factor: Any = option(optional(bounds), default=None, kw_only=True)
    contrast_factor: Any = option(optional(bounds), default=None, kw_only=True)
    saturation_factor: Any = option(optional(bounds), default=None, kw_only=True)
    hue_factor: Any = option(optional(bounds), default=None, kw_only=True)


class RandomElasticTransform(_Coloured):
    """Deforms images elastically (keras.layers.RandomElasticTransform)."""

    factor: Any = option(bounds, default=1.0)
    scale: Any = option(bounds, default=1.0)
    interpolation: str = option(one_of("bilinear", "nearest"), default="bilinear")
    fill_mode: str = option(one_of(*FILL_MODES), default="reflect")
    fill_value: float = option(number, default=0.0)


class RandomErasing(_Coloured):
    """Erases random boxes (Zhong et al., 2017; keras.layers.RandomErasing)."""

    factor: Any = option(bounds, default=1.0)
    scale: Any = option(bounds, default=(0.02, 0.33))
    fill_value: float | None = option(optional(number), default=None)


class RandomGaussianBlur(_Coloured):
    """Blurs images (keras.layers.RandomGaussianBlur)."""

    factor: Any = option(bounds, default=1.0)
    kernel_size: Any = option(_kernel_size, default=3)
    sigma: Any = option(bounds, default=1.0)


class RandomHeight(RandomImageLayer):
    """Changes the height (tf.keras.layers.RandomHeight; Keras 3 has no such layer)."""

    factor: Any = option(bounds)
    interpolation: str = option(anything, default="bilinear")


class RandomHue(_Coloured):
    """Shifts hues (keras.layers.RandomHue)."""

    factor: Any = option(bounds)


class RandomPerspective(RandomImageLayer):
    """Applies a perspective transformation (keras.layers.RandomPerspective)."""

    factor: Any = option(bounds, default=1.0)
    scale: float = option(fraction, default=1.0)
    interpolation: str = option(one_of("bilinear", "nearest"), default="bilinear")
    fill_value: float = option(number, default=0.0)


class RandomPosterization(_Coloured):
    """Reduces the number of bits per colour (keras.layers.RandomPosterization)."""

    factor: Any = option(bounds)


class RandomSaturation(_Coloured):
    """Changes the saturation (keras.layers.RandomSaturation)."""

    factor: Any = option(bounds)


class RandomSharpness(_Coloured):
    """Sharpens or blurs images (keras.layers.RandomSharpness)."""

    factor: Any = option(bounds)


class RandomShear(RandomImageLayer):
    """Shears images (keras.layers.RandomShear)."""

    x_factor: Any = option(bounds, default=0.0)
    y_factor: Any = option(bounds, default=0.0)
    interpolation: str = option(one_of("bilinear", "nearest"), default="bilinear")
    fill_mode: str = option(one_of(*FILL_MODES), default="reflect")
    fill_value: float = option(number, default=0.0)


class RandomWidth(RandomHeight):
    """Changes the width (tf.keras.layers.RandomWidth; Keras 3 has no such layer)."""


class Solarization(_Coloured):
    """Inverts pixels above a threshold (keras.layers.Solarization)."""

    addition_factor: Any = option(bounds, default=0.0)
    threshold_factor: Any = option(bounds, default=0.0)


class Equalization(Unseeded):
    """Equalizes histograms, in training only as in Keras (keras.layers.Equalization)."""

    value_range: tuple[float, float] = option(value_range, default=(0, 255))
    bins: int = option(positive_int, default=256)


LAYERS: dict[str, type[Layer]] = {
    cls.__name__: cls
    for cls in (
        *(AugMix, CutMix, MixUp, MaxNumBoundingBoxes, RandAugment, RandomColorDegeneration, RandomColorJitter),
        *(RandomElasticTransform, RandomErasing, RandomGaussianBlur, RandomHeight, RandomHue, RandomPerspective),
        *(RandomPosterization, RandomSaturation, RandomSharpness, RandomShear, RandomWidth, Solarization, Equalization),
    )
}
