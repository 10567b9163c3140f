"""A worker's shard of a batch, and the collective operations that combine shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from layergraph.errors import GraphError

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Shard:
    """One worker's rows of a batch: from `bounds[rank]` to `bounds[rank + 1]`, at least one.

    All workers have to call the collective methods in the same order. Gradients that flow back through them are those
    of the sum of all workers' losses: their mean over workers, as DistributedDataParallel computes it, is then the
    gradient of the one loss that each worker computes.
    """

    rank: int
    bounds: tuple[int, ...]

    @classmethod
    def of(cls, rows: int, rank: int, count: int) -> Shard | None:
        """Returns the rank's shard of a batch; None if there are fewer rows than workers: then each computes all."""
        if rows < count:
            return None
        return cls(rank, tuple(rows * worker // count for worker in range(count + 1)))

    @property
    def rows(self) -> slice:
        """Slice of the batch with the worker's rows."""
        return slice(self.bounds[self.rank], self.bounds[self.rank + 1])

    @property
    def count(self) -> int:
        """Number of rows of the worker."""
        return self.bounds[self.rank + 1] - self.bounds[self.rank]

    @property
    def total(self) -> int:
        """Number of rows of the batch."""
        return self.bounds[-1]

    def chosen(self, rows: slice | Tensor) -> slice | Tensor:
        """Returns the worker's part of a selection of rows: a slice or indices."""
        if isinstance(rows, slice):
            return slice(rows.start + self.bounds[self.rank], rows.start + self.bounds[self.rank + 1])
        return rows[self.rows]

    def per_row(self, length: int) -> int:
        """Returns how many entries of a first axis of `length` belong to each row. Raises GraphError if it isn't a
        multiple of the number of rows.
        """
        if length % self.count:
            raise GraphError(f"first axis of length {length} can't be split by row: the worker has {self.count} rows")
        return length // self.count

    def gathered(self, own: Tensor) -> Tensor:
        """Returns the whole batch's tensor from each worker's part (all-gather); gradients flow to the own part."""
        each = self.per_row(own.shape[0])
        lengths = [(stop - start) * each for start, stop in zip(self.bounds, self.bounds[1:], strict=False)]
        sent = own.detach().contiguous()
        # all_gather needs equal sizes: shorter parts are padded.
        missing = max(lengths) - own.shape[0]
        if missing:
            sent = torch.cat([sent, sent.new_zeros((missing, *sent.shape[1:]))])
        parts = [torch.empty_like(sent) for _ in lengths]
        distributed.all_gather(parts, sent)
        parts = [part[:length] for part, length in zip(parts, lengths, strict=True)]
        parts[self.rank] = self._scaled(own)
        return torch.cat(parts)

    def _scaled(self, own: Tensor) -> Tensor:
        """Multiplies the tensor's gradient by the number of workers: each of them computes the same loss from it."""
        if not own.requires_grad:
            return own
        own = own.view_as(own)
        own.register_hook(lambda gradient: gradient * (len(self.bounds) - 1))  # type: ignore[no-untyped-call]
        return own

    def summed(self, own: Tensor) -> Tensor:
        """Returns the sum over all workers (all-reduce); gradients are summed over all workers, too."""
        found: Tensor = _Sum.apply(own)  # type: ignore[no-untyped-call]
        return found


class _Sum(torch.autograd.Function):
    """Sum over all workers; its gradient is summed over all workers, too."""

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
