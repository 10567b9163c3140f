"""Image resizing and rescaling (keras.layers.Rescaling, Resizing, CenterCrop, Normalization)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional

from layergraph.config.options import (
    Expected,
    boolean,
    integer,
    list_of,
    number,
    one_of,
    option,
    optional,
    positive_int,
)
from layergraph.errors import ConfigError, GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.initializers import Ones, Zeros, constant_value
from layergraph.layers.interpolation import INTERPOLATIONS, resize
from layergraph.layers.normalization.weights import axis_length
from layergraph.layers.spatial import data_format


def lower_one_of(*choices: str) -> Any:
    """Validator: one of a few words, case-insensitive."""
    accepted = one_of(*choices)
    return lambda value: accepted(value.lower() if isinstance(value, str) else value)


class ImageLayer(Layer):
    """A layer on images (rows, height, width, channels), or (rows, channels, ...) with data_format='channels_first'."""

    #: Whether images are cast to the layer's compute dtype.
    converts: ClassVar[bool] = True

    data_format: str = option(data_format, default=None, kw_only=True)
    bounding_box_format: Any = option(optional(lambda value: value), default=None, kw_only=True)

    @property
    def channels_first(self) -> bool:
        """Whether the channels are axis 1 rather than the last."""
        return self.data_format == "channels_first"

    def converted(self, x: torch.Tensor) -> torch.Tensor:
        """Casts the image to the layer's compute dtype, if `converts`."""
        return x.to(torch_dtype(self.compute_dtype)) if self.converts else x

    def planes(self, x: torch.Tensor) -> torch.Tensor:
        """Returns a view (rows, channels, height, width). Raises GraphError unless the rank is 3 or 4."""
        if x.ndim not in (3, 4):
            raise GraphError(
                f"layer '{self.name}' ({type(self).__name__}): got an input of rank {x.ndim}, expected images of rank 4"
            )
        x = x if x.ndim == 4 else x.unsqueeze(0)
        return x if self.channels_first else x.movedim(-1, 1)

    def from_planes(self, y: torch.Tensor, rank: int) -> torch.Tensor:
        """Inverse of `planes`."""
        y = y if self.channels_first else y.movedim(1, -1)
        return y if rank == 4 else y.squeeze(0)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if config["bounding_box_format"] is None:
            del config["bounding_box_format"]
        return config


def aspect_box(height: int, width: int, target: tuple[int, int]) -> tuple[int, int, int, int]:
    """Returns top, left, height and width of the largest centred box with the target's aspect ratio."""
    box_height = max(min(height, int(float(width * target[0]) / target[1])), 1)
    box_width = max(min(width, int(float(height * target[1]) / target[0])), 1)
    return int((height - box_height) / 2), int((width - box_width) / 2), box_height, box_width


def smart_resize(x: torch.Tensor, size: tuple[int, int], interpolation: str = "bilinear") -> torch.Tensor:
    """Crops planes to the target's aspect ratio, then resizes them (keras.utils.smart_resize)."""
    top, left, height, width = aspect_box(x.shape[2], x.shape[3], size)
    return resize(x[:, :, top : top + height, left : left + width], size, interpolation)


