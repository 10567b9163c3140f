"""Interface of the execution plans that models use; implemented in `execution.plan`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol

import torch

from layergraph.config.training_rules import TrainingRules
from layergraph.functional.binding import Binder
from layergraph.functional.call_context import CallContext
from layergraph.functional.invocation import Mask
from layergraph.functional.strings import Strings
from layergraph.functional.weight import Weight


class FrozenSplit(Protocol):
    """A plan in two parts: a trunk, whose outputs for a row are the same in every step of training, and the rest."""

    @property
    def layers(self) -> Sequence[str]:
        """Names of the layers in the trunk."""

    @property
    def obstacles(self) -> Sequence[str]:
        """What keeps frozen layers out of the trunk: "layer 'dropout' (Dropout) is random in training"."""

    @property
    def worthwhile(self) -> bool:
        """Whether the trunk takes longer to compute than its outputs take to read."""

    @property
    def inputs(self) -> Sequence[int]:
        """Positions of the plan's inputs that are also read outside of the trunk."""

    def trunk(
        self, context: CallContext, tensors: Sequence[torch.Tensor | Strings]
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """Computes the trunk's outputs, and the masks that the rest needs, from the plan's inputs."""

    def forward(
        self, context: CallContext, tensors: Sequence[Any], masks: Sequence[Mask]
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """Computes the plan's outputs and masks from `inputs` and the trunk's outputs, and the trunk's masks."""


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

    def frozen_split(
        self, trained: Collection[Weight], tensors: Sequence[torch.Tensor | Strings], rules: TrainingRules
    ) -> FrozenSplit:
        """Splits the plan, if only the weights in `trained` change; a few rows of each input are tried."""

    def removed_masks(self, *, training: bool) -> Collection[int]:
        """Positions of the model's inputs that have no masks after a call."""

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
