"""Losses as operations (keras.ops.nn)."""

from __future__ import annotations

import torch
from torch.nn import functional

from layergraph.config.options import (
    boolean,
    integer,
    option,
)
from layergraph.functional.call_context import CallContext
from layergraph.functional.weights import Weights
from layergraph.ops.operation import Operation

_EPSILON = 1e-7


class _Loss(Operation):
    keras_module = "keras.src.ops.nn"


class BinaryCrossentropy(_Loss):
    """The loss by element (keras.ops.binary_crossentropy)."""

    from_logits: bool = option(boolean, default=False)

    def forward(self, context: CallContext, w: Weights, target: torch.Tensor, output: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        target = target.to(output.dtype)
        if self.from_logits:
            return functional.binary_cross_entropy_with_logits(output, target, reduction="none")
        p = output.clamp(_EPSILON, 1 - _EPSILON)
        return -(target * torch.log(p) + (1 - target) * torch.log(1 - p))


class _Crossentropy(_Loss):
    from_logits: bool = option(boolean, default=False)
    axis: int = option(integer, default=-1)

    def logarithms(self, output: torch.Tensor) -> torch.Tensor:
        """Logarithms of the probabilities."""
        if self.from_logits:
            return torch.log_softmax(output, self.axis)
        p = output / output.sum(self.axis, keepdim=True)
        return torch.log(p.clamp(_EPSILON, 1 - _EPSILON))


class CategoricalCrossentropy(_Crossentropy):
    """The loss by row (keras.ops.categorical_crossentropy)."""

    def forward(self, context: CallContext, w: Weights, target: torch.Tensor, output: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return -(target * self.logarithms(output)).sum(self.axis)


class SparseCategoricalCrossentropy(_Crossentropy):
    """The loss by row (keras.ops.sparse_categorical_crossentropy)."""

    def forward(self, context: CallContext, w: Weights, target: torch.Tensor, output: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        target = target.to(torch.int64)
        if target.ndim == output.ndim and target.shape[-1] == 1:
            target = target.squeeze(-1)
        logs = self.logarithms(output)
        return -logs.gather(self.axis, target.unsqueeze(self.axis)).squeeze(self.axis)


OPERATIONS: dict[str, type[Operation]] = {
    "BinaryCrossentropy": BinaryCrossentropy,
    "CategoricalCrossentropy": CategoricalCrossentropy,
    "SparseCategoricalCrossentropy": SparseCategoricalCrossentropy,
}
