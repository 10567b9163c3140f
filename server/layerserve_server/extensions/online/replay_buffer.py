"""Rows of earlier batches that are trained on again with later ones, so that a model doesn't forget them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from layerserve_server.inference.queue import bytes_of
from layerserve_server.training.request import Role

Array: TypeAlias = np.ndarray[Any, Any]
#: Arrays by role and name.
Arrays: TypeAlias = Mapping[tuple[Role, str], Array]

#: Maximum size of the batches that are kept, in bytes; older ones are dropped before.
MAX_BYTES = 256 << 20


class ReplayBuffer:
    """The last batches, of which each step gets some rows. Which ones depends on the seed and the steps alone."""

    def __init__(self, seed: int, steps: int, share: float) -> None:
        """Keeps `steps` batches, and adds `share` times as many rows as a batch has."""
        self._seed = seed
        self._steps = steps if share else 0
        self._share = share
        self._kept: deque[tuple[int, Arrays]] = deque()
        self._bytes = 0

    @property
    def first(self) -> int | None:
        """Number of the oldest step that is kept; None for none."""
        return self._kept[0][0] if self._kept else None

    def add(self, number: int, arrays: Arrays) -> None:
        """Keeps the batch of step `number`."""
        if not self._steps:
            return
        self._kept.append((number, arrays))
        self._bytes += _bytes(arrays)
        while len(self._kept) > self._steps or (self._bytes > MAX_BYTES and self._kept):
            self._bytes -= _bytes(self._kept.popleft()[1])

    def clear(self) -> None:
        """Drops all batches."""
        self._kept.clear()
        self._bytes = 0

    def mixed(self, number: int, arrays: Arrays) -> Arrays:
        """Returns the arrays of step `number` with rows of kept batches behind them.

        Rows are taken of batches with the same arrays, and the same lengths of all axes but the first.
        """
        fitting = [kept for _, kept in self._kept if _form(kept) == _form(arrays)]
        lengths = [_rows(kept) for kept in fitting]
        count = min(round(self._share * _rows(arrays)), sum(lengths))
        if not count:
            return arrays
        chosen = np.random.default_rng([self._seed, number]).choice(sum(lengths), count, replace=False)
        batch = np.searchsorted(np.cumsum(lengths), chosen, side="right")
        row = chosen - np.concatenate([[0], np.cumsum(lengths)])[batch]
        pairs = list(zip(batch.tolist(), row.tolist(), strict=True))
        return {
            key: np.concatenate([array, np.stack([fitting[place][key][at] for place, at in pairs])])
            for key, array in arrays.items()
        }


def _rows(arrays: Arrays) -> int:
    return len(next(iter(arrays.values())))


def _bytes(arrays: Arrays) -> int:
    return sum(map(bytes_of, arrays.values()))


def _form(arrays: Arrays) -> dict[tuple[Role, str], tuple[Any, ...]]:
    return {key: (array.dtype, array.shape[1:]) for key, array in arrays.items()}
