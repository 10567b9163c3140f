"""Encoded images, and what a model makes of them that doubles its input."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from layerserve.images.decoder import ImageDecoder
from layerserve.images.options import DEFAULTS, ImageOptions
from layerserve.values.tensor_spec import TensorSpec
from PIL import Image

#: Height, width and channels.
ROW = (4, 3, 3)


def encoded(size: tuple[int, int] = (6, 5), form: str = "PNG", seed: int = 0) -> bytes:
    """Returns an image of this width and height."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, form)
    return data.getvalue()


def doubled(images: Sequence[bytes], options: ImageOptions = DEFAULTS, row: Any = ROW) -> np.ndarray:
    """Returns the answer to images."""
    decode = ImageDecoder(TensorSpec("x", (None, *row), "float32"), options)
    return 2 * np.stack([decode(one) for one in images])
