"""Resizing as `keras.utils.load_img` and `keras.utils.image_dataset_from_directory` do it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Size = tuple[int, int]


def load_img_resized(image: Image.Image, size: Size, interpolation: str, *, crop: bool) -> Image.Image:
    """Returns an image of this height and width, as `load_img` does; with `crop` as with its `keep_aspect_ratio`."""
    height, width = size
    if image.size == (width, height):
        return image
    box = None
    if crop:
        crop_height = min(image.height, image.width * height // width)
        crop_width = min(image.width, image.height * width // height)
        top, left = (image.height - crop_height) // 2, (image.width - crop_width) // 2
        box = (left, top, left + crop_width, top + crop_height)
    return image.resize((width, height), Image.Resampling[interpolation.upper()], box=box)


def dataset_resized(pixels: npt.NDArray[Any], size: Size, interpolation: str, *, crop: bool) -> npt.NDArray[Any]:
    """Returns pixels (height, width, channels) in this height and width, as `tf.image.resize` does by default.

    With `crop` as with `crop_to_aspect_ratio` of `image_dataset_from_directory`.
    """
    if crop:
        pixels = _cropped(pixels, size)
    if interpolation == "nearest":
        rows, columns = (_nearest(*lengths) for lengths in zip(pixels.shape, size, strict=False))
        nearest: npt.NDArray[Any] = pixels[np.ix_(rows, columns)]
        return nearest
    (top, bottom, down), (left, right, along) = (
        _neighbours(*lengths) for lengths in zip(pixels.shape, size, strict=False)
    )
    across = along[:, np.newaxis]
    # In the order of TensorFlow's kernel, for equal rounding: along the width first.
    upper = _between(pixels[np.ix_(top, left)], pixels[np.ix_(top, right)], across)
    lower = _between(pixels[np.ix_(bottom, left)], pixels[np.ix_(bottom, right)], across)
    return _between(upper, lower, down[:, np.newaxis, np.newaxis])


def _cropped(pixels: npt.NDArray[Any], size: Size) -> npt.NDArray[Any]:
    """Returns the middle of an image with the ratio of `size`, as `keras.utils.smart_resize` does."""
    (height, width), (to_height, to_width) = pixels.shape[:2], size
    crop_height = max(min(height, int(float(width * to_height) / to_width)), 1)
    crop_width = max(min(width, int(float(height * to_width) / to_height)), 1)
    top, left = int(float(height - crop_height) / 2), int(float(width - crop_width) / 2)
    return pixels[top : top + crop_height, left : left + crop_width]


def _nearest(length: int, to_length: int) -> npt.NDArray[np.intp]:
    """Returns the positions of the nearest pixels on an axis, by the centres of pixels."""
    scale = np.float32(length) / np.float32(to_length)
    at = np.floor((np.arange(to_length, dtype=np.float32) + np.float32(0.5)) * scale)
    nearest: npt.NDArray[np.intp] = np.minimum(at.astype(np.intp), length - 1)
    return nearest


def _neighbours(length: int, to_length: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[Any]]:
    """Returns the positions of the two nearest pixels on an axis, and the weight of the second, in float32."""
    scale = np.float32(length) / np.float32(to_length)
    at = (np.arange(to_length, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    below = np.floor(at)
    first = np.maximum(below, 0).astype(np.intp)
    second = np.minimum(np.ceil(at), length - 1).astype(np.intp)
    return first, second, at - below


def _between(first: npt.NDArray[Any], second: npt.NDArray[Any], weight: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    start = first.astype(np.float32)
    between: npt.NDArray[np.float32] = start + (second.astype(np.float32) - start) * weight
    return between
