"""The rows of a batch that one of several processes computes, and what it takes of the others to give the batch's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from layergraph.errors import GraphError

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Shard:
    """One worker's rows of a batch: those from `bounds[rank]` to `bounds[rank + 1]`, at least one.

    What it does with the other workers all of them have to do, in the same order. Gradients that flow back through it
    are those of the sum of all workers' losses: the mean over workers, as DistributedDataParallel takes it, is then the
    gradient of the one loss that each of them computes.
    """

    rank: int
    bounds: tuple[int, ...]

    @classmethod
    def of(cls, rows: int, rank: int, count: int) -> Shard | None:
        """The rank's part of so many rows; None where not each of `count` workers has one: all then compute all."""
        if rows < count:
            return None
        return cls(rank, tuple(rows * worker // count for worker in range(count + 1)))

    @property
    def rows(self) -> slice:
        """The worker's rows."""
        return slice(self.bounds[self.rank], self.bounds[self.rank + 1])

    @property
    def count(self) -> int:
        """How many rows the worker has."""
        return self.bounds[self.rank + 1] - self.bounds[self.rank]

    @property
    def total(self) -> int:
        """How many rows the batch has."""
        return self.bounds[-1]

    def chosen(self, rows: slice | Tensor) -> slice | Tensor:
        """The worker's part of the batch's rows: a range, or their numbers."""
        if isinstance(rows, slice):
            return slice(rows.start + self.bounds[self.rank], rows.start + self.bounds[self.rank + 1])
        return rows[self.rows]

    def per_row(self, length: int) -> int:
        """How often the worker's rows go into a first axis of that length. Raises GraphError where they don't."""
        if length % self.count:
            raise GraphError(f"a first axis of {length} for {self.count} rows can't be shared between workers")
        return length // self.count

    def gathered(self, own: Tensor) -> Tensor:
        """The batch's tensor, of which this is the part of the worker's rows; gradients flow to the own part."""
        each = self.per_row(own.shape[0])
        lengths = [(stop - start) * each for start, stop in zip(self.bounds, self.bounds[1:], strict=False)]
        sent = own.detach().contiguous()
        # All send as much, also where rows can't be shared out evenly.
        missing = max(lengths) - own.shape[0]
        if missing:
            sent = torch.cat([sent, sent.new_zeros((missing, *sent.shape[1:]))])
        parts = [torch.empty_like(sent) for _ in lengths]
        distributed.all_gather(parts, sent)
        parts = [part[:length] for part, length in zip(parts, lengths, strict=True)]
        parts[self.rank] = self._weighed(own)
        return torch.cat(parts)

    def _weighed(self, own: Tensor) -> Tensor:
        """The tensor, whose gradient counts for all workers: each of them computes the same loss of it."""
        if not own.requires_grad:
            return own
        own = own.view_as(own)
        own.register_hook(lambda gradient: gradient * (len(self.bounds) - 1))  # type: ignore[no-untyped-call]
        return own

    def summed(self, own: Tensor) -> Tensor:
        """The sum over all workers, to the gradient of which all contribute."""
        found: Tensor = _Sum.apply(own)  # type: ignore[no-untyped-call]
        return found


class _Sum(torch.autograd.Function):
    """Sum over all workers; the gradient too is that of all of them."""

    @staticmethod
    def forward(context: Any, own: Tensor) -> Tensor:
        total = own.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total
