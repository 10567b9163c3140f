"""Batch normalization (keras.layers.BatchNormalization)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import Expected, anything, boolean, fraction, integer, nonnegative, option
from layergraph.constraints import constraint
from layergraph.errors import ConfigError, DataError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.layer import Layer
from layergraph.functional.shard import Shard
from layergraph.functional.weights import Weights
from layergraph.initializers import initializer
from layergraph.layers.normalization.weights import AffineLayer, axis_length, wide
from layergraph.regularizers import regularizer

#: Keras's backend.epsilon(), which prevents a division by zero in a masked mean.
EPSILON = 1e-7

#: Options of batch renormalization, which isn't supported.
_RENORM = ("renorm", "renorm_clipping", "renorm_momentum")


def single_axis(value: Any) -> int:
    """Validator: one axis; old files have a list with one axis."""
    if isinstance(value, (list, tuple)) and len(value) == 1:
        value = value[0]
    if isinstance(value, (list, tuple)):
        raise Expected("one axis")
    return integer(value)


class BatchNormalization(AffineLayer):
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, with one mean and variance per index of `axis`.

    In training these are the batch's (biased variance, masked timesteps left out), and the moving averages are updated:
    moving * momentum + batch's * (1 - momentum). In inference, and if the layer isn't trainable, the moving averages
    are used (keras.layers.BatchNormalization).
    """

    axis: int = option(single_axis, default=-1)
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
    renorm_clipping: Any = option(anything, default=None)
    renorm_momentum: Any = option(anything, default=0.99)
    synchronized: bool = option(boolean, default=False)

    supports_masking = True

    def setup(self) -> None:
        """Raises ConfigError for renormalization."""
        if self.renorm:
            raise ConfigError("BatchNormalization: option 'renorm' is true, expected false: it is not supported")

    def build(self, input_shape: Any) -> None:
        """Creates gamma, beta and the moving averages."""
        length = axis_length(self, input_shape, self.axis)
        self.add_affine([length], gamma=self.scale, beta=self.center)
        for name, first in (
            ("moving_mean", self.moving_mean_initializer),
            ("moving_variance", self.moving_variance_initializer),
        ):
            self.add_weight(name, (length,), first, trainable=False, autocast=False)

    def forward(
        self, context: CallContext, w: Weights, x: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Computes the outputs. Raises DataError in training if a mask's rank isn't one less than the inputs'."""
        x = wide(x)
        if context.training and self.trainable:
            mean, variance = self._moments(x, mask, context.shard)
            # Serving runs in inference mode: a call with training=True must not change the served model.
            if not torch.is_inference_mode_enabled():
                self._update(w.moving_mean, mean)
                self._update(w.moving_variance, variance)
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

    @property
    def keeps_statistics(self) -> bool:
        """False while frozen: the layer then computes as in inference."""
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
        if self.axis % x.ndim == x.ndim - 1:
            return values
        shape = [1] * x.ndim
        shape[self.axis] = -1
        return values.reshape(shape)

    def _moments(
        self, x: torch.Tensor, mask: torch.Tensor | None, shard: Shard | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and biased variance of the whole batch, all workers' rows included, without masked timesteps."""
        axes = tuple(axis for axis in range(x.ndim) if axis != self.axis % x.ndim)
        if mask is None and shard is not None:
            values = x.numel() // x.shape[self.axis] // shard.count * shard.total
            mean = shard.summed(x.sum(axes)) / values
            return mean, shard.summed((x - self._along(mean, x)).square().sum(axes)) / values
        if mask is None:
            variance, mean = torch.var_mean(x, axes, correction=0)
            return mean, variance
        if mask.ndim != x.ndim - 1:
            raise DataError(
                f"layer '{self.name}' (BatchNormalization): mask has {mask.ndim} axes, expected {x.ndim - 1}"
            )
        counts = mask.bool().unsqueeze(-1).expand(x.shape)
        whole = shard.summed if shard is not None else lambda own: own
        count = whole(counts.to(x.dtype).sum(axes)) + EPSILON
        mean = whole(x.where(counts, 0).sum(axes)) / count
        variance = whole((x - self._along(mean, x)).where(counts, 0).square().sum(axes)) / count
        return mean, variance

    def _update(self, moving: torch.Tensor, batch: torch.Tensor) -> None:
        with torch.no_grad():
            moving.mul_(self.momentum).add_(batch.to(moving.dtype), alpha=1 - self.momentum)

    def get_config(self) -> dict[str, Any]:
        """Keras's config, without the options of renormalization, which most releases don't accept."""
        config = super().get_config()
        for name in _RENORM:
            del config[name]
        return config


LAYERS: dict[str, type[Layer]] = {"BatchNormalization": BatchNormalization}
