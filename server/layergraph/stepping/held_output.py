"""The output of a recurrent layer at masked timesteps, which is the last one, across steps."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.functional.call_context import CallContext
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights


class HeldOutput(Layer):
    """Repeats the output of the steps before until a timestep isn't masked.

    A recurrent layer repeats its last output at masked timesteps, but begins each call with zeros.

    returns_sequences   whether outputs have timesteps
    """

    supports_masking = True
    autocast = False

    def __init__(self, returns_sequences: bool, **options: Any) -> None:
        super().__init__(**options)
        self.returns_sequences = returns_sequences

    def forward(  # type: ignore[override]
        self,
        context: CallContext,
        w: Weights,
        outputs: torch.Tensor,
        held: torch.Tensor,
        sequences: torch.Tensor,
        mask: Any = None,
        sequences_mask: Any = None,
    ) -> list[torch.Tensor]:
        """Returns the outputs, and the last of them. `held` is the last output of the step before."""
        known = sequences_mask if mask is None else mask
        if isinstance(known, (list, tuple)):
            known = next(iter(known), None)
        if known is None:
            return [outputs, outputs[:, -1] if self.returns_sequences else outputs]
        # Some timestep up to here counts.
        started = known.to(torch.int32).cumsum(1) > 0
        if not self.returns_sequences:
            started = started[:, -1]
        started = started.reshape(*started.shape, *[1] * (outputs.ndim - started.ndim))
        outputs = torch.where(started, outputs, held[:, None] if self.returns_sequences else held)
        return [outputs, outputs[:, -1] if self.returns_sequences else outputs]

    def compute_mask(self, context: CallContext, inputs: Any, mask: Any) -> Any:
        """The outputs' mask."""
        return [mask, None]
