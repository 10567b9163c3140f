"""TensorFlow functions on images (height, width, channels) or rows of them that Keras 3 lacks (tf.image)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from layergraph.errors import DataError, GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.exporting import has_any
from layergraph.functional.weights import Weights
from layergraph.layers.interpolation import resize
from layergraph.layers.spatial import same_padding
from layergraph.ops.image_filters import SSIM
from layergraph.ops.images import hsv_to_rgb, rgb_to_hsv
from layergraph.ops.operation import Operation, function_node

#: Interpolation methods by number, as in files of old releases.
_METHODS = {0: "bilinear", 1: "nearest", 2: "bicubic", 3: "area"}


def _resized(x: torch.Tensor, size: tuple[int, int], method: str, antialias: bool) -> torch.Tensor:
    single = x.ndim == 3
    y = x.unsqueeze(0) if single else x
    y = resize(y.movedim(-1, 1), size, method, antialias=antialias).movedim(1, -1)
    return y.squeeze(0) if single else y


def _pair(size: Any) -> tuple[int, int]:
    height, width = size.tolist() if isinstance(size, torch.Tensor) else size
    return int(height), int(width)


def _fitting(images: torch.Tensor, size: tuple[int, int]) -> tuple[int, int]:
    """The largest size within `size` that keeps the aspect ratio."""
    height, width = images.shape[-3:-1]
    scale = min(size[0] / height, size[1] / width)
    return round(scale * height), round(scale * width)


def _resize(
    images: torch.Tensor,
    size: Any,
    method: Any = "bilinear",
    preserve_aspect_ratio: bool = False,
    antialias: bool = False,
) -> torch.Tensor:
    """tf.image.resize, whose result is float32 except for method "nearest"."""
    wanted, name = _pair(size), _METHODS.get(method, method)
    wanted = _fitting(images, wanted) if preserve_aspect_ratio else wanted
    x = images if name == "nearest" else images.to(torch.float32)
    return _resized(x, wanted, name, bool(antialias))


def _resize_old(
    images: torch.Tensor,
    size: Any,
    align_corners: bool = False,
    half_pixel_centers: bool = False,
    nearest: bool = False,
    method: Any = None,
) -> torch.Tensor:
    """tf.compat.v1.image.resize: no half-pixel centres by default, and optionally aligned corners."""
    wanted = _pair(size)
    nearest = nearest or _METHODS.get(method, method) == "nearest"
    single = images.ndim == 3
    x = images.unsqueeze(0) if single else images
    x = x if nearest else x.to(torch.float32)
    if half_pixel_centers:
        y = resize(x.movedim(-1, 1), wanted, "nearest" if nearest else "bilinear").movedim(1, -1)
        return y.squeeze(0) if single else y
    for axis, length in zip((1, 2), wanted, strict=True):
        old = x.shape[axis]
        aligned = align_corners and length > 1
        scale = (old - 1) / (length - 1) if aligned else old / length
        places = torch.arange(length, device=x.device, dtype=torch.float32) * scale
        if nearest:
            chosen = (places + 0.5).floor() if aligned else places.floor()
            x = x.index_select(axis, chosen.long().clamp(max=old - 1))
            continue
        low = places.floor().long().clamp(max=old - 1)
        shape = [1] * x.ndim
        shape[axis] = -1
        part = (places - low).reshape(shape)
        x = x.index_select(axis, low) * (1 - part) + x.index_select(axis, (low + 1).clamp(max=old - 1)) * part
    return x.squeeze(0) if single else x


def _resize_with_pad(
    image: torch.Tensor, target_height: int, target_width: int, method: Any = "bilinear", antialias: bool = False
) -> torch.Tensor:
    """tf.image.resize_with_pad: resized to fit, padded with zeros."""
    # In float32, as TensorFlow computes it, since rounding determines the position of the last pixel.
    sides, targets = (np.array(pair, np.float32) for pair in (image.shape[-3:-1], (target_height, target_width)))
    exact = sides / np.max(sides / targets)
    top, left = (max(0, int(n)) for n in np.floor((targets - exact) / 2))
    x = _resize(image, (int(exact[0]), int(exact[1])), method, False, antialias)
    return _padded(x, top, left, target_height, target_width)


def _padded(
    image: torch.Tensor, offset_height: int, offset_width: int, target_height: int, target_width: int
) -> torch.Tensor:
    """tf.image.pad_to_bounding_box."""
    below = target_height - offset_height - image.shape[-3]
    right = target_width - offset_width - image.shape[-2]
    if min(offset_height, offset_width, below, right) < 0:
        raise GraphError(f"an image of {tuple(image.shape[-3:-1])} doesn't fit in {(target_height, target_width)}")
    return functional.pad(image, [0, 0, offset_width, right, offset_height, below])


def _cropped(
    image: torch.Tensor, offset_height: int, offset_width: int, target_height: int, target_width: int
) -> torch.Tensor:
    """tf.image.crop_to_bounding_box."""
    return image.narrow(-3, offset_height, target_height).narrow(-2, offset_width, target_width)


def _cropped_or_padded(image: torch.Tensor, target_height: int, target_width: int) -> torch.Tensor:
    """tf.image.resize_with_crop_or_pad, centred."""
    height, width = image.shape[-3:-1]
    x = _cropped(
        image,
        max((height - target_height) // 2, 0),
        max((width - target_width) // 2, 0),
        min(height, target_height),
        min(width, target_width),
    )
    top, left = max((target_height - height) // 2, 0), max((target_width - width) // 2, 0)
    return _padded(x, top, left, target_height, target_width)


def _central(image: torch.Tensor, central_fraction: float) -> torch.Tensor:
    """tf.image.central_crop."""
    first = [int((n - n * central_fraction) / 2) for n in image.shape[-3:-1]]
    height, width = (n - 2 * start for n, start in zip(image.shape[-3:-1], first, strict=True))
    return _cropped(image, first[0], first[1], height, width)


def _turned(image: torch.Tensor, k: int = 1) -> torch.Tensor:
    return torch.rot90(image, int(k), (-3, -2))


# Colours.

_YIQ = [[0.299, 0.59590059, 0.2115], [0.587, -0.27455667, -0.52273617], [0.114, -0.32134392, 0.31119955]]
_RGB_OF_YIQ = [[1.0, 1.0, 1.0], [0.95598634, -0.27201283, -1.10674021], [0.6208248, -0.64720424, 1.70423049]]
_YUV = [[0.299, -0.14714119, 0.61497538], [0.587, -0.28886916, -0.51496512], [0.114, 0.43601035, -0.10001026]]
_RGB_OF_YUV = [[1.0, 1.0, 1.0], [0.0, -0.394642334, 2.03206185], [1.13988303, -0.58062185, 0.0]]


def _mixed(table: list[list[float]]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Multiplies each pixel's channels by a matrix."""
    return lambda images: images @ torch.tensor(table, dtype=images.dtype, device=images.device)


