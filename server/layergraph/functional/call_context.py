"""One run through a graph: what all its layers share while it lasts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from layergraph.functional.shard import Shard
from layergraph.functional.symbolic_dims import SymbolicDims


@dataclass(slots=True)
class CallContext:
    """State of one run. It is never shared between two runs, so that many can go on at a time.

    training    whether layers behave as in training (Dropout drops, BatchNormalization uses the batch)
    generator   source of randomness; None takes torch's own
    losses      activity regularisation that layers add, as scalars; None where nobody asks for it
    row_gradients   whether Embedding layers give gradients of the rows that were looked up alone, as sparse tensors
    shard       the worker's rows of the batch, where several processes compute one
    states      what stateful layers ended the batch before with, by layer; None where each call starts from zeros
    stand_ins   what stands for unknown lengths, where shapes alone are asked for
    """

    training: bool = False
    generator: torch.Generator | None = None
    losses: list[torch.Tensor] | None = field(default_factory=list)
    row_gradients: bool = False
    shard: Shard | None = None
    states: dict[object, list[torch.Tensor]] | None = None
    symbolic_dims: SymbolicDims | None = None

    def as_training(self, training: bool) -> CallContext:
        """The same run for a call that says itself whether it trains; losses go to the same list."""
        return self if training == self.training else replace(self, training=training)

    def drawn(
        self, shape: Sequence[int], like: torch.Tensor, draw: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """What `draw` fills an empty tensor with, of the type and on the device of `like`, whose first axis is rows.

        Workers draw for the whole batch and take their rows of it: so they draw what one process would, and all draw
        alike. A first axis of 1 is for all rows.
        """
        shard = self.shard
        if shard is None or shape[0] != like.shape[0]:
            return draw(torch.empty(tuple(shape), dtype=like.dtype, device=like.device))
        each = shard.per_row(shape[0])
        whole = draw(torch.empty((shard.total * each, *shape[1:]), dtype=like.dtype, device=like.device))
        return whole[shard.rows.start * each : shard.rows.stop * each]
