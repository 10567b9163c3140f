"""Images of a user, as the elements of an input that takes them encoded."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np

from layerserve.values.tensors import Array


def image_elements(value: Any) -> Array | None:
    """Returns encoded images as an array of bytes, one for each row; None for what isn't images, such as numbers.

    An image is bytes, the path of a file, or an image of Pillow, which is sent as PNG. `value` is one, or a list of
    them. Raises OSError if a file can't be read.
    """
    if _is_image(value):
        value = [value]
    elif isinstance(value, np.ndarray) or hasattr(value, "to_numpy"):
        array = np.asarray(value)
        value = array.ravel().tolist() if array.dtype.kind in "OSU" else ()
    if not isinstance(value, (list, tuple)) or not value or not all(map(_is_image, value)):
        return None
    elements = np.empty(len(value), object)
    elements[:] = [_encoded(one) for one in value]
    return elements


def _is_image(value: Any) -> bool:
    return isinstance(value, (bytes, str, os.PathLike)) or _is_of_pillow(value)


def _is_of_pillow(value: Any) -> bool:
    """Whether this is an image of Pillow, which isn't imported."""
    return type(value).__module__.startswith("PIL.") and hasattr(value, "save")


def _encoded(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if not _is_of_pillow(value):
        return Path(value).read_bytes()
    data = io.BytesIO()
    try:
        # Fast, and without loss.
        value.save(data, "PNG", compress_level=1)
    except OSError:
        # A mode that PNG lacks, such as CMYK.
        data = io.BytesIO()
        value.convert("RGB").save(data, "PNG", compress_level=1)
    return data.getvalue()
