"""Several processes that train one model together: torch.distributed's group, as the loop sees it.

Every worker has the whole model and, of each batch, some rows. Outputs are gathered before losses and metrics, so that
these are the batch's own whatever they do with it, and DistributedDataParallel takes the mean of the gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from layergraph.errors import ConfigError
from layergraph.functional.shard import Shard
from layergraph.regularizers import L1, L1L2, L2

if TYPE_CHECKING:
    from layergraph.training.trainer import Trainer

Tensor = torch.Tensor

#: Penalties of activities that are sums over rows: of these each worker can add its own.
ADDITIVE = (L1, L2, L1L2)


class Workers:
    """This process's place in the group that `torch.distributed.init_process_group` has made, or torchrun will.

    All of them make the same calls in the same order. What one of them decides alone, such as the first one's
    callbacks, is told to the others by `agree`.
    """

    def __init__(self) -> None:
        self.rank = distributed.get_rank()
        self.count = distributed.get_world_size()

    @property
    def first(self) -> bool:
        """Whether it is the one that has callbacks, writes files and measures."""
        return self.rank == 0

    def shard(self, rows: int) -> Shard | None:
        """Its part of a batch of `rows`; None for fewer rows than workers, of which all compute all."""
        return Shard.of(rows, self.rank, self.count)

    def agree(self, *numbers: float) -> list[float]:
        """The first worker's numbers."""
        told = torch.tensor(numbers, dtype=torch.float64)
        distributed.broadcast(told, 0)
        return [float(number) for number in told]

    def take_over(self, tensors: Sequence[Tensor]) -> None:
        """Makes the tensors those of the first worker."""
        with torch.no_grad():
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                distributed.broadcast(whole, 0)
                tensor.copy_(whole)


class Replica:
    """A worker's copy of what is trained. `loss` computes the whole batch's loss of its arguments."""

    def __init__(self, leaves: Sequence[Tensor], loss: Callable[..., Tensor]) -> None:
        self._leaves = leaves
        for leaf in leaves:
            leaf.requires_grad_(True)
        # Weights of outputs without a loss get no gradient, and which those are DDP finds out itself.
        self._module = DistributedDataParallel(_Trained(leaves, loss), find_unused_parameters=True)
        for leaf in leaves:
            leaf.requires_grad_(False)

    def gradients(self, *arguments: Any) -> list[Tensor | None]:
        """The loss's gradients by the leaves, None where it doesn't depend on one."""
        self._module(*arguments).backward()
        found = [leaf.grad for leaf in self._leaves]
        for leaf in self._leaves:
            leaf.grad = None
        return found


class _Trained(torch.nn.Module):
    """Weights and a loss of them, as DistributedDataParallel wants them."""

    def __init__(self, leaves: Sequence[Tensor], loss: Callable[..., Tensor]) -> None:
        super().__init__()
        self._loss = loss
        for place, leaf in enumerate(leaves):
            # Plans hold these very tensors, so that no new ones can stand for them: torch takes any so marked.
            leaf._is_param = True
            self.register_parameter(str(place), cast("torch.nn.Parameter", leaf))

    def forward(self, *arguments: Any) -> Tensor:
        return self._loss(*arguments)


def check_shareable(model: Trainer) -> None:
    """Raises ConfigError, with names of layers, where batches can't be shared out to the same numbers."""
    from layergraph.training.loop import takes_row_gradients

    reasons = []
    optimizer = model.optimizer
    if optimizer is not None and optimizer.leaves_others and takes_row_gradients(model, optimizer):
        # Workers add up whole gradients, which don't tell what was looked up.
        reasons.append(f"Keras 2's optimizer '{optimizer.name}' goes by the rows of embeddings that were looked up")
    for layer in model.walk_layers():
        penalty = layer.activity_regularizer
        if penalty is not None and not isinstance(penalty, ADDITIVE):
            reasons.append(f"layer '{layer.name}' has the activity regularizer {type(penalty).__name__}")
        if getattr(layer, "stateful", False):
            reasons.append(f"layer '{layer.name}' ({type(layer).__name__}) is stateful")
        if not layer.rows_are_independent:
            reasons.append(f"layer '{layer.name}' ({type(layer).__name__}) looks at all rows of a batch")
    if not reasons and not model.plan().batched:
        reasons.append("an input or output doesn't have the rows as its first axis")
    if reasons:
        raise ConfigError(f"model '{model.name}' can't be trained by several workers: {'; '.join(reasons)}")
