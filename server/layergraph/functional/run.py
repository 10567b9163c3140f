"""One run through a graph: what all its layers share while it lasts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch


@dataclass(slots=True)
class Run:
    """State of one run. It is never shared between two runs, so that many can go on at a time.

    training    whether layers behave as in training (Dropout drops, BatchNormalization uses the batch)
    generator   source of randomness; None takes torch's own
    losses      activity regularisation that layers add, as scalars; None where nobody asks for it
    row_gradients   whether Embedding layers give gradients of the rows that were looked up alone, as sparse tensors
    """

    training: bool = False
    generator: torch.Generator | None = None
    losses: list[torch.Tensor] | None = field(default_factory=list)
    row_gradients: bool = False

    def as_training(self, training: bool) -> Run:
        """The same run for a call that says itself whether it trains; losses go to the same list."""
        return self if training == self.training else replace(self, training=training)
