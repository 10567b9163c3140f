"""Normalization over axes of each row (keras.layers.LayerNormalization, GroupNormalization, ...)."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from layergraph.config.options import (
    Expected,
    boolean,
    integer,
    nonnegative,
    one_or_list_of,
    option,
)
from layergraph.constraints import constraint
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.initializers import Ones, initializer
from layergraph.layers.normalization.batch import LAYERS as BATCH
from layergraph.layers.normalization.spectral import LAYERS as SPECTRAL
from layergraph.layers.normalization.weights import AffineLayer, axis_length, wide
from layergraph.regularizers import regularizer


def _axes(value: Any) -> tuple[int, ...]:
    return tuple(sorted(value)) if isinstance(value, tuple) else (value,)


def _trailing(axes: tuple[int, ...], rank: int) -> bool:
    """Whether the axes are the last ones, in order, as torch's kernels require."""
    return [axis % rank for axis in axes] == list(range(rank - len(axes), rank))


class LayerNormalization(AffineLayer):
    """Normalizes each row to mean 0 and variance 1 over `axis`, then applies gamma and beta.

    With the deprecated `rms_scaling`, computes x * gamma / sqrt(variance) without centring. Source:
    keras.layers.LayerNormalization.
    """

    axis: Any = option(one_or_list_of(integer), default=-1)
    epsilon: float = option(nonnegative, default=1e-3)
    center: bool = option(boolean, default=True)
    scale: bool = option(boolean, default=True)
    beta_initializer: Any = option(initializer, default="zeros")
    gamma_initializer: Any = option(initializer, default="ones")
    beta_regularizer: Any = option(regularizer, default=None)
    gamma_regularizer: Any = option(regularizer, default=None)
    beta_constraint: Any = option(constraint, default=None)
    gamma_constraint: Any = option(constraint, default=None)
    rms_scaling: bool = option(boolean, default=False)

    supports_masking = True
    autocast = False

    def build(self, input_shape: Any) -> None:
        """Creates gamma and beta, with the lengths of `axis` in order."""
        lengths = [axis_length(self, input_shape, axis) for axis in _axes(self.axis)]
        self.add_affine(lengths, gamma=self.scale or self.rms_scaling, beta=self.center and not self.rms_scaling)

    def fit_stored_shapes(self, shapes: list[tuple[int, ...]]) -> None:
        """Up to Keras 3.13, weights have the lengths in the order of `axis` as given, but values in sorted order."""
        for weight, stored in zip(self.own_weights, shapes, strict=True):
            if sorted(weight.shape) == sorted(stored):
                weight.shape = stored

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        axes = _axes(self.axis)
        x = wide(x)
        gamma, beta = (_broadcastable(getattr(w, name, None), x, axes) for name in ("gamma", "beta"))
        if self.rms_scaling:
            y = x * torch.rsqrt(x.var(axes, correction=0, keepdim=True) + self.epsilon)
            y = y if gamma is None else y * gamma
        elif _trailing(axes, x.ndim):
            shape = x.shape[-len(axes) :]
            flat = [None if weight is None else weight.reshape(shape) for weight in (gamma, beta)]
            y = functional.layer_norm(x, shape, flat[0], flat[1], self.epsilon)
        else:
            y = _standardised(x, axes, self.epsilon, gamma, beta)
        return y.to(torch_dtype(self.compute_dtype))


