"""What a model asks of its plan. Plans are made on a floor above (`execution.plan`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from layergraph.functional.binding import Binder
from layergraph.functional.call_context import CallContext
from layergraph.functional.invocation import Mask


class ExecutionPlan(Protocol):
    """How to compute some tensors of a model."""

    @property
    def batched(self) -> bool:
        """Whether every input and output has the rows as its first axis."""

    def bind(self, binder: Binder) -> Any:
        """The weights of each step."""

    def forward(self, context: CallContext, tensors: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[Mask]]:
        """Outputs and their masks for the input tensors, in order; gradients flow if torch records them."""

    def forward_nested(
        self,
        context: CallContext,
        weights: Any,
        tensors: Sequence[torch.Tensor],
        masks: Sequence[Mask],
        *,
        want_masks: bool,
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """As a part of another run: with given weights, and masks that come with the inputs."""
