"""Layers that add noise or penalties in training (keras.layers.regularization)."""

from __future__ import annotations

import math
from typing import Any

import torch

from layergraph.config.options import (
    anything,
    boolean,
    fraction,
    list_of,
    nonnegative,
    one_of,
    option,
    optional,
    positive_int,
)
from layergraph.functional.call_context import CallContext
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.regularizers import L1L2, Regularizer


def dropped(
    context: CallContext, x: torch.Tensor, rate: float, noise_shape: tuple[int, ...] | None = None
) -> torch.Tensor:
    """Returns x with a fraction `rate` set to 0 and the rest scaled by 1 / (1 - rate).

    Elements that share an element of `noise_shape`, which broadcasts to x, are dropped together.
    """
    return x * dropout_mask(context, x, rate, noise_shape)


def dropout_mask(
    context: CallContext, x: torch.Tensor, rate: float, noise_shape: tuple[int, ...] | torch.Size | None = None
) -> torch.Tensor:
    """Returns dropout factors: 0 with probability `rate`, else 1 / (1 - rate). Dtype and device are those of x."""
    keep = 1.0 - rate
    mask = context.drawn(noise_shape or x.shape, x, lambda empty: empty.bernoulli_(keep, generator=context.generator))
    return mask.mul_(1 / keep if keep else 0.0)


def _normal(context: CallContext, x: torch.Tensor, mean: float, stddev: float) -> torch.Tensor:
    return context.drawn(x.shape, x, lambda empty: empty.normal_(mean, stddev, generator=context.generator))


class Dropout(Layer):
    """In training sets a fraction `rate` of the inputs to 0 and scales the rest to keep the sum (keras.layers.Dropout).

    noise_shape   shape of the random mask, which broadcasts to the inputs; None on an axis means the inputs' length
    seed          kept for saving only; the context's generator is used
    """

    rate: float = option(fraction)
    noise_shape: Any = option(optional(list_of(optional(positive_int))), default=None)
    seed: Any = option(anything, default=None)

    supports_masking = True

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Returns the inputs, in training with dropout."""
        if not context.training or not self.rate:
            return x
        return dropped(context, x, self.rate, _concrete(self.noise_shape, x))


def _concrete(noise_shape: Any, x: torch.Tensor) -> tuple[int, ...] | None:
    if noise_shape is None:
        return None
    return tuple(x.shape[axis] if length is None else length for axis, length in enumerate(noise_shape))


class AlphaDropout(Layer):
    """Dropout that preserves mean and variance after SELU (keras.layers.AlphaDropout; Klambauer et al., 2017)."""

    rate: float = option(fraction)
    noise_shape: Any = option(optional(list_of(optional(positive_int))), default=None)
    seed: Any = option(anything, default=None)

    supports_masking = True

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Returns the inputs, in training a * (x or SELU's lower bound) + b."""
        if not context.training or not self.rate:
            return x
        lowest = -1.6732632423543772 * 1.0507009873554805
        shape = _concrete(self.noise_shape, x) or x.shape
        kept = context.drawn(shape, x, lambda empty: empty.bernoulli_(1 - self.rate, generator=context.generator))
        a = ((1 - self.rate) * (1 + self.rate * lowest**2)) ** -0.5 if self.rate < 1 else 0.0
        return a * (x * kept + lowest * (1 - kept)) - a * lowest * self.rate


class GaussianDropout(Layer):
    """In training multiplies by noise of mean 1 and variance rate / (1 - rate) (keras.layers.GaussianDropout)."""

    rate: float = option(fraction)
    seed: Any = option(anything, default=None)

    supports_masking = True

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Returns the inputs, in training multiplied by noise."""
        if not context.training or not self.rate:
            return x
        stddev = math.sqrt(self.rate / (1 - self.rate)) if self.rate < 1 else math.inf
        return x * _normal(context, x, 1.0, stddev)


class GaussianNoise(Layer):
    """In training adds noise of mean 0 and standard deviation `stddev` (keras.layers.GaussianNoise)."""

    stddev: float = option(nonnegative)
    seed: Any = option(anything, default=None)

    supports_masking = True

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Returns the inputs, in training plus noise."""
        return x + _normal(context, x, 0.0, self.stddev) if context.training and self.stddev else x