def middle_of_resized(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resizes planes so that they cover the target, then crops the middle (RandomCrop of tf.keras 2.6)."""
    (height, width), (rows, columns) = size, x.shape[2:]
    is_tall = rows / columns > height / width
    # TensorFlow truncates.
    resized = (width * rows // columns, width) if is_tall else (height, height * columns // rows)
    top, left = ((have - want) // 2 for have, want in zip(resized, size, strict=True))
    return resize(x, resized, "bilinear")[:, :, top : top + height, left : left + width]


class Rescaling(Layer):
    """inputs * scale + offset (keras.layers.Rescaling). Both may be lists with a number for each channel."""

    scale: Any = option(constant_value)
    offset: Any = option(constant_value, default=0.0)

    supports_masking = True

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> torch.Tensor:
        dtype = torch_dtype(self.compute_dtype)
        scale, offset = (torch.as_tensor(v, dtype=dtype, device=inputs.device) for v in (self.scale, self.offset))
        return inputs.to(dtype) * scale + offset


class Resizing(ImageLayer):
    """Resizes images (keras.layers.Resizing).

    interpolation         bilinear, nearest, bicubic, area, lanczos3, lanczos5, gaussian, mitchellcubic
    crop_to_aspect_ratio  crops the longer side to the target's aspect ratio first
    pad_to_aspect_ratio   pads the shorter side with `fill_value` to the target's aspect ratio first
    antialias             widens the kernel when downsampling
    image_rule            whether integer images stay integers (keras3) or become floating point (keras2)
    """

    height: int = option(positive_int)
    width: int = option(positive_int)
    interpolation: str = option(lower_one_of(*INTERPOLATIONS), default="bilinear")
    crop_to_aspect_ratio: bool = option(boolean, default=False)
    pad_to_aspect_ratio: bool = option(boolean, default=False)
    fill_mode: str = option(one_of("constant"), default="constant")
    fill_value: float = option(number, default=0.0)
    antialias: bool = option(boolean, default=False)
    image_rule: str = option(one_of("keras3", "keras2"), default="keras3", kw_only=True, saved=False)

    def setup(self) -> None:
        """Raises ConfigError if images are to be both cropped and padded."""
        if self.crop_to_aspect_ratio and self.pad_to_aspect_ratio:
            raise ConfigError(
                "Resizing: options 'crop_to_aspect_ratio' and 'pad_to_aspect_ratio' are both set, expected one"
            )

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> torch.Tensor:
        size = (self.height, self.width)
        floating = inputs if inputs.is_floating_point() else inputs.to(torch.float32)
        # Half precision is too coarse for positions in an image.
        x = self.planes(floating.to(torch.promote_types(floating.dtype, torch.float32)))
        if self.crop_to_aspect_ratio:
            top, left, height, width = aspect_box(x.shape[2], x.shape[3], size)
            x = x[:, :, top : top + height, left : left + width]
        elif self.pad_to_aspect_ratio:
            x = self._padded(x, size)
        y = self.from_planes(resize(x, size, self.interpolation, antialias=self.antialias), inputs.ndim)
        if self.image_rule == "keras2":
            return y.to(torch_dtype(self.compute_dtype))
        if not inputs.is_floating_point():
            limits = torch.iinfo(inputs.dtype)
            y = y.round().clamp(limits.min, limits.max)
        return y.to(inputs.dtype)

    def _padded(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        height, width = x.shape[2:]
        high = max(height, int(float(width * size[0]) / size[1]))
        wide = max(width, int(float(height * size[1]) / size[0]))
        top, left = int((high - height) / 2), int((wide - width) / 2)
        # Equal padding on both sides: if the difference is odd, Keras pads one step less.
        return functional.pad(x, (left, left, top, top), value=self.fill_value)


class CenterCrop(ImageLayer):
    """Crops images at the centre; resizes smaller ones, cropped to the aspect ratio (keras.layers.CenterCrop)."""

    height: int = option(positive_int)
    width: int = option(positive_int)

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> torch.Tensor:
        x = self.planes(self.converted(inputs))
        more = x.shape[2] - self.height, x.shape[3] - self.width
        if min(more) >= 0:
            x = x.narrow(2, more[0] // 2, self.height).narrow(3, more[1] // 2, self.width)
        else:
            x = smart_resize(x, (self.height, self.width))
        return self.from_planes(x, inputs.ndim)


def _axis(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return list_of(integer)(value if isinstance(value, (list, tuple)) else (value,))


def _statistics(value: Any) -> Any:
    """Validator: a number or nested list of numbers; None if the file has them as weights."""
    if value is None:
        return None
    made = constant_value(value)
    if np.ndim(made) > 8:
        raise Expected("numbers")
    return made


class Normalization(Layer):
    """(inputs - mean) / deviation, or its inverse (keras.layers.Normalization).

    axis             axes with a separate mean and variance for each index; None means none
    mean, variance   numbers for these axes; None means that they are weights
    invert           computes inputs * deviation + mean
    """

    axis: Any = option(_axis, default=(-1,))
    mean: Any = option(_statistics, default=None)
    variance: Any = option(_statistics, default=None)
    invert: bool = option(boolean, default=False)

    supports_masking = True

    def setup(self) -> None:
        """Raises ConfigError unless mean and variance are both given, with equal shapes, or both None."""
        if (self.mean is None) != (self.variance is None):
            given, missing = ("variance", "mean") if self.mean is None else ("mean", "variance")
            raise ConfigError(f"Normalization: got option '{given}' without '{missing}', expected both or none")
        if np.shape(self.mean) != np.shape(self.variance):
            raise ConfigError(
                f"Normalization: options 'mean' and 'variance' have shapes {np.shape(self.mean)} and "
                f"{np.shape(self.variance)}, expected equal shapes"
            )
        if np.ndim(self.mean) > len(self.axis):
            raise ConfigError(f"Normalization: option 'mean' has {np.ndim(self.mean)} axes, expected {len(self.axis)}")

    def _kept(self, rank: int) -> list[int]:
        return sorted(axis % rank for axis in self.axis)

    def build(self, input_shape: Any) -> None:
        """Creates mean, variance and count if the config has no numbers."""
        for axis in self.axis:
            axis_length(self, input_shape, axis)
        if self.mean is None:
            shape = [input_shape[axis] for axis in self._kept(len(input_shape))]
            self.add_weight("mean", shape, Zeros(), trainable=False)
            self.add_weight("variance", shape, Ones(), trainable=False)
            # Number of rows seen in `adapt`; not used in the computation.
            self.add_weight("count", (), Zeros(), trainable=False, dtype="int32")

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> torch.Tensor:
        dtype = torch_dtype(self.compute_dtype)
        x = inputs.to(dtype)
        kept = self._kept(x.ndim)
        known = (w.mean, w.variance) if self.mean is None else (self.mean, self.variance)
        mean, variance = (self._broadcastable(torch.as_tensor(v, device=x.device).to(dtype), x, kept) for v in known)
        deviation = variance.sqrt().clamp(min=1e-7)
        return mean + x * deviation if self.invert else (x - mean) / deviation

    def _broadcastable(self, values: torch.Tensor, x: torch.Tensor, kept: list[int]) -> torch.Tensor:
        """Reshapes values over the last of the kept axes so that they broadcast to x."""
        shape = [1] * x.ndim
        for length, axis in zip(reversed(values.shape), reversed(kept), strict=False):
            shape[axis] = length
        return values.reshape(shape)


LAYERS: dict[str, type[Layer]] = {
    "CenterCrop": CenterCrop,
    "Normalization": Normalization,
    "Rescaling": Rescaling,
    "Resizing": Resizing,
}
