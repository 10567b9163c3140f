"""Data-parallel training in several processes (torch.distributed).

Every worker has the whole model and a shard of each batch. Outputs are gathered before losses and metrics are computed,
which therefore equal those of the whole batch, and DistributedDataParallel averages the gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch

# Its functions have the group of their import as a default. DistributedDataParallel imports it: while a group exists,
# which would then live until the interpreter's end.
import torch.distributed.nn.functional
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from layergraph.functional.shard import Shard
from layergraph.functional.strings import Strings
from layergraph.training.columns import Column

Tensor = torch.Tensor


class Workers:
    """This process's rank in the group of `torch.distributed.init_process_group`.

    The process must end with `destroy_process_group`: a thread of a group that is there when Python ends may abort it.
    All workers make the same calls in the same order. What one worker alone decides, such as the callbacks of the first
    one, is broadcast by `agree`.
    """

    def __init__(self) -> None:
        self.rank = distributed.get_rank()
        self.count = distributed.get_world_size()

    @property
    def first(self) -> bool:
        """Whether this is the first worker, which runs callbacks, writes files and measures time."""
        return self.rank == 0

    def shard(self, rows: int) -> Shard | None:
        """This worker's shard of a batch of `rows`; None if there are fewer rows than workers: each computes all."""
        return Shard.of(rows, self.rank, self.count)

    def agree(self, *numbers: float) -> list[float]:
        """Returns the first worker's numbers on all workers."""
        agreed = torch.tensor(numbers, dtype=torch.float64)
        distributed.broadcast(agreed, 0)
        return [float(number) for number in agreed]

    def exchanged(
        self, columns: Sequence[Column], rows: Tensor, owners: Tensor, shard: Shard | None
    ) -> list[Tensor | Strings]:
        """Returns this worker's rows of a batch, of each column; all of the batch without a shard.

        `owners` is the worker that takes each row from the columns, and sends it to the one that computes it.
        """
        places = torch.arange(len(rows))
        if shard is None:
            moves = torch.ones(len(rows), dtype=torch.bool)
        else:
            moves = torch.searchsorted(torch.tensor(shard.bounds[1:]), places, right=True) != owners
        own = owners == self.rank
        taken = [column.take(rows[own]) for column in columns]
        parts, parts_places = [taken], [places[own]]
        for rank in range(self.count):
            sent = moves & (owners == rank)
            count = int(sent.sum())
            if count and rank == self.rank:
                for part in taken:
                    _send(_chosen(part, moves[own]))
            elif count:
                parts.append([_received((count, *part.shape[1:]), part, rank) for part in taken])
                parts_places.append(places[sent])
        wanted = slice(0, len(rows)) if shard is None else shard.rows
        found = torch.cat(parts_places)
        order = found.argsort()
        order = order[(found[order] >= wanted.start) & (found[order] < wanted.stop)]
        return [_chosen(_joined(column), order) for column in zip(*parts, strict=True)]

    def take_over(self, tensors: Sequence[Tensor]) -> None:
        """Copies the values of the first worker's tensors."""
        with torch.no_grad():
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                distributed.broadcast(whole, 0)
                tensor.copy_(whole)


def _send(part: Tensor | Strings) -> None:
    """Sends this worker's rows to all others, as bytes.

    torch's functions for objects use pickles, which can run code.
    """
    rank = distributed.get_rank()
    if isinstance(part, Strings):
        texts = part.values.ravel().tolist()
        distributed.broadcast(torch.tensor([len(text) for text in texts]), rank)
        data = torch.frombuffer(bytearray(b"".join(texts)) or bytearray(1), dtype=torch.uint8)
    else:
        data = part.contiguous().reshape(-1).view(torch.uint8)
    distributed.broadcast(data, rank)


def _received(shape: tuple[int, ...], like: Tensor | Strings, rank: int) -> Tensor | Strings:
    """Returns the rows that worker `rank` sends, which have the dtype of `like`."""
    if not isinstance(like, Strings):
        received = torch.empty(math.prod(shape), dtype=like.dtype)
        distributed.broadcast(received.view(torch.uint8), rank)
        return received.reshape(shape)
    lengths = torch.empty(math.prod(shape), dtype=torch.int64)
    distributed.broadcast(lengths, rank)
    ends = [0, *lengths.cumsum(0).tolist()]
    data = torch.empty(max(1, ends[-1]), dtype=torch.uint8)
    distributed.broadcast(data, rank)
    joined = data.numpy().tobytes()
    values = np.empty(len(lengths), object)
    values[:] = [joined[start:end] for start, end in pairwise(ends)]
    return Strings(shape, values.reshape(shape))


def _chosen(part: Tensor | Strings, chosen: Tensor) -> Tensor | Strings:
    """Returns some rows, by their indices or a mask."""
    if isinstance(part, Strings):
        values = part.values[chosen.numpy()]
        return Strings(values.shape, values)
    return part[chosen]


def _joined(parts: Sequence[Tensor | Strings]) -> Tensor | Strings:
    """Returns the rows of several parts, one after another."""
    texts = [part.values for part in parts if isinstance(part, Strings)]
    if not texts:
        return torch.cat([part for part in parts if isinstance(part, Tensor)])
    values = np.concatenate(texts)
    return Strings(values.shape, values)


class Replica:
    """A worker's replica of the trained weights (`leaves`). `loss` computes the loss of the whole batch."""

    def __init__(self, leaves: Sequence[Tensor], loss: Callable[..., Tensor]) -> None:
        self._leaves = leaves
        for leaf in leaves:
            leaf.requires_grad_(True)
        # Weights that only outputs without a loss depend on get no gradient; DDP detects which these are.
        self._module = DistributedDataParallel(_Trained(leaves, loss), find_unused_parameters=True)
        for leaf in leaves:
            leaf.requires_grad_(False)

    def gradients(self, *arguments: Any) -> list[Tensor | None]:
        """Gradients of the loss by the leaves; None for a leaf that the loss doesn't depend on."""
        total = self._module(*arguments)
        if total.requires_grad:
            total.backward()
        found = [leaf.grad for leaf in self._leaves]
        for leaf in self._leaves:
            leaf.grad = None
        return found

    def close(self) -> None:
        """Lets go of the process group."""
        # torch's module refers to itself, so it would hold the group until a garbage collection.
        vars(self._module).clear()


class _Trained(torch.nn.Module):
    """Weights and a loss as the module that DistributedDataParallel requires."""

    def __init__(self, leaves: Sequence[Tensor], loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self._loss = loss
        for place, leaf in enumerate(leaves):
            # Plans hold these very tensors, so new Parameters can't replace them; torch accepts tensors marked so.
            leaf._is_param = True
            self.register_parameter(str(place), cast("torch.nn.Parameter", leaf))

    def forward(self, *arguments: Any) -> Tensor:
        return self._loss(*arguments)