class _SpatialDropout(Layer):
    """Drops entire channels: each is kept or dropped at all positions."""

    rate: float = option(fraction)
    seed: Any = option(anything, default=None)

    supports_masking = True
    regularizes_activity = False

    def noise_shape(self, x: torch.Tensor) -> tuple[int, ...]:
        """Returns the shape of the random mask: rows and channels."""
        return (x.shape[0], *[1] * (x.ndim - 2), x.shape[-1])

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Returns the inputs, in training without the dropped channels."""
        return dropped(context, x, self.rate, self.noise_shape(x)) if context.training and self.rate else x

    def get_config(self) -> dict[str, Any]:
        """Keras 3's config; `trainable` is left out, since Keras's constructor doesn't accept it."""
        config = super().get_config()
        del config["trainable"]
        return config


class SpatialDropout1D(_SpatialDropout):
    """Drops channels of (rows, timesteps, channels) (keras.layers.SpatialDropout1D)."""


class _ChannelSpatialDropout(_SpatialDropout):
    data_format: Any = option(optional(one_of("channels_last", "channels_first")), default=None)
    # Declared again, since Keras has it after `data_format`.
    seed: Any = option(anything, default=None)

    def setup(self) -> None:
        self.data_format = self.data_format or "channels_last"

    def noise_shape(self, x: torch.Tensor) -> tuple[int, ...]:
        """Returns the shape of the random mask: rows and channels."""
        if self.data_format == "channels_first":
            return (*x.shape[:2], *[1] * (x.ndim - 2))
        return super().noise_shape(x)


class SpatialDropout2D(_ChannelSpatialDropout):
    """Drops channels of images (keras.layers.SpatialDropout2D)."""


class SpatialDropout3D(_ChannelSpatialDropout):
    """Drops channels of volumes (keras.layers.SpatialDropout3D)."""


class ActivityRegularization(Layer):
    """Adds (l1 * sum |x| + l2 * sum x^2) / batch size to the loss (keras.layers.ActivityRegularization)."""

    l1: float = option(nonnegative, default=0.0)
    l2: float = option(nonnegative, default=0.0)

    supports_masking = True
    regularizes_activity = False

    def setup(self) -> None:
        self.activity_regularizer = L1L2(self.l1, self.l2)

    def get_config(self) -> dict[str, Any]:
        """Keras 3's config: `l1` and `l2` instead of the regularizer."""
        return {key: value for key, value in super().get_config().items() if key != "activity_regularizer"}

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return x


class _Added(Regularizer):
    """What `Model.add_loss` adds: a number as it is. Of several, Keras 2 shows the mean, but follows the sum."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        total = x.sum()
        return total - (total - x.mean()).detach()


class AddLoss(Layer):
    """Adds its input to the loss: how tf.keras stores a call of `Model.add_loss`.

    unconditional   kept for saving only
    """

    unconditional: bool = option(boolean, default=False)

    regularizes_activity = False
    is_end = True

    def setup(self) -> None:
        """Creates what is added."""
        self.activity_regularizer = _Added()

    def penalize(self, context: CallContext, outputs: Any) -> None:
        """Adds the output to the context's losses, not divided by the number of rows."""
        if context.losses is not None:
            context.losses.append(self.activity_regularizer(outputs))

    def get_config(self) -> dict[str, Any]:
        """tf.keras's config, without the regularizer."""
        return {key: value for key, value in super().get_config().items() if key != "activity_regularizer"}

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return x


class AddMetric(Layer):
    """Returns its input: how tf.keras stores a call of `Model.add_metric`. Logs don't have the metric.

    aggregation, metric_name   kept for saving only
    """

    aggregation: str | None = option(anything, default=None)
    metric_name: str | None = option(anything, default=None)

    regularizes_activity = False
    is_end = True

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return x


LAYERS: dict[str, type[Layer]] = {
    "ActivityRegularization": ActivityRegularization,
    "AddLoss": AddLoss,
    "AddMetric": AddMetric,
    "AlphaDropout": AlphaDropout,
    "Dropout": Dropout,
    "GaussianDropout": GaussianDropout,
    "GaussianNoise": GaussianNoise,
    "SpatialDropout1D": SpatialDropout1D,
    "SpatialDropout2D": SpatialDropout2D,
    "SpatialDropout3D": SpatialDropout3D,
}
