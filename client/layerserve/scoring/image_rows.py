"""Columns of encoded images as arrays of a model's inputs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from layerserve.errors import InvalidArgument, InvalidTensor
from layerserve.images.options import DEFAULTS, ImageOptions
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import Array

if TYPE_CHECKING:
    from layerserve.images.decoder import ImageDecoder


def image_rows(images: Sequence[bytes], column: str, spec: TensorSpec, options: ImageOptions | None) -> Array:
    """Returns encoded images as the array of an input. Without `options` they are decoded as `load_img` does.

    Raises InvalidTensor for an input that can't take images, and for an image that can't be decoded, and
    InvalidArgument if Pillow isn't installed.
    """
    try:
        from layerserve.images.decoder import ImageError
    except ImportError as missing:
        raise InvalidArgument(f"column {column!r}: images require {missing.name}: pip install Pillow") from None
    try:
        decode = _decoder(spec, options or DEFAULTS)
    except ValueError:
        raise InvalidTensor(f"batch, column {column!r} has type binary, expected {spec.dtype}") from None
    if options is None and None in decode.shape:
        raise InvalidTensor(
            f"column {column!r}: got images for input {spec.name!r}, whose height and width are open; set `size` in "
            "the model's settings"
        )
    rows: list[Array] = []
    for number, image in enumerate(images, 1):
        place = f"batch, column {column!r}, row {number}"
        try:
            rows.append(decode(image))
        except ImageError as error:
            raise InvalidTensor(f"{place}: {error}") from None
        if rows[-1].shape != rows[0].shape:
            raise InvalidTensor(
                f"{place}: got an image of shape {rows[-1].shape}, expected {rows[0].shape}, as in the first row; set "
                "the input's size in the model's settings"
            )
    return np.stack(rows) if rows else np.empty((0, *(axis or 0 for axis in decode.shape)), decode.dtype)


@lru_cache(64)
def _decoder(spec: TensorSpec, options: ImageOptions) -> ImageDecoder:
    from layerserve.images.decoder import ImageDecoder

    return ImageDecoder(spec, options)