def _as_floats(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The function on images in [0, 1]; the result is converted back to the images' dtype."""

    def changed(images: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        x = _converted(images, "float32") if not images.is_floating_point() else images
        name = {torch.float16: "float16", torch.float64: "float64"}.get(images.dtype, "float32")
        if images.is_floating_point():
            return function(x, *args, **kwargs).to(torch_dtype(name))
        return _converted(function(x, *args, **kwargs), str(images.dtype).removeprefix("torch."), saturate=True)

    return changed


def _converted(image: torch.Tensor, dtype: str, saturate: bool = False) -> torch.Tensor:
    """tf.image.convert_image_dtype: integers use the range of their dtype, floats [0, 1]."""
    wanted = torch_dtype(dtype)
    if wanted is image.dtype:
        return image
    given_float, wanted_float = image.is_floating_point(), wanted.is_floating_point
    if given_float and wanted_float:
        return image.to(wanted)
    if wanted_float:
        return image.to(wanted) * (1.0 / torch.iinfo(image.dtype).max)
    limits = torch.iinfo(wanted)
    if given_float:
        scaled = image * (limits.max + 0.5)
        return (scaled.clamp(limits.min, limits.max) if saturate else scaled).to(wanted)
    given = torch.iinfo(image.dtype).max
    if given > limits.max:
        return torch.div(image, (given + 1) // (limits.max + 1), rounding_mode="floor").to(wanted)
    return image.to(wanted) * ((limits.max + 1) // (given + 1))


def _contrast(images: torch.Tensor, contrast_factor: float) -> torch.Tensor:
    mean = images.mean((-3, -2), keepdim=True)
    return (images - mean) * contrast_factor + mean


def _saturated(image: torch.Tensor, saturation_factor: float) -> torch.Tensor:
    hue, saturation, value = rgb_to_hsv(image, -1).unbind(-1)
    return hsv_to_rgb(torch.stack([hue, (saturation * saturation_factor).clamp(0, 1), value], -1), -1)


def _hued(image: torch.Tensor, delta: float) -> torch.Tensor:
    hue, saturation, value = rgb_to_hsv(image, -1).unbind(-1)
    return hsv_to_rgb(torch.stack([(hue + delta) % 1.0, saturation, value], -1), -1)


def _gamma(image: torch.Tensor, gamma: float = 1, gain: float = 1) -> torch.Tensor:
    return gain * image**gamma


def _standardized(image: torch.Tensor) -> torch.Tensor:
    """tf.image.per_image_standardization: the standard deviation is at least 1 / sqrt(number of elements)."""
    x = image if image.is_floating_point() else image.to(torch.float32)
    axes = (-3, -2, -1)
    count = x.shape[-1] * x.shape[-2] * x.shape[-3]
    deviation = torch.std(x, axes, correction=0, keepdim=True).clamp_min(count**-0.5)
    return (x - x.mean(axes, keepdim=True)) / deviation


# Measures and windows.


def _psnr(a: torch.Tensor, b: torch.Tensor, max_val: float) -> torch.Tensor:
    x, y = (v if v.is_floating_point() else v.to(torch.float32) for v in (a, b))
    largest = torch.as_tensor(float(max_val))
    return 20 * torch.log10(largest) - 10 * torch.log10((x - y).square().mean((-3, -2, -1)))


def _ssim(
    img1: torch.Tensor,
    img2: torch.Tensor,
    max_val: float,
    filter_size: int = 11,
    filter_sigma: float = 1.5,
    k1: float = 0.01,
    k2: float = 0.03,
) -> torch.Tensor:
    return SSIM(max_val, filter_size, filter_sigma, k1, k2, name="op").forward(CallContext(), Weights(), img1, img2)


def _total_variation(images: torch.Tensor) -> torch.Tensor:
    down, across = images.diff(dim=-3), images.diff(dim=-2)
    return down.abs().sum((-3, -2, -1)) + across.abs().sum((-3, -2, -1))


def _patches(images: torch.Tensor, sizes: Any, strides: Any, rates: Any, padding: str) -> torch.Tensor:
    """tf.image.extract_patches: each window as the channels of a pixel."""
    size, steps, rate = ([int(n) for n in value[1:3]] for value in (sizes, strides, rates))
    spans = [(n - 1) * r + 1 for n, r in zip(size, rate, strict=True)]
    x = images
    if padding == "SAME":
        pads = [same_padding(n, k, s) for n, k, s in zip(x.shape[1:3], spans, steps, strict=True)]
        x = functional.pad(x, [0, 0, *pads[1], *pads[0]])
    x = x.unfold(1, spans[0], steps[0]).unfold(2, spans[1], steps[1])
    return x[..., :: rate[0], :: rate[1]].movedim(3, -1).flatten(3)


def _crop_and_resize(
    image: torch.Tensor,
    boxes: Any,
    box_indices: Any,
    crop_size: Any,
    method: str = "bilinear",
    extrapolation_value: float = 0.0,
    box_ind: Any = None,
) -> torch.Tensor:
    """tf.image.crop_and_resize: boxes (y1, x1, y2, x2), relative to the images' sides, resized to one size."""
    height, width = _pair(crop_size)
    x = image.to(torch.float32)
    edges = torch.as_tensor(boxes, dtype=torch.float32, device=x.device)
    of = torch.as_tensor(box_indices, device=x.device).to(torch.int64)
    if has_any((of < 0) | (of >= x.shape[0])):
        raise DataError(f"box_indices has an index out of range for {x.shape[0]} images")
    rows = _box_steps(edges[:, 0], edges[:, 2], height, x.shape[1])
    columns = _box_steps(edges[:, 1], edges[:, 3], width, x.shape[2])
    inside = _within(rows, x.shape[1])[:, :, None] & _within(columns, x.shape[2])[:, None, :]
    if method == "nearest":
        # TensorFlow rounds halves away from 0, torch.round to even.
        down, across = ((at + 0.5).floor().long() for at in (rows, columns))
        y = _pixels(x, of, down, across)
    else:
        top, left = rows.floor(), columns.floor()
        part_down, part_across = (rows - top)[:, :, None, None], (columns - left)[:, None, :, None]
        corners = [_pixels(x, of, r.long(), c.long()) for r in (top, rows.ceil()) for c in (left, columns.ceil())]
        upper = corners[0] + (corners[1] - corners[0]) * part_across
        lower = corners[2] + (corners[3] - corners[2]) * part_across
        y = upper + (lower - upper) * part_down
    return torch.where(inside.unsqueeze(-1), y, extrapolation_value)


def _box_steps(first: torch.Tensor, last: torch.Tensor, count: int, length: int) -> torch.Tensor:
    """Positions of a crop's pixels: (boxes, count)."""
    if count == 1:
        return (0.5 * (first + last) * (length - 1)).unsqueeze(1)
    step = (last - first) * (length - 1) / (count - 1)
    return first.unsqueeze(1) * (length - 1) + torch.arange(count, device=first.device) * step.unsqueeze(1)


def _within(at: torch.Tensor, length: int) -> torch.Tensor:
    return (at >= 0) & (at <= length - 1)


def _pixels(x: torch.Tensor, of: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    rows, columns = rows.clamp(0, x.shape[1] - 1), columns.clamp(0, x.shape[2] - 1)
    return x[of[:, None, None], rows[:, :, None], columns[:, None, :]]


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "AdjustBrightness": _as_floats(lambda image, delta: image + delta),
    "AdjustContrast": _as_floats(_contrast),
    "AdjustGamma": _as_floats(_gamma),
    "AdjustHue": _as_floats(_hued),
    "AdjustSaturation": _as_floats(_saturated),
    "CentralCrop": _central,
    "ConvertImage": _converted,
    "CropAndResize": _crop_and_resize,
    "CropOrPad": _cropped_or_padded,
    "CropTo": _cropped,
    "ExtractPatches": _patches,
    "FlipLeftRight": lambda image: image.flip(-2),
    "FlipUpDown": lambda image: image.flip(-3),
    "GrayscaleToRGB": lambda images: images.expand(*images.shape[:-1], 3),
    "PadTo": _padded,
    "Psnr": _psnr,
    "RGBToYIQ": _mixed(_YIQ),
    "RGBToYUV": _mixed(_YUV),
    "Resize": _resize,
    "ResizeArea": partial(_resize, method="area"),
    "ResizeNearestOld": partial(_resize_old, nearest=True),
    "ResizeOld": _resize_old,
    "ResizeWithPad": _resize_with_pad,
    "Rot90": _turned,
    "Ssim": _ssim,
    "Standardize": _standardized,
    "TotalVariation": _total_variation,
    "TransposeImage": lambda image: image.transpose(-3, -2),
    "YIQToRGB": _mixed(_RGB_OF_YIQ),
    "YUVToRGB": _mixed(_RGB_OF_YUV),
}

OPERATIONS: dict[str, type[Operation]] = {
    f"tf>{name}": function_node(name, function, reads_values=name.startswith(("Resize", "CropAndResize")))
    for name, function in _FUNCTIONS.items()
}
