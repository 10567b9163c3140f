"""Plugin with the custom layers and activations of published models, for compare_published.py."""

from __future__ import annotations

from typing import Any

import torch
from layergraph.config.options import anything, integer, option, text
from layergraph.functional.layer import Layer
from layergraph.layers import LSTM, Conv1D
from layergraph.layers.activation_functions import relu
from layergraph.plugins import register_activation, register_layer


@register_layer()
class SqueezeLayer(Layer):
    """Drops an axis of length 1 (crema)."""

    axis: int = option(integer, default=-1)

    def forward(self, run: Any, w: Any, x: torch.Tensor) -> torch.Tensor:
        return x.squeeze(self.axis)


@register_layer()
class ReversedLSTM(LSTM):
    """An LSTM from the last step to the first, with its outputs in the order of its inputs (rnnmorph)."""

    def forward(self, run: Any, w: Any, *args: Any, **kwargs: Any) -> Any:
        return super().forward(run, w, *args, **kwargs).flip(1)


@register_layer()
class ConvDNA(Conv1D):
    """A Conv1D whose inputs are one-hot letters (mmsplice)."""

    seq_length: Any = option(anything, default=None)


@register_layer()
class GlobalAveragePooling1D_Mask0(Layer):  # noqa: N801
    """Mean over the steps of the first input at which the second is not all zero (mmsplice)."""

    data_format: str = option(text, default="channels_last")

    def forward(self, run: Any, w: Any, inputs: list[torch.Tensor]) -> torch.Tensor:
        x, steps = inputs
        mask = steps.amax(2, keepdim=True)
        return (x * mask).sum(1) / mask.sum(1).clamp_min(1e-7)


@register_activation(name="<lambda>")
def clipped_leaky_relu(x: torch.Tensor) -> torch.Tensor:
    """Of DeepLC."""
    return relu(x, negative_slope=0.1, max_value=20.0)
