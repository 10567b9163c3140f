"""Masks passed explicitly to a nested model's call: steps before the model's own attach them to its inputs."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from layergraph.config.spec import NO_MASK
from layergraph.functional.call_context import CallContext
from layergraph.functional.invocation import Invocation
from layergraph.functional.layer import Layer
from layergraph.functional.tensor import Tensor
from layergraph.functional.weights import Weights


class NamedMask(Layer):
    """Returns a tensor unchanged, with another mask."""

    supports_masking: ClassVar[bool] = True
    autocast: ClassVar[bool] = False

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor, mask: Any = None) -> torch.Tensor:
        return x


def named_mask(tensor: Tensor, mask: Tensor | None) -> Invocation:
    """A call that replaces the mask of `tensor`; None removes it."""
    return Invocation(NamedMask(name="mask"), (tensor,), {"mask": NO_MASK if mask is None else mask})
