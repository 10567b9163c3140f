"""Data that is read by row groups, as that of Parquet files: a few groups are in memory at a time.

Each worker reads groups of its own, in all epochs. Which rows make a batch depends on the seed and the groups only, not
on the number of workers: rows that another worker computes are sent to it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from layergraph.training.mapped_text import MappedText

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, Any]

#: Maximum size of the groups that are in memory together, in bytes, unless there are no more than HELD_GROUPS of them.
HELD_BYTES = 256 << 20
HELD_GROUPS = 4
#: Into how many parts small groups are joined in HELD_BYTES: each is looked up for each batch.
HELD_PARTS = 16
#: Memory of a row besides its arrays: its places in the order of an epoch, in bytes.
ROW_BYTES = 16
#: Multiples of the golden ratio spread evenly, however many there are.
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True, slots=True)
class RowGroups:
    """Groups of consecutive rows.

    ends     number of rows before the end of each group
    sizes    memory of each group, in bytes
    places   place of each group among all, from 0 to 1, in an order in which neighbours lie apart in the data
    """

    ends: Array
    sizes: Array
    places: Array

    @classmethod
    def of(cls, rows: Sequence[int], sizes: Sequence[int]) -> RowGroups:
        """Returns groups of these numbers of rows and bytes."""
        counts = np.asarray(rows, np.int64)
        order = np.argsort(np.arange(1, len(counts) + 1) * _GOLDEN % 1.0, kind="stable")
        # By rows, so that all workers read as many, whatever the sizes of groups are.
        middles = np.cumsum(counts[order]) - counts[order] / 2
        places = np.empty(len(counts))
        places[order] = middles / max(1, int(counts.sum()))
        return cls(np.cumsum(counts), np.asarray(sizes, np.int64) + ROW_BYTES * counts, places)

    @property
    def rows(self) -> int:
        """Number of all rows."""
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def starts(self) -> Array:
        """Number of rows before each group."""
        return np.concatenate([np.zeros(1, np.int64), self.ends[:-1]])

    def sliced(self, start: int, stop: int) -> RowGroups:
        """Returns the groups of adjacent rows. Those of other rows are empty."""
        return replace(self, ends=np.clip(self.ends - start, 0, stop - start))

    def chosen(self, order: Array) -> RowGroups:
        """Returns the groups of some rows, by their ascending indices."""
        return replace(self, ends=np.searchsorted(order, self.ends))

    def blocks(self, order: Sequence[int]) -> list[list[int]]:
        """Returns groups in this order, divided so that those of a block can be in memory together."""
        blocks: list[list[int]] = []
        size = 0
        for group in order:
            own = int(self.sizes[group])
            if not blocks or (len(blocks[-1]) >= HELD_GROUPS and size + own > HELD_BYTES):
                blocks.append([])
                size = 0
            blocks[-1].append(group)
            size += own
        return blocks

    def of_rows(self, rows: Array) -> Array:
        """Returns the group of each row."""
        return np.searchsorted(self.ends, rows, "right")

    def owners(self, rows: Array, count: int) -> Array:
        """Returns which of `count` workers reads each row."""
        return np.minimum((self.places * count).astype(np.int64), count - 1)[self.of_rows(rows)]


class GroupedRows:
    """Arrays with the same rows, read group by group. Small groups that are adjacent are read together."""

    def __init__(
        self, rows: Sequence[int], sizes: Sequence[int], read: Callable[[int], Sequence[Array | MappedText]]
    ) -> None:
        """`rows` and `sizes` are the numbers of rows and bytes of each group; `read` returns the arrays of one."""
        self._read = read
        self._parts = _parts(sizes)
        self.groups = RowGroups.of(
            [sum(rows[part.start : part.stop]) for part in self._parts],
            [sum(sizes[part.start : part.stop]) for part in self._parts],
        )
        self._held: OrderedDict[int, list[Array | MappedText]] = OrderedDict()
        #: The last rows that were taken: those of a batch are taken from one array after another.
        self._taken: tuple[Array, list[Array]] | None = None

    def take(self, rows: Array) -> list[Array]:
        """Reads rows of all arrays. Those that aren't numbers are object arrays of `bytes`. Raises what `read` does."""
        if self._taken is not None and np.array_equal(self._taken[0], rows):
            return self._taken[1]
        groups = self.groups.of_rows(rows)
        local = rows - self.groups.starts[groups]
        found: list[Array] = []
        # One after another, and first those in memory, which others may take the place of.
        for group in sorted(np.unique(groups).tolist(), key=lambda group: group not in self._held):
            places = np.flatnonzero(groups == group)
            arrays = self._group(group)
            found = found or [_empty(array, len(rows)) for array in arrays]
            for whole, array in zip(found, arrays, strict=True):
                _copy(array, local[places], whole, places)
        self._taken = (rows, found)
        return found

    def _group(self, group: int) -> list[Array | MappedText]:
        """Returns the arrays of a group. Others are forgotten for it, those taken longest ago first."""
        if group not in self._held:
            sizes = self.groups.sizes
            held = int(sizes[list(self._held)].sum())
            while len(self._held) >= HELD_GROUPS and held + sizes[group] > HELD_BYTES:
                forgotten, _ = self._held.popitem(last=False)
                held -= int(sizes[forgotten])
            read = [self._read(number) for number in self._parts[group]]
            self._held[group] = [_joined(parts) for parts in zip(*read, strict=True)]
        self._held.move_to_end(group)
        return self._held[group]


