"""Text of any length in a file, memory-mapped: training data that doesn't have to fit into memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, Any]


class MappedText:
    """Text in rows: `content` has the bytes of all elements, `ends` the end of each element in it.

    `before` is the position in `ends` of the first element.
    """

    def __init__(self, content: Array, ends: Array, shape: tuple[int, ...], before: int = 0) -> None:
        self.shape = shape
        self._content = content
        self._ends = ends
        self._before = before
        self._row_elements = math.prod(shape[1:])

    @classmethod
    def of(cls, texts: Sequence[bytes], shape: tuple[int, ...]) -> MappedText:
        """Returns texts in memory, of any lengths, without an object for each of them."""
        ends = np.fromiter(accumulate(map(len, texts)), np.int64, len(texts))
        return cls(np.frombuffer(b"".join(texts), np.uint8), ends, shape)

    @classmethod
    def joined(cls, parts: Sequence[MappedText]) -> MappedText:
        """Returns the rows of several arrays, each of all of its text, one after another."""
        before = np.cumsum([0, *(len(part._content) for part in parts)])
        ends = [part._ends + start for part, start in zip(parts, before, strict=False)]
        content = np.concatenate([part._content for part in parts])
        return cls(content, np.concatenate(ends), (sum(map(len, parts)), *parts[0].shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def reshape(self, shape: tuple[int, ...]) -> MappedText:
        """Returns the same rows in another shape."""
        return MappedText(self._content, self._ends, shape, self._before)

    def __getitem__(self, rows: slice) -> MappedText:
        """Returns adjacent rows, which stay in the file."""
        start, stop, _ = rows.indices(len(self))
        shape = (max(0, stop - start), *self.shape[1:])
        return MappedText(self._content, self._ends, shape, self._before + start * self._row_elements)

    def take(self, rows: slice | torch.Tensor | Array) -> Array:
        """Reads rows: an object array of `bytes`."""
        chosen = range(len(self))[rows] if isinstance(rows, slice) else rows.tolist()
        found = np.empty((len(chosen), self._row_elements), object)
        for place, row in enumerate(chosen):
            found[place] = self._row(row)
        return found.reshape(len(chosen), *self.shape[1:])

    def _row(self, row: int) -> list[bytes]:
        first = self._before + row * self._row_elements
        ends = self._ends[first : first + self._row_elements].tolist()
        start = int(self._ends[first - 1]) if first else 0
        content = self._content[start : ends[-1] if ends else start].tobytes()
        return [content[a - start : b - start] for a, b in pairwise([start, *ends])]
