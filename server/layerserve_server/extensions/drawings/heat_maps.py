"""Tensors as pictures: planes of an array as PNG with 256 colours."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]

#: Maximum number of pictures of a tensor, and of pixels along each side of one. Longer axes are thinned out.
MAX_PICTURES, MAX_PIXELS = 16, 192
#: Side that small pictures are enlarged to, in pixels of the screen, and the largest factor.
SIDE, MAX_ZOOM = 160, 24
#: Colours from the smallest to the largest value, as matplotlib's viridis; between them they are interpolated.
ANCHORS = (
    (68, 1, 84),
    (72, 40, 120),
    (62, 74, 137),
    (49, 104, 142),
    (38, 130, 142),
    (31, 158, 137),
    (53, 183, 121),
    (109, 205, 89),
    (180, 222, 44),
    (253, 231, 37),
)
#: Colour of what isn't finite, at the index after those of numbers.
ODD = (200, 30, 30)
LEVELS = 255


@dataclass(frozen=True, slots=True)
class Picture:
    """A plane of a tensor."""

    label: str
    #: The address of the image, with all of its data.
    source: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Planes of one tensor with one scale."""

    pictures: Sequence[Picture]
    low: float
    high: float
    #: Number of planes that aren't shown.
    left_out: int


def heat_map(array: Array, row: int) -> HeatMap | None:
    """Draws planes of a tensor, of one row where it has several axes; None for one without numbers or axes."""
    if array.dtype.kind not in "biufc" or array.ndim == 0 or array.size == 0:
        return None
    planes, count = _planes(array, min(row, len(array) - 1))
    thin = [(label, _real(_thinned(plane))) for label, plane in planes]
    finite = np.concatenate([plane[np.isfinite(plane)] for _, plane in thin])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    return HeatMap([_picture(label, plane, low, high) for label, plane in thin], low, high, count - len(planes))


def _planes(array: Array, row: int) -> tuple[list[tuple[str, Array]], int]:
    """Returns planes (height, width) with labels, and how many there are."""
    if array.ndim <= 2:
        return [("rows by values" if array.ndim == 2 else "values", np.atleast_2d(array))], 1
    one = array[row]
    if one.ndim == 2:
        return [(f"row {row}", one)], 1
    # The channels of the first place along further axes: (..., height, width, channels).
    while one.ndim > 3:
        one = one[0]
    channels = one.shape[-1]
    return [(f"row {row}, channel {at}", one[..., at]) for at in range(min(channels, MAX_PICTURES))], channels


def _thinned(plane: Array) -> Array:
    steps = [-(-length // MAX_PIXELS) for length in plane.shape]
    return plane[:: max(1, steps[0]), :: max(1, steps[1])]


def _real(plane: Array) -> npt.NDArray[np.float64]:
    return (np.abs(plane) if plane.dtype.kind == "c" else plane).astype(np.float64)


def _picture(label: str, plane: npt.NDArray[np.float64], low: float, high: float) -> Picture:
    with np.errstate(all="ignore"):
        # Halves, since the difference of the largest numbers is infinite.
        share = (plane / 2 - low / 2) / ((high / 2 - low / 2) or 1.0)
        levels = np.where(np.isfinite(plane), share * (LEVELS - 1), LEVELS).astype(np.uint8)
    image = Image.fromarray(levels)
    image.putpalette(PALETTE)
    data = io.BytesIO()
    image.save(data, "PNG")
    height, width = plane.shape
    zoom = min(MAX_ZOOM, max(1, SIDE // max(height, width)))
    source = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    return Picture(label, source, width * zoom, height * zoom)


def _palette() -> list[int]:
    places = np.linspace(0, len(ANCHORS) - 1, LEVELS)
    channels = [np.interp(places, range(len(ANCHORS)), [colour[at] for colour in ANCHORS]) for at in range(3)]
    return [*np.stack(channels, axis=1).round().astype(int).ravel().tolist(), *ODD]


PALETTE = _palette()
