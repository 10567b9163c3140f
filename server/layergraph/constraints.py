"""Constraints: projections of weights after each update, with Keras's formulas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from layergraph.config.names import snake_case
from layergraph.config.options import (
    Configurable,
    UnknownObject,
    integer,
    nonnegative,
    number,
    one_or_list_of,
    option,
    resolve,
    serialized,
)
from layergraph.errors import ConfigError

#: Keras's backend.epsilon().
EPSILON = 1e-7

Axes = int | tuple[int, ...]


class Constraint(Configurable):
    """A projection of a weight to one of the same shape (keras.constraints.Constraint)."""

    def __call__(self, w: torch.Tensor) -> torch.Tensor:
        """Returns the projected weight; `w` itself is unchanged."""
        raise NotImplementedError


def _norm(w: torch.Tensor, axis: Axes) -> torch.Tensor:
    return w.square().sum(axis, keepdim=True).sqrt()


class NonNeg(Constraint):
    """max(w, 0) (keras.constraints.NonNeg)."""

    def __call__(self, w: torch.Tensor) -> torch.Tensor:
        return w.clamp_min(0)


class MaxNorm(Constraint):
    """Limits norms over `axis` to `max_value` (keras.constraints.MaxNorm); smaller ones shrink by epsilon."""

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
    """Moves norms over `axis` towards [min_value, max_value] at `rate` (keras.constraints.MinMaxNorm)."""

    min_value: float = option(nonnegative, default=0.0)
    max_value: float = option(nonnegative, default=1.0)
    rate: float = option(number, default=1.0)
    axis: Axes = option(one_or_list_of(integer), default=0)

    def __call__(self, w: torch.Tensor) -> torch.Tensor:
        norm = _norm(w, self.axis)
        desired = self.rate * norm.clamp(self.min_value, self.max_value) + (1 - self.rate) * norm
        return w * (desired / (EPSILON + norm))


class RadialConstraint(Constraint):
    """Makes each kernel constant at equal distances from its middle (tf.keras.constraints.RadialConstraint).

    Kernels (length, length, channels, filters). The value at a distance is that on the diagonal; in the middle of an
    odd kernel it is, as in Keras, the one before the middle.
    """

    def __call__(self, w: torch.Tensor) -> torch.Tensor:
        if w.ndim != 4 or w.shape[0] != w.shape[1] or w.shape[0] < 2:
            raise ConfigError(
                f"RadialConstraint: got shape {tuple(w.shape)}, expected (n, n, channels, filters), n > 1"
            )
        length = w.shape[0]
        start, odd = length // 2, length % 2
        place = torch.arange(length, device=w.device)
        # Distances from the middle: 0 for one place of an odd kernel, for two of an even one.
        away = (place - start).abs() if odd else torch.maximum(place - start, start - 1 - place)
        rings = torch.maximum(away[:, None], away[None, :])
        diagonal = torch.where(rings == 0, start - 1, start + rings - odd)
        return w[diagonal, diagonal]


class UnknownConstraint(UnknownObject, Constraint):
    """A custom constraint of a file, whose code isn't there: the model can be served, but not trained."""

    def __call__(self, w: torch.Tensor) -> torch.Tensor:
        raise ConfigError(f"constraint {self.label} is not supported: a model with it can be served, but not trained")


CONSTRAINTS: Mapping[str, type[Constraint]] = {
    "MaxNorm": MaxNorm,
    "NonNeg": NonNeg,
    "UnitNorm": UnitNorm,
    "MinMaxNorm": MinMaxNorm,
    "RadialConstraint": RadialConstraint,
}

#: Other names that Keras's `get` accepts.
ALIASES: Mapping[str, str] = {snake_case(name): name for name in CONSTRAINTS}


def constraint(value: Any) -> Constraint | None:
    """Validator: None, a name, a constraint, or its serialised form. Raises ConfigError."""
    if value is None or isinstance(value, UnknownConstraint):
        return value
    return resolve("constraint", value, CONSTRAINTS, ALIASES)


# Keras's aliases: function names of the classes, and `get`, `deserialize`, `serialize`.
max_norm = MaxNorm
min_max_norm = MinMaxNorm
non_neg = NonNeg
unit_norm = UnitNorm
get = deserialize = constraint
serialize = serialized

__all__ = [
    "Constraint",
    "MaxNorm",
    "MinMaxNorm",
    "NonNeg",
    "UnitNorm",
    "deserialize",
    "get",
    "max_norm",
    "min_max_norm",
    "non_neg",
    "serialize",
    "unit_norm",
]
