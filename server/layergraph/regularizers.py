"""Regularizers: penalties on weights and outputs, with Keras's formulas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from layergraph.config.names import snake_case
from layergraph.config.options import (
    Configurable,
    UnknownObject,
    Validator,
    nonnegative,
    one_of,
    option,
    resolve,
    serialized,
)
from layergraph.errors import ConfigError


class Regularizer(Configurable):
    """A penalty: a function of a tensor that returns a scalar (keras.regularizers.Regularizer)."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the penalty of `x`, a scalar of the same dtype."""
        raise NotImplementedError


def _or(default: float) -> Validator[float]:
    """Validator: a number of at least 0; None means the default, as in Keras."""
    return lambda value: default if value is None else nonnegative(value)


def _times(strength: float, x: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """Returns strength * total. Keras casts the strength to the dtype of `x`, so integer outputs have penalty 0."""
    return total * (strength if x.dtype in (torch.float32, torch.float64) else x.new_full((), strength))


class L1L2(Regularizer):
    """l1 * sum |x| + l2 * sum x^2 (keras.regularizers.L1L2)."""

    l1: float = option(_or(0.0), default=0.0)
    l2: float = option(_or(0.0), default=0.0)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        penalty = x.new_zeros(())
        if self.l1:
            penalty = penalty + _times(self.l1, x, x.abs().sum())
        if self.l2:
            penalty = penalty + _times(self.l2, x, x.square().sum())
        return penalty


class L1(Regularizer):
    """l1 * sum |x| (keras.regularizers.L1)."""

    l1: float = option(_or(0.01), default=0.01)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return _times(self.l1, x, x.abs().sum())


class L2(Regularizer):
    """l2 * sum x^2, without a factor 1/2 (keras.regularizers.L2)."""

    l2: float = option(_or(0.01), default=0.01)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return _times(self.l2, x, x.square().sum())


class OrthogonalRegularizer(Regularizer):
    """`factor` times the mean |cosine| of rows, or columns, of a matrix (keras.regularizers.OrthogonalRegularizer)."""

    factor: float = option(nonnegative, default=0.01)
    mode: str = option(one_of("rows", "columns"), default="rows")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim != 2:
            raise ConfigError(f"OrthogonalRegularizer: got shape {tuple(x.shape)}, expected two dimensions")
        vectors = x if self.mode == "rows" else x.T
        # Keras's normalize bounds the inverse norm by 1e7.
        unit = vectors * torch.rsqrt(vectors.square().sum(1, keepdim=True).clamp_min(1e-14))
        size = len(unit)
        others = (unit @ unit.T) * (1.0 - torch.eye(size, dtype=x.dtype, device=x.device))
        return self.factor * 0.5 * others.abs().sum() / (size * (size - 1.0) / 2.0)


class UnknownRegularizer(UnknownObject, Regularizer):
    """A custom regularizer of a file, whose code isn't there: the model can be served, but not trained."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        raise ConfigError(f"regularizer {self.label} is not supported: a model with it can be served, but not trained")


REGULARIZERS: Mapping[str, type[Regularizer]] = {
    "L1": L1,
    "L2": L2,
    "L1L2": L1L2,
    "OrthogonalRegularizer": OrthogonalRegularizer,
}

#: Other names that Keras's `get` accepts.
ALIASES: Mapping[str, str] = {**{snake_case(name): name for name in REGULARIZERS}, "l1_l2": "L1L2"}


def regularizer(value: Any) -> Regularizer | None:
    """Validator: None, a name, a regularizer, or its serialised form. Raises ConfigError."""
    if value is None or isinstance(value, UnknownRegularizer):
        return value
    return resolve("regularizer", value, REGULARIZERS, ALIASES)


# Keras's aliases: function names of the classes, and `get`, `deserialize`, `serialize`.
l1 = L1
l2 = L2
l1_l2 = L1L2
orthogonal_regularizer = OrthogonalRegularizer
get = deserialize = regularizer
serialize = serialized

__all__ = [
    "L1",
    "L1L2",
    "L2",
    "OrthogonalRegularizer",
    "Regularizer",
    "deserialize",
    "get",
    "l1",
    "l1_l2",
    "l2",
    "orthogonal_regularizer",
    "serialize",
]
