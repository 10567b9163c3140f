"""Batches of a run over consecutive epochs, from any batch on."""

from __future__ import annotations

import torch

from layergraph.training.data import Batch, Data, steps_of
from layergraph.training.workers import Workers


def epoch_order(rows: int, seed: int, number: int) -> torch.Tensor:
    """Shuffled row indices of an epoch, which depend on `seed` and the epoch's `number` only."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
    return torch.randperm(rows, generator=generator)


class Epochs:
    """Batches of `size` rows over consecutive epochs.

    number   index of the current epoch over the data; without steps_per_epoch it is the epoch of `fit`
    done     number of batches taken from it
    """

    def __init__(
        self, rows: Data, size: int, *, seed: int, shuffle: bool, number: int, workers: Workers | None = None
    ) -> None:
        self._rows = rows
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
        self._order = epoch_order(self._rows.rows, self._seed, number) if self.shuffle else None

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
