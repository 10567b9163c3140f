"""Binding: the namespaces in which layers find the tensors of their weights.

A layer's maths takes its weights as an argument, so that one graph can run with several sets of them: on `meta` to find
shapes, on a device, cast to another type, folded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.weight import Weight
from layergraph.functional.weights import Weights

if TYPE_CHECKING:
    from layergraph.functional.layer import Layer


class Binder:
    """Makes the namespace of each layer once: `w.kernel` for a weight, `w["layer"].kernel` for a sublayer's."""

    def __init__(self, tensor_of: Callable[[Weight], torch.Tensor]) -> None:
        self._tensor_of = tensor_of
        self._bound: dict[int, Any] = {}

    def __call__(self, layer: Layer) -> Any:
        """The bound weights of `layer`, as its `forward` takes them."""
        key = id(layer)
        if key not in self._bound:
            self._bound[key] = layer.bind(self)
        return self._bound[key]

    def own(self, layer: Layer) -> Weights:
        """The namespace of a layer's own weights and of its sublayers."""
        space = Weights()
        for weight in layer.own_weights:
            setattr(space, weight.name, self.tensor(layer, weight))
        for name, sublayer in layer.sublayers.items():
            setattr(space, name, self(sublayer))
        return space

    def tensor(self, layer: Layer, weight: Weight) -> torch.Tensor:
        """The tensor of a layer's weight, in the type in which the layer computes."""
        tensor = self._tensor_of(weight)
        wanted = torch_dtype(layer.compute_dtype) if layer.autocast else None
        if wanted is not None and wanted.is_floating_point and weight.autocast and tensor.is_floating_point():
            return tensor.to(wanted)
        return tensor


def bind_meta(layer: Layer) -> Any:
    """The layer's weights as tensors without values."""
    return Binder(lambda w: torch.empty(w.shape, dtype=torch_dtype(w.dtype), device="meta"))(layer)


def bind_values(layer: Layer, device: torch.device | None = None) -> Any:
    """The layer's weights themselves; on another device, copies of them."""
    return Binder(lambda w: w.value if device is None else w.value.to(device))(layer)
