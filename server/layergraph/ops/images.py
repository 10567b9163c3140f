"""Operations on images (keras.ops.image)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import anything, boolean, nonnegative_int, number, option, optional, positive_int, sizes
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.weights import Weights
from layergraph.layers.preprocessing.images import Resizing
from layergraph.layers.spatial import same_padding
from layergraph.ops.operation import Operation


class _ImageOperation(Operation):
    keras_module = "keras.src.ops.image"

    data_format: Any = option(optional(anything), default=None, kw_only=True)

    @property
    def last(self) -> bool:
        """Whether channels are the last axis."""
        return bool(self.data_format != "channels_first")


class Resize(_ImageOperation):
    """The resized images (keras.ops.image.resize)."""

    size: Any = option(sizes(2))
    interpolation: str = option(anything, default="bilinear")
    antialias: bool = option(boolean, default=False)
    crop_to_aspect_ratio: bool = option(boolean, default=False)
    pad_to_aspect_ratio: bool = option(boolean, default=False)
    fill_mode: str = option(anything, default="constant")
    fill_value: float = option(number, default=0.0)

    def forward(self, context: CallContext, w: Weights, images: torch.Tensor) -> Any:
        layer = Resizing(
            height=self.size[0],
            width=self.size[1],
            interpolation=self.interpolation,
            antialias=self.antialias,
            crop_to_aspect_ratio=self.crop_to_aspect_ratio,
            pad_to_aspect_ratio=self.pad_to_aspect_ratio,
            fill_mode=self.fill_mode,
            fill_value=self.fill_value,
            data_format=self.data_format,
            name="op",
        )
        return layer.forward(context, w, images)


class RGBToGrayscale(_ImageOperation):
    """The luminance of each pixel (keras.ops.image.rgb_to_grayscale)."""

    def forward(self, context: CallContext, w: Weights, images: torch.Tensor) -> Any:
        axis = -1 if self.last else -3
        x = images if images.is_floating_point() else images.to(torch.float32)
        weights = torch.tensor([0.2989, 0.5870, 0.1140], dtype=x.dtype, device=x.device)
        y = torch.tensordot(x, weights, dims=([axis], [0])).unsqueeze(axis)
        return y.to(images.dtype)


def rgb_to_hsv(images: torch.Tensor, axis: int) -> torch.Tensor:
    """Converts red, green and blue along `axis` to hue, saturation and value."""
    r, g, b = images.unbind(axis)
    # As in Keras, which decides how equal channels share a gradient.
    value, lowest = (of(of(r, g), b) for of in (torch.maximum, torch.minimum))
    spread = value - lowest
    # Divisors are never 0, which would leave no gradient.
    saturation = torch.where(value > 0, spread / torch.where(value > 0, value, 1), 0)
    norm = 1 / (6 * torch.where(spread > 0, spread, 1))
    hue = torch.where(
        (r == value), norm * (g - b), torch.where(g == value, norm * (b - r) + 2 / 6, norm * (r - g) + 4 / 6)
    )
    hue = torch.where(spread > 0, hue, 0)
    return torch.stack([hue + (hue < 0).to(hue.dtype), saturation, value], axis)


def hsv_to_rgb(images: torch.Tensor, axis: int) -> torch.Tensor:
    """Converts hue, saturation and value along `axis` to red, green and blue."""
    hue, saturation, value = images.unbind(axis)
    dh = (hue % 1.0) * 6
    parts = [(dh - 3).abs() - 1, 2 - (dh - 2).abs(), 2 - (dh - 4).abs()]
    return torch.stack([((1 - saturation) + saturation * part.clamp(0, 1)) * value for part in parts], axis)


class RGBToHSV(_ImageOperation):
    """keras.ops.image.rgb_to_hsv."""

    def forward(self, context: CallContext, w: Weights, images: torch.Tensor) -> torch.Tensor:
        """Hue, saturation and value of each pixel; what is smaller than epsilon counts as 0."""
        images = torch.where(images.abs() < torch.finfo(images.dtype).eps, 0, images)
        return rgb_to_hsv(images, -1 if self.last else -3)


class HSVToRGB(_ImageOperation):
    """Red, green and blue of each pixel (keras.ops.image.hsv_to_rgb)."""

    def forward(self, context: CallContext, w: Weights, images: torch.Tensor) -> torch.Tensor:
        return hsv_to_rgb(images, -1 if self.last else -3)


class _Edges(_ImageOperation):
    target_height: int | None = option(optional(positive_int), default=None)
    target_width: int | None = option(optional(positive_int), default=None)

    def axes(self, images: torch.Tensor) -> tuple[int, int]:
        """Indices of the height and width axes."""
        return (images.ndim - 3, images.ndim - 2) if self.last else (images.ndim - 2, images.ndim - 1)

    @staticmethod
    def sides(length: int, before: int | None, after: int | None, change: int | None) -> tuple[int, int]:
        """Amounts before and after, from two of three numbers; `change` is the total change of the length."""
        if change is None:
            return before or 0, after or 0
        if before is None:
            return change - (after or 0), after or 0
        return before, change - before


class PadImages(_Edges):
    """keras.ops.image.pad_images."""

    top_padding: int | None = option(optional(nonnegative_int), default=None)
    left_padding: int | None = option(optional(nonnegative_int), default=None)
    bottom_padding: int | None = option(optional(nonnegative_int), default=None)
    right_padding: int | None = option(optional(nonnegative_int), default=None)

    def forward(self, context: CallContext, w: Weights, images: torch.Tensor) -> torch.Tensor:
        """The images padded with zeros. Raises GraphError if they are larger than the target."""
        high, wide = self.axes(images)
        height, width = images.shape[high], images.shape[wide]
        more = [None if t is None else t - n for t, n in ((self.target_height, height), (self.target_width, width))]
        rows = self.sides(height, self.top_padding, self.bottom_padding, more[0])
        columns = self.sides(width, self.left_padding, self.right_padding, more[1])
        if min(*rows, *columns) < 0:
            raise GraphError(f"images of {height} x {width} can't be padded to a smaller size")
        flat = [*columns, *rows] if not self.last else [0, 0, *columns, *rows]
        return torch.nn.functional.pad(images, flat)


class CropImages(_Edges):
    """The cropped images (keras.ops.image.crop_images). Raises GraphError if nothing would be left."""

    top_cropping: int | None = option(optional(nonnegative_int), default=None)
    left_cropping: int | None = option(optional(nonnegative_int), default=None)
    bottom_cropping: int | None = option(optional(nonnegative_int), default=None)
    right_cropping: int | None = option(optional(nonnegative_int), default=None)

    def forward(self, context: CallContext, w: Weights, images: torch.Tensor) -> torch.Tensor:
        high, wide = self.axes(images)
        for axis, before, after, target in (
            (high, self.top_cropping, self.bottom_cropping, self.target_height),
            (wide, self.left_cropping, self.right_cropping, self.target_width),
        ):
            length = images.shape[axis]
            first, last = self.sides(length, before, after, None if target is None else length - target)
            if min(first, last) < 0 or first + last >= length:
                raise GraphError(f"can't crop {first} and {last} pixels from an axis of length {length}")
            images = images.narrow(axis, first, length - first - last)
        return images


class ExtractPatches(_ImageOperation):
    """Each window of images as the channels of a pixel (keras.ops.image.extract_patches).

    Channels are in C order of the window's rows, columns and channels.
    """

    size: Any = option(sizes(2))
    strides: Any = option(optional(sizes(2)), default=None)
    dilation_rate: int = option(positive_int, default=1)
    padding: str = option(anything, default="valid")

    def forward(self, context: CallContext, w: Weights, images: torch.Tensor) -> torch.Tensor:
        x = images if self.last else images.movedim(-3, -1)
        single = x.ndim == 3
        x = x.unsqueeze(0) if single else x
        strides = self.strides or self.size
        windows = [(n - 1) * self.dilation_rate + 1 for n in self.size]
        if self.padding == "same":
            pads = [same_padding(n, k, s) for n, k, s in zip(x.shape[1:3], windows, strides, strict=True)]
            x = torch.nn.functional.pad(x, [0, 0, *pads[1], *pads[0]])
        for axis, window, stride in zip((1, 2), windows, strides, strict=True):
            x = x.unfold(axis, window, stride)
        x = x[..., :: self.dilation_rate, :: self.dilation_rate].movedim(3, -1)
        y = x.flatten(3)
        y = y if self.last else y.movedim(-1, 1)
        return y.squeeze(0) if single else y


OPERATIONS: dict[str, type[Operation]] = {
    "CropImages": CropImages,
    "ExtractPatches": ExtractPatches,
    "HSVToRGB": HSVToRGB,
    "PadImages": PadImages,
    "RGBToGrayscale": RGBToGrayscale,
    "RGBToHSV": RGBToHSV,
    "Resize": Resize,
}
