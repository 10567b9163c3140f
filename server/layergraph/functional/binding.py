"""Binding: namespaces that map the names of a layer's weights to tensors.

`forward` takes the weights as an argument, so that one graph can run with several sets of them: on `meta` for shape
inference, on a device, cast to another dtype, folded.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.weight import Weight
from layergraph.functional.weights import Weights

if TYPE_CHECKING:
    from layergraph.functional.layer import Layer


_changes = itertools.count(1)
_last_change = 0


def count_change() -> None:
    """Notes that a layer has got or lost weights, so that what is bound of it is stale."""
    global _last_change
    _last_change = next(_changes)


def last_change() -> int:
    """Number of the last such change."""
    return _last_change


class Binder:
    """Builds the namespace of each layer once: `w.kernel` is a weight, `w["layer"].kernel` that of a sublayer."""

    def __init__(self, tensor_of: Callable[[Weight], torch.Tensor]) -> None:
        self._tensor_of = tensor_of
        self._bound: dict[int, Any] = {}

    def __call__(self, layer: Layer) -> Any:
        """Returns the bound weights of `layer`, the `w` of its `forward`."""
        key = id(layer)
        if key not in self._bound:
            self._bound[key] = layer.bind(self)
        return self._bound[key]

    def own(self, layer: Layer) -> Weights:
        """Returns the namespace of a layer's own weights and of its sublayers."""
        space = Weights()
        for weight in layer.own_weights:
            setattr(space, weight.name, self.tensor(layer, weight))
        for name, sublayer in layer.sublayers.items():
            setattr(space, name, self(sublayer))
        return space

    def stored(self, weight: Weight) -> torch.Tensor:
        """Returns the tensor of a weight, never cast: layers may assign to it."""
        return self._tensor_of(weight)

    def tensor(self, layer: Layer, weight: Weight) -> torch.Tensor:
        """Returns the tensor of a layer's weight, cast to the layer's compute dtype if it autocasts."""
        tensor = self._tensor_of(weight)
        wanted = torch_dtype(layer.compute_dtype) if layer.autocast else None
        if wanted is not None and wanted.is_floating_point and weight.autocast and tensor.is_floating_point():
            return tensor.to(wanted)
        return tensor


def bind_meta(layer: Layer) -> Any:
    """Returns the layer's weights as tensors without values, on `meta`."""
    return Binder(lambda w: torch.empty(w.shape, dtype=torch_dtype(w.dtype), device="meta"))(layer)


def bind_values(layer: Layer) -> Any:
    """Returns the layer's weights themselves."""
    return Binder(lambda w: w.value)(layer)