def _broadcastable(weight: torch.Tensor | None, x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor | None:
    """Reshapes a weight over some axes of x so that it broadcasts."""
    if weight is None:
        return None
    shape = [1] * x.ndim
    for axis in axes:
        shape[axis] = x.shape[axis]
    return weight.to(x.dtype).reshape(shape)


def _standardised(
    x: torch.Tensor,
    axes: tuple[int, ...],
    epsilon: float,
    gamma: torch.Tensor | None,
    beta: torch.Tensor | None,
) -> torch.Tensor:
    """Computes (x - mean) / sqrt(variance + epsilon) * gamma + beta, with the biased variance over `axes`."""
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    factor = torch.rsqrt(variance + epsilon)
    if gamma is not None:
        factor = factor * gamma
    y = (x - mean) * factor
    return y if beta is None else y + beta


def group_count(value: Any) -> int:
    """Validator: a number of groups, or -1 for one group per channel."""
    number = integer(value)
    if number != -1 and number < 1:
        raise Expected("a positive integer, or -1 for one group per channel")
    return number


class GroupNormalization(AffineLayer):
    """Normalizes groups of channels of each row to mean 0 and variance 1, then applies gamma and beta.

    `groups=-1` makes each channel a group: instance normalization. Source: keras.layers.GroupNormalization.
    """

    groups: int = option(group_count, default=32)
    axis: int = option(integer, default=-1)
    epsilon: float = option(nonnegative, default=1e-3)
    center: bool = option(boolean, default=True)
    scale: bool = option(boolean, default=True)
    beta_initializer: Any = option(initializer, default="zeros")
    gamma_initializer: Any = option(initializer, default="ones")
    beta_regularizer: Any = option(regularizer, default=None)
    gamma_regularizer: Any = option(regularizer, default=None)
    beta_constraint: Any = option(constraint, default=None)
    gamma_constraint: Any = option(constraint, default=None)

    supports_masking = True
    autocast = False

    def build(self, input_shape: Any) -> None:
        """Creates gamma and beta. Raises GraphError if the channels aren't a multiple of the groups."""
        channels = axis_length(self, input_shape, self.axis)
        if self.groups > channels or channels % self.groups:
            raise GraphError(
                f"layer '{self.name}' (GroupNormalization): got {channels} channels, expected a multiple of groups, "
                f"which is {self.groups}"
            )
        self.add_affine([channels], gamma=self.scale, beta=self.center)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        axis = self.axis % x.ndim
        channels = x.shape[axis]
        groups = channels if self.groups == -1 else self.groups
        split = (groups, channels // groups)
        grouped = wide(x).reshape(*x.shape[:axis], *split, *x.shape[axis + 1 :])
        shape = [1] * grouped.ndim
        shape[axis : axis + 2] = split
        gamma, beta = (
            None if weight is None else weight.to(grouped.dtype).reshape(shape)
            for weight in (getattr(w, "gamma", None), getattr(w, "beta", None))
        )
        axes = tuple(i for i in range(1, grouped.ndim) if i != axis)
        y = _standardised(grouped, axes, self.epsilon, gamma, beta)
        return y.flatten(axis, axis + 1).to(torch_dtype(self.compute_dtype))


class UnitNormalization(Layer):
    """Scales each row to unit length over `axis` (keras.layers.UnitNormalization)."""

    axis: Any = option(one_or_list_of(integer), default=-1)

    supports_masking = True

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        x = x if x.is_floating_point() else x.to(torch_dtype(self.compute_dtype))
        axes, squares = _axes(self.axis), x.square()
        # torch takes no axes for all.
        squares = squares.sum(axes, keepdim=True) if axes else squares
        return x * squares.rsqrt().clamp(max=min(1e12, torch.finfo(x.dtype).max))


class RMSNormalization(Layer):
    """x / sqrt(mean of squares over `axis` + epsilon) * scale (keras.layers.RMSNormalization)."""

    axis: Any = option(one_or_list_of(integer), default=-1)
    epsilon: float = option(nonnegative, default=1e-6)

    def build(self, input_shape: Any) -> None:
        """Creates the scale, with the lengths of `axis` in order."""
        self.add_weight("scale", [axis_length(self, input_shape, axis) for axis in _axes(self.axis)], Ones())

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        original = x.dtype if x.is_floating_point() else torch_dtype(self.compute_dtype)
        x = wide(x)
        factor = torch.rsqrt(x.square().mean(_axes(self.axis), keepdim=True) + self.epsilon)
        scale: torch.Tensor = w.scale
        return (x * factor * scale.to(x.dtype)).to(original)


LAYERS: dict[str, type[Layer]] = {
    "LayerNormalization": LayerNormalization,
    "GroupNormalization": GroupNormalization,
    "UnitNormalization": UnitNormalization,
    "RMSNormalization": RMSNormalization,
    **BATCH,
    **SPECTRAL,
}
