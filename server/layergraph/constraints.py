"""Constraints: projections of weights after each update, by Keras's formulas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from layergraph.config.names import snake_case
from layergraph.config.options import Configurable, integer, nonnegative, number, one_or_list_of, option, resolve

#: Keras's backend.epsilon().
EPSILON = 1e-7

Axes = int | tuple[int, ...]


class Constraint(Configurable):
    """A projection: weight -> weight of the same shape (keras.constraints.Constraint)."""

    def __call__(self, w: torch.Tensor) -> torch.Tensor:
        """Returns the projected weight; `w` is unchanged."""
        raise NotImplementedError


def _norm(w: torch.Tensor, axis: Axes) -> torch.Tensor:
    return w.square().sum(axis, keepdim=True).sqrt()


class NonNeg(Constraint):
    """max(w, 0) (keras.constraints.NonNeg)."""

    def __call__(self, w: torch.Tensor) -> torch.Tensor:
        return w.clamp_min(0)


class MaxNorm(Constraint):
    """Clips norms over `axis` to `max_value` (keras.constraints.MaxNorm); smaller norms shrink by epsilon."""

    max_value: float = option(nonnegative, default=2.0)
    axis: Axes = option(one_or_list_of(integer), default=0)

    def __call__(self, w: torch.Tensor) -> torch.Tensor:
        norm = _norm(w, self.axis)
        return w * (norm.clamp(0, self.max_value) / (EPSILON + norm))


class UnitNorm(Constraint):
    """Scales norms over `axis` to 1 (keras.constraints.UnitNorm)."""

    axis: Axes = option(one_or_list_of(integer), default=0)

    def __call__(self, w: torch.Tensor) -> torch.Tensor:
        return w / (EPSILON + _norm(w, self.axis))


class MinMaxNorm(Constraint):
    """Moves norms over `axis` into [min_value, max_value] by `rate` (keras.constraints.MinMaxNorm)."""

    min_value: float = option(nonnegative, default=0.0)
    max_value: float = option(nonnegative, default=1.0)
    rate: float = option(number, default=1.0)
    axis: Axes = option(one_or_list_of(integer), default=0)

    def __call__(self, w: torch.Tensor) -> torch.Tensor:
        norm = _norm(w, self.axis)
        desired = self.rate * norm.clamp(self.min_value, self.max_value) + (1 - self.rate) * norm
        return w * (desired / (EPSILON + norm))


CONSTRAINTS: Mapping[str, type[Constraint]] = {
    "MaxNorm": MaxNorm,
    "NonNeg": NonNeg,
    "UnitNorm": UnitNorm,
    "MinMaxNorm": MinMaxNorm,
}

#: Other names that Keras's `get` accepts.
ALIASES: Mapping[str, str] = {snake_case(name): name for name in CONSTRAINTS}


def constraint(value: Any) -> Constraint | None:
    """Validator: None, a name, a constraint, or its serialised form. Raises ConfigError."""
    return None if value is None else resolve("constraint", value, CONSTRAINTS, ALIASES)


# Keras also has its classes under function names, and `get` for the values that an option accepts.
max_norm = MaxNorm
min_max_norm = MinMaxNorm
non_neg = NonNeg
unit_norm = UnitNorm
get = constraint

__all__ = [
    "Constraint",
    "MaxNorm",
    "MinMaxNorm",
    "NonNeg",
    "UnitNorm",
    "get",
    "max_norm",
    "min_max_norm",
    "non_neg",
    "unit_norm",
]
