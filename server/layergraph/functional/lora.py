"""LoRA: a frozen kernel plus the product of two small matrices, which are trained instead of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from layergraph.functional.weight import Weight
from layergraph.functional.weights import Weights


@dataclass(frozen=True, slots=True)
class Lora:
    """The LoRA weights of a layer: it computes with base + alpha / rank * a @ b."""

    rank: int
    alpha: float
    base: Weight
    a: Weight
    b: Weight
    #: Whether the layer was trainable before.
    trained: bool = True

    @property
    def scale(self) -> float:
        """The factor of the product."""
        return self.alpha / self.rank

    def merged(self) -> torch.Tensor:
        """Returns the kernel that the layer computes with, in the dtype of the base."""
        with torch.no_grad():
            return merged(self.base.value, self.a.value, self.b.value, self.scale)


def merged(base: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> torch.Tensor:
    """Returns base + scale * a @ b."""
    return base + (scale * (a @ b)).to(base.dtype)


class LoraWeights(Weights):
    """The bound weights of a layer with LoRA while gradients are recorded.

    A layer that applies `base`, `a` and `b` one after another takes no gradient of a whole kernel. All other code gets
    the merged kernel under its own name, computed on first use.
    """

    def __init__(self, name: str, base: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float) -> None:
        super().__init__()
        self.lora_name = name
        self.base = base
        self.a = a
        self.b = b
        self.scale = scale

    def __getattr__(self, name: str) -> torch.Tensor:
        if name != vars(self).get("lora_name"):
            raise AttributeError(name)
        kernel = merged(self.base, self.a, self.b, self.scale)
        setattr(self, name, kernel)
        return kernel
