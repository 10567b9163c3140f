"""Interface of the execution plans that models use; implemented in `execution.plan`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from layergraph.functional.binding import Binder
from layergraph.functional.call_context import CallContext
from layergraph.functional.invocation import Mask
from layergraph.functional.strings import Strings


class ExecutionPlan(Protocol):
    """Computes some tensors of a model."""

    @property
    def batched(self) -> bool:
        """Whether the first axis of every input and output is the batch axis."""

    def bind(self, binder: Binder) -> Any:
        """Returns the bound weights of each step."""

    def forward(
        self, context: CallContext, tensors: Sequence[torch.Tensor | Strings]
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """Computes outputs and their masks from the input tensors, in order; gradients flow if torch records them."""

    def forward_nested(
        self,
        context: CallContext,
        weights: Any,
        tensors: Sequence[torch.Tensor],
        masks: Sequence[Mask],
        *,
        want_masks: bool,
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """Computes outputs inside another model's call: with given weights, and with masks of the inputs."""
