"""Batches of a run over consecutive epochs, from any batch on."""

from __future__ import annotations

import numpy as np
import torch

from layergraph.training.data import Batch, Data, steps_of
from layergraph.training.row_groups import RowGroups
from layergraph.training.workers import Workers


def epoch_order(rows: int, seed: int, number: int) -> torch.Tensor:
    """Shuffled row indices of an epoch, which depend on `seed` and the epoch's `number` only."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
    return torch.randperm(rows, generator=generator)


class GroupedOrder:
    """Shuffled row indices of an epoch of data in row groups. `order[start:stop]` are those of some places.

    Groups are shuffled, and then the rows of each few groups that are in memory together.
    """

    def __init__(self, groups: RowGroups, seed: int, number: int) -> None:
        self._groups = groups
        self._seed = seed * 1_000_003 + number
        self._blocks = groups.blocks(epoch_order(len(groups.ends), seed, number).tolist())
        counts = groups.ends - groups.starts
        self._ends = np.cumsum([int(counts[block].sum()) for block in self._blocks])
        self._last: tuple[int, torch.Tensor] | None = None

    def __getitem__(self, places: slice) -> torch.Tensor:
        parts = []
        at = places.start
        block = int(np.searchsorted(self._ends, at, "right"))
        while at < places.stop:
            rows = self._rows(block)
            first = int(self._ends[block]) - len(rows)
            parts.append(rows[at - first : places.stop - first])
            at += len(parts[-1])
            block += 1
        found = torch.cat(parts)
        # Workers compute adjacent rows of a batch: most of them should be those that they read.
        where = torch.from_numpy(self._groups.places[self._groups.of_rows(found.numpy())])
        return found[where.argsort(stable=True)]

    def _rows(self, block: int) -> torch.Tensor:
        """Returns the shuffled rows of a block."""
        if self._last is None or self._last[0] != block:
            starts, ends = self._groups.starts, self._groups.ends
            rows = torch.cat([torch.arange(starts[group], ends[group]) for group in self._blocks[block]])
            self._last = (block, rows[epoch_order(len(rows), self._seed, block + 1)])
        return self._last[1]


def _shuffled(data: Data, seed: int, number: int) -> torch.Tensor | GroupedOrder:
    """Returns the order of an epoch: of all rows together, if they are in memory or can be."""
    if data.groups is None or len(data.groups.blocks(range(len(data.groups.ends)))) == 1:
        return epoch_order(data.rows, seed, number)
    return GroupedOrder(data.groups, seed, number)


class Epochs:
    """Batches of `size` rows over consecutive epochs.

    number   index of the current epoch over the data; without steps_per_epoch it is the epoch of `fit`
    done     number of batches taken from it
    """

    def __init__(
        self, rows: Data, size: int, *, seed: int, shuffle: bool, number: int, workers: Workers | None = None
    ) -> None:
        self._rows = self._ordered = rows
        self.size = size
        self._seed = seed
        self._workers = workers
        self.shuffle = shuffle
        self.steps = steps_of(rows.rows, size)
        self.start_at(number, 0)

    @property
    def columns(self) -> Data:
        """The data that batches are taken from."""
        return self._rows

    @property
    def rows(self) -> int:
        """Rows per epoch."""
        return self._rows.rows

    def use(self, rows: Data) -> None:
        """Takes batches from other columns of the same rows."""
        self._rows = rows

    def start_at(self, number: int, done: int) -> None:
        """Continues at batch `done` of epoch `number`."""
        self.number, self.done = number, done
        # By the data as it was given: what replaces it has the same rows.
        self._order = _shuffled(self._ordered, self._seed, number) if self.shuffle else None

    @property
    def finished(self) -> bool:
        """Whether the epoch has no batch left."""
        return self.done >= self.steps

    def start_next_if_finished(self) -> None:
        """Begins the next epoch if the current one has ended."""
        if self.finished:
            self.start_at(self.number + 1, 0)

    def epoch_begins(self) -> None:
        """No-op: arrays have no hooks for epochs."""

    def epoch_ends(self) -> None:
        """No-op: arrays have no hooks for epochs."""

    def take(self) -> Batch | None:
        """Returns the next batch; the last one of an epoch may have fewer rows."""
        start = self.done * self.size
        stop = min(start + self.size, self._rows.rows)
        self.done += 1
        rows = slice(start, stop) if self._order is None else self._order[start:stop]
        return self._rows.batch(rows, stop - start, self._workers)
