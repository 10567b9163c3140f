"""Zeros around images as the padding of the layer that reads them, which saves a copy of the image.

Max pooling pads with minus infinity, so it can take over only zeros around values that are never negative. Average
pooling excludes padding from its count, so it can't take over zeros.
"""

from __future__ import annotations

from typing import Any

import torch

from layergraph.functional.call_context import CallContext
from layergraph.functional.invocation import Mask
from layergraph.functional.layer import Layer
from layergraph.layers.activation_functions import Function, relu, relu6, sigmoid, softplus
from layergraph.layers.activations import Activation, ReLU
from layergraph.layers.reshaping import ZeroPadding1D, ZeroPadding2D
from layergraph.layers.spatial import Pads

_PADDING = (ZeroPadding1D, ZeroPadding2D)
_NEVER_NEGATIVE: tuple[Function, ...] = (relu, relu6, sigmoid, softplus)


def is_padding(layer: Layer) -> bool:
    """Whether a layer does nothing but pad with zeros."""
    return type(layer) in _PADDING


def never_negative(call: Any) -> bool:
    """Whether no output of a call is below 0; it may be NaN."""
    layer = call.layer
    if type(layer) is ReLU:
        # Its threshold isn't negative either, which its options ensure.
        return not layer.negative_slope
    function = getattr(call, "function", layer.activation if type(layer) is Activation else None)
    return any(function is known for known in _NEVER_NEGATIVE)


class PaddedPooling:
    """Max pooling of an image with zeros around it, which change no maximum; substitutes an `Invocation`."""

    takes_masks = False

    def __init__(self, layer: Any, zeros: Pads) -> None:
        self.layer = layer
        self._zeros = zeros

    @staticmethod
    def takes(layer: Any, zeros: Pads) -> bool:
        """Whether torch can pool with this padding: equal on both sides, and no window inside the padding."""
        return all(
            before == after and 2 * before <= size for (before, after), size in zip(zeros, layer.pool_size, strict=True)
        )

    def __call__(
        self, context: CallContext, w: Any, values: list[torch.Tensor], masks: list[Mask], *, want_masks: bool
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """Executes the call. Takes and returns no masks."""
        layer, x = self.layer, values[0]
        if not x.numel():
            return [layer.forward(context, w, layer.padded(x, self._zeros))], [None]
        lengths = [
            length + before + after for length, (before, after) in zip(layer.lengths(x), self._zeros, strict=True)
        ]
        layer.check_windows(lengths, layer.pool_size)
        y = layer.pool(
            layer.to_torch(x),
            layer.torch_sizes(layer.pool_size),
            layer.torch_sizes(layer.strides),
            layer.torch_sizes([before for before, _ in self._zeros], 0),
            False,
        )
        return [layer.from_torch(y)], [None]
