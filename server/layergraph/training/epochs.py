"""The rows of a run, batch after batch, pass after pass, from any place on."""

from __future__ import annotations

import torch

from layergraph.training.data import Batch, Data, steps_of
from layergraph.training.workers import Workers


def epoch_order(rows: int, seed: int, number: int) -> torch.Tensor:
    """Row numbers in the shuffled order of a pass: the same for the same seed and number, however a run got there."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + number) % 2**63)
    return torch.randperm(rows, generator=generator)


class Epochs:
    """Batches of `size` rows; after the last one of a pass the next pass begins.

    number   of the current pass; without steps_per_epoch it is the epoch
    done     batches of the pass that were taken
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
    def rows(self) -> int:
        """Rows of a pass."""
        return self._rows.rows

    def start_at(self, number: int, done: int) -> None:
        """Goes to a place."""
        self.number, self.done = number, done
        self._order = epoch_order(self._rows.rows, self._seed, number) if self.shuffle else None

    @property
    def finished(self) -> bool:
        """Whether the pass has no batch left."""
        return self.done >= self.steps

    def start_next_if_finished(self) -> None:
        """Begins the next pass where the current one has ended."""
        if self.finished:
            self.start_at(self.number + 1, 0)

    def epoch_begins(self) -> None:
        """Arrays have nothing to do for an epoch."""

    def epoch_ends(self) -> None:
        """Arrays have nothing to do for an epoch."""

    def take(self) -> Batch | None:
        """The next batch; the last one of a pass has what is left."""
        start = self.done * self.size
        stop = min(start + self.size, self._rows.rows)
        self.done += 1
        rows = slice(start, stop) if self._order is None else self._order[start:stop]
        return self._rows.batch(rows, stop - start, self._workers)
