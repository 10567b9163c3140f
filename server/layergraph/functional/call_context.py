"""The context of a call: state that all layers of a graph share during the call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace

import torch

from layergraph.config.training_rules import KERAS3_RULES, TrainingRules
from layergraph.functional.lookups import Lookups
from layergraph.functional.shard import Shard
from layergraph.functional.symbolic_dims import SymbolicDims


@dataclass(slots=True)
class CallContext:
    """State of one call. Calls never share a context, so that many can run concurrently.

    training    whether layers behave as in training (Dropout drops, BatchNormalization uses the batch's statistics)
    generator   random generator; None means torch's default generator
    losses      activity regularisation added by layers, as scalars; None if not collected
    row_gradients   whether Embedding layers return sparse gradients, of the looked-up rows only
    lookups         where gradients of embeddings go by lookup; None if they are added up
    shard       the worker's rows of the batch, where several processes compute one batch
    states      final states of stateful layers in the previous batch, by layer; None if each call starts from zeros
    rules       what training does where releases of Keras differ
    keeps_logits    which crossentropies take the inputs of sigmoid and softmax, kept on their outputs; "" to keep none
    masks       masks of tensors within the `call` of a layer, by id, with the tensors, so that no id is reused
    symbolic_dims   lengths used for unknown axes in shape inference; None in execution
    """

    training: bool = False
    generator: torch.Generator | None = None
    losses: list[torch.Tensor] | None = field(default_factory=list)
    row_gradients: bool = False
    lookups: Lookups | None = None
    shard: Shard | None = None
    states: dict[object, list[torch.Tensor]] | None = None
    rules: TrainingRules = KERAS3_RULES
    keeps_logits: str = ""
    masks: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = None
    symbolic_dims: SymbolicDims | None = None

    def as_training(self, training: bool) -> CallContext:
        """Returns this context with another `training`, for a call that sets it; losses go to the same list."""
        return self if training == self.training else replace(self, training=training)

    def drawn(
        self, shape: Sequence[int], like: torch.Tensor, draw: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Returns random values of `shape`: `draw` fills an empty tensor with the dtype and device of `like`, whose
        first axis is the batch. A first axis of 1 is shared by all rows.

        Each worker draws for the whole batch and takes its rows: all workers draw the same, as one process would.
        """
        shard = self.shard
        if shard is None or shape[0] != like.shape[0]:
            return draw(torch.empty(tuple(shape), dtype=like.dtype, device=like.device))
        each = shard.per_row(shape[0])
        whole = draw(torch.empty((shard.total * each, *shape[1:]), dtype=like.dtype, device=like.device))
        return whole[shard.rows.start * each : shard.rows.stop * each]


#: The context of the custom layer that is being called, for functions that take none.
current_context: ContextVar[CallContext | None] = ContextVar("current_context", default=None)
