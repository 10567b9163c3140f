"""Batch normalization (keras.layers.BatchNormalization)."""

from __future__ import annotations

import math
from typing import Any

import torch

from layergraph.config.options import Expected, boolean, fraction, integer, nonnegative, one_of, one_or_list_of, option
from layergraph.constraints import constraint
from layergraph.errors import DataError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import at_least_float32, torch_dtype
from layergraph.functional.layer import Layer
from layergraph.functional.shard import Shard
from layergraph.functional.weights import Weights
from layergraph.initializers import initializer
from layergraph.layers.normalization.renorm import clipping, corrections
from layergraph.layers.normalization.weights import AffineLayer, axis_length
from layergraph.regularizers import regularizer

#: Keras's backend.epsilon(), which prevents a division by zero in a masked mean.
EPSILON = 1e-7

#: Options of batch renormalization, which Keras 3 lacks up to 3.13.
_RENORM = ("renorm", "renorm_clipping", "renorm_momentum")


def axes(value: Any) -> int | tuple[int, ...]:
    """Validator: one axis or several; old files have a list with one axis."""
    found = one_or_list_of(integer)(value)
    if not isinstance(found, tuple):
        return found
    if not found or len(set(found)) != len(found):
        raise Expected("an axis, or a list of different ones")
    return found[0] if len(found) == 1 else tuple(sorted(found))