def _parts(sizes: Sequence[int]) -> list[range]:
    """Returns adjacent groups that are read together, so that few are looked up for a batch."""
    most = min(sum(sizes), HELD_BYTES) // HELD_PARTS
    parts: list[range] = []
    size = 0
    for group, own in enumerate(sizes):
        size += own
        if parts and size <= most:
            parts[-1] = range(parts[-1].start, group + 1)
        else:
            parts.append(range(group, group + 1))
            size = own
    return parts


def _empty(array: Array | MappedText, rows: int) -> Array:
    return np.empty((rows, *array.shape[1:]), object if isinstance(array, MappedText) else array.dtype)


def _copy(array: Array | MappedText, rows: Array, target: Array, places: Array) -> None:
    """Copies rows of an array to places in another, which ascend."""
    if isinstance(array, MappedText):
        target[places] = array.take(rows)
    elif places[-1] - places[0] < len(places):
        # Adjacent, as most are: without another copy.
        np.take(array, rows, 0, target[places[0] : places[-1] + 1], "clip")
    else:
        target[places] = array[rows]


def _joined(parts: Sequence[Array | MappedText]) -> Array | MappedText:
    if len(parts) == 1:
        return parts[0]
    texts = [part for part in parts if isinstance(part, MappedText)]
    if texts:
        return MappedText.joined(texts)
    return np.concatenate([part for part in parts if not isinstance(part, MappedText)])


class GroupedArray:
    """An array of `GroupedRows`: what `fit` takes in place of an array in memory. `dtype` is object for text."""

    def __init__(
        self, source: GroupedRows, place: int, shape: tuple[int, ...], dtype: np.dtype[Any], start: int = 0
    ) -> None:
        """`place` is that of the array among those of `source`, `start` the number of rows before its first."""
        self.shape = shape
        self.dtype = dtype
        self.start = start
        self._source = source
        self._place = place
        #: What the elements become, from those of some rows and the indices of these.
        self._changes: tuple[Callable[[Array, Array], Array], ...] = ()

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def groups(self) -> RowGroups:
        """The groups of its rows."""
        return self._source.groups.sliced(self.start, self.start + len(self))

    def reshape(self, shape: tuple[int, ...]) -> GroupedArray:
        """Returns the same rows in another shape."""
        return self.changed(lambda part, rows: part.reshape(len(rows), *shape[1:]), shape, self.dtype)

    def changed(
        self, change: Callable[[Array, Array], Array], shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> GroupedArray:
        """Returns an array that is computed from rows when these are read.

        `change` gets their elements and their indices, which count from the first row of the source.
        """
        made = GroupedArray(self._source, self._place, shape, dtype, self.start)
        made._changes = (*self._changes, change)
        return made

    def __getitem__(self, rows: slice) -> GroupedArray:
        """Returns adjacent rows, which aren't read."""
        start, stop, _ = rows.indices(len(self))
        shape = (max(0, stop - start), *self.shape[1:])
        made = GroupedArray(self._source, self._place, shape, self.dtype, self.start + start)
        made._changes = self._changes
        return made

    def take(self, rows: slice | torch.Tensor) -> Array:
        """Reads rows: numbers, or an object array of `bytes`."""
        chosen = np.arange(len(self))[rows] if isinstance(rows, slice) else rows.numpy()
        if not len(chosen):
            return np.empty((0, *self.shape[1:]), self.dtype)
        found = self._source.take(chosen + self.start)[self._place]
        for change in self._changes:
            found = change(found, chosen + self.start)
        return found
