"""The largest values of a row: probabilities as bars, and classes by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from layerserve_server.extensions.page.pages import short

Array = npt.NDArray[Any]

#: Maximum length of a row that is sorted, and number of values that are shown.
MAX_SORTED, MAX_SHOWN = 100_000, 5
#: How far the sum of probabilities may be from 1: those of half precision are rounded.
TOLERANCE = 0.02


@dataclass(frozen=True, slots=True)
class Largest:
    """A value of a row."""

    #: The name of its class, or else its index.
    name: str
    text: str
    #: Length of its bar, from 0 to 100; None if it isn't a probability.
    percent: float | None


def largest(array: Array, row: int, names: Sequence[bytes]) -> list[Largest]:
    """Returns the largest values of a row of shape (rows, values), largest first; none if they would say no more.

    `names` are those of classes, by index; empty if there are none.
    """
    if array.ndim != 2 or not 1 < array.shape[1] <= MAX_SORTED or array.dtype.kind not in "iuf" or not len(array):
        return []
    values = array[min(row, len(array) - 1)]
    shares = _shares(values, named=bool(names))
    if shares is None and not names and len(values) <= MAX_SHOWN:
        return []
    # NaN, which sorts as the largest, isn't one.
    order = np.argsort(np.where(values == values, values, -np.inf))[::-1][:MAX_SHOWN]
    return [
        Largest(
            _name(int(index), names),
            f"{values[index].item():.4g}",
            None if shares is None else round(float(shares[index]), 2),
        )
        for index in order
    ]


def _shares(values: Array, *, named: bool) -> Array | None:
    """Returns probabilities in percent; None if the values aren't any. Those of several labels don't add up to 1."""
    if values.dtype.kind != "f":
        return None
    wide = values.astype(np.float64)
    if not np.all((wide >= 0) & (wide <= 1 + TOLERANCE)):
        return None
    return 100 * np.minimum(wide, 1.0) if named or abs(float(wide.sum()) - 1) <= TOLERANCE else None


def _name(index: int, names: Sequence[bytes]) -> str:
    name = names[index].decode("utf-8", "replace") if index < len(names) else ""
    return short(name) if name else str(index)