class BatchNormalization(AffineLayer):
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, with one mean and variance per index of `axis`.

    In training these are the batch's (biased variance, masked timesteps left out), and the moving averages are updated:
    moving * momentum + batch's * (1 - momentum); where Keras 2 has a fused kernel, with the unbiased variance, and no
    mask. In inference, and if the layer isn't trainable, the moving averages are used
    (keras.layers.BatchNormalization).

    axis     in files of Keras 2 also several axes: one mean and variance for each of their positions
    renorm   batch renormalization
    mask_rule   what a mask of numbers does in training: as in `keras3`, or weigh the timesteps, as up to Keras 3.14
                (`weights`). Set from the file's version
    """

    axis: Any = option(axes, default=-1)
    momentum: float = option(fraction, default=0.99)
    epsilon: float = option(nonnegative, default=1e-3)
    center: bool = option(boolean, default=True)
    scale: bool = option(boolean, default=True)
    beta_initializer: Any = option(initializer, default="zeros")
    gamma_initializer: Any = option(initializer, default="ones")
    moving_mean_initializer: Any = option(initializer, default="zeros")
    moving_variance_initializer: Any = option(initializer, default="ones")
    beta_regularizer: Any = option(regularizer, default=None)
    gamma_regularizer: Any = option(regularizer, default=None)
    beta_constraint: Any = option(constraint, default=None)
    gamma_constraint: Any = option(constraint, default=None)
    renorm: bool = option(boolean, default=False)
    renorm_clipping: Any = option(clipping, default=None)
    renorm_momentum: float = option(fraction, default=0.99)
    synchronized: bool = option(boolean, default=False)
    mask_rule: str = option(one_of("keras3", "weights"), default="keras3", kw_only=True, saved=False)

    supports_masking = True

    @property
    def has_one_axis(self) -> bool:
        """Whether statistics are per index of one axis."""
        return isinstance(self.axis, int)

    def build(self, input_shape: Any) -> None:
        kept = {axis % len(input_shape): axis_length(self, input_shape, axis) for axis in self._axes}
        # With several axes, weights have the inputs' rank.
        shape = [kept.get(axis, 1) for axis in range(len(input_shape))] if len(kept) > 1 else list(kept.values())
        self.add_affine(shape, gamma=self.scale, beta=self.center)
        firsts = {"moving_mean": self.moving_mean_initializer, "moving_variance": self.moving_variance_initializer}
        if self.renorm:
            # Keras starts with the root of the variance's first value.
            root = lambda shape, dtype=torch.float32: self.moving_variance_initializer(shape, dtype).sqrt()  # noqa: E731
            firsts |= {"moving_stddev": root, "renorm_mean": self.moving_mean_initializer, "renorm_stddev": root}
        for name, first in firsts.items():
            self.add_weight(name, shape, first, trainable=False, autocast=False)

    @property
    def _axes(self) -> tuple[int, ...]:
        return (self.axis,) if isinstance(self.axis, int) else self.axis

    def forward(
        self, context: CallContext, w: Weights, x: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Computes the outputs. Raises DataError in training if a mask's rank isn't one less than the inputs'."""
        x = at_least_float32(x)
        frozen_statistics = context.rules.frozen_statistics
        if context.training and (self.trainable or frozen_statistics):
            fused = self._is_fused(context, x)
            mean, variance = self._moments(x, None if fused else mask, context.shard)
            if self.renorm:
                return self._renormalized(w, x, mean, variance).to(torch_dtype(self.compute_dtype))
            # Serving runs in inference mode: a call with training=True must not change the served model.
            updates = self.trainable or frozen_statistics == "updated"
            if updates and not torch.is_inference_mode_enabled():
                self._update(w.moving_mean, mean, self.momentum)
                self._update(w.moving_variance, variance, self.momentum, self._correction(context, x, fused))
        else:
            mean, variance = w.moving_mean.to(x.dtype), w.moving_variance.to(x.dtype)
        factor = torch.rsqrt(variance + self.epsilon)
        if self.scale:
            factor = factor * w.gamma.to(x.dtype)
        # Not folded into one factor and shift: far from zero, that would lose the precision of x - mean.
        y = x - self._along(mean, x)
        factor = self._along(factor, x)
        if not self.center:
            y = y * factor
        elif torch.is_grad_enabled():
            y = torch.addcmul(self._along(w.beta.to(x.dtype), x), y, factor)
        else:
            y = torch.addcmul(self._along(w.beta.to(x.dtype), x), y, factor, out=y)
        return y.to(torch_dtype(self.compute_dtype))

    def _is_fused(self, context: CallContext, x: torch.Tensor) -> bool:
        """Whether Keras 2 uses its fused kernel, which ignores masks and has the unbiased variance."""
        return (
            x.ndim in context.rules.unbiased_ranks
            and self.has_one_axis
            and self.axis % x.ndim in (1, x.ndim - 1)
            and not (self.renorm or self._is_synchronized)
            and self.compute_dtype != "float64"
        )

    @property
    def _is_synchronized(self) -> bool:
        # Keras 2 up to 2.11 has a class for it.
        form = self.stored_form
        return self.synchronized or (form is not None and form.content.get("class_name") == "SyncBatchNormalization")

    def _correction(self, context: CallContext, x: torch.Tensor, fused: bool) -> float:
        """The factor of the moving variance, by the n values of the whole batch that each variance is of."""
        if not fused and not context.rules.sample_variance:
            return 1.0
        count: int = x.numel() // math.prod(x.shape[axis] for axis in self._axes)
        if context.shard is not None:
            count = count // context.shard.count * context.shard.total
        if fused:
            return count / max(count - 1, 1)
        return count / (count - 1.0 - self.epsilon)

    @property
    def keeps_statistics(self) -> bool:
        """False while frozen: in most releases the layer then computes as in inference."""
        return self.trainable

    def as_affine(self, w: Weights) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns (factor, shift): inference computes x * factor + shift along the axis."""
        factor = torch.rsqrt(w.moving_variance + self.epsilon)
        if self.scale:
            factor = factor * w.gamma
        shift = w.moving_mean * factor
        return factor, w.beta - shift if self.center else -shift

    def _along(self, values: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Reshapes one value per index of the axis so that it broadcasts."""
        if not self.has_one_axis or self.axis % x.ndim == x.ndim - 1:
            return values
        shape = [1] * x.ndim
        shape[self.axis] = -1
        return values.reshape(shape)

    def _moments(
        self, x: torch.Tensor, mask: torch.Tensor | None, shard: Shard | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and biased variance of the whole batch, all workers' rows included, without masked timesteps."""
        kept = {axis % x.ndim for axis in self._axes}
        axes, wide = tuple(axis for axis in range(x.ndim) if axis not in kept), len(kept) > 1
        if mask is None and shard is not None:
            values = math.prod(x.shape[axis] for axis in axes) // shard.count * shard.total
            mean = shard.summed(x.sum(axes, keepdim=wide)) / values
            return mean, shard.summed((x - self._along(mean, x)).square().sum(axes, keepdim=wide)) / values
        if mask is None:
            variance, mean = torch.var_mean(x, axes, correction=0, keepdim=wide)
            return mean, variance
        if mask.ndim != x.ndim - 1:
            raise DataError(
                f"layer '{self.name}' (BatchNormalization): mask has {mask.ndim} axes, expected {x.ndim - 1}"
            )
        counted = mask.bool().unsqueeze(-1).expand(x.shape)
        weights = (mask if self.mask_rule == "weights" else mask.bool()).unsqueeze(-1).expand(x.shape).to(x.dtype)
        whole = shard.summed if shard is not None else lambda own: own
        count = whole(weights.sum(axes, keepdim=wide)) + EPSILON
        mean = whole((x.where(counted, 0) * weights).sum(axes, keepdim=wide)) / count
        squares = (x - self._along(mean, x)).where(counted, 0).square()
        variance = whole((squares * weights).sum(axes, keepdim=wide)) / count
        return mean, variance

    def _renormalized(self, w: Weights, x: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        """Computes training's outputs with renormalization, and updates the averages."""
        factor, summand = corrections(w, mean, variance, self.epsilon, self.renorm_clipping)
        if not torch.is_inference_mode_enabled():
            deviation = torch.sqrt(variance + self.epsilon)
            self._update(w.renorm_mean, mean, self.renorm_momentum)
            self._update(w.renorm_stddev, deviation, self.renorm_momentum)
            self._update(w.moving_mean, mean, self.momentum)
            self._update(w.moving_stddev, deviation, self.momentum)
            # No average has a gradient.
            w.moving_variance.copy_((w.moving_stddev.square() - self.epsilon).clamp_min(0))
        y = (x - self._along(mean, x)) * self._along(torch.rsqrt(variance + self.epsilon), x)
        y = y * self._along(factor, x) + self._along(summand, x)
        y = y * self._along(w.gamma, x) if self.scale else y
        return y + self._along(w.beta, x) if self.center else y

    @staticmethod
    def _update(moving: torch.Tensor, batch: torch.Tensor, momentum: float, factor: float = 1.0) -> None:
        """Moves an average to a batch's value, multiplied by `factor`."""
        with torch.no_grad():
            moving.mul_(momentum).add_(batch.detach().to(moving.dtype), alpha=(1 - momentum) * factor)

    def get_config(self) -> dict[str, Any]:
        """Keras's config. It has the options of renormalization, which most releases lack, only if that is used."""
        config = super().get_config()
        return config if self.renorm else {key: value for key, value in config.items() if key not in _RENORM}


LAYERS: dict[str, type[Layer]] = {"BatchNormalization": BatchNormalization}
