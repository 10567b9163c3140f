"""Depthwise and separable convolutions (keras.layers.DepthwiseConv*, SeparableConv*)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import anything, boolean, option, positive_int
from layergraph.constraints import constraint
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.initializers import initializer
from layergraph.layers.activation_functions import Activation
from layergraph.layers.activations import activation
from layergraph.layers.convolutional.convolution import WindowedConvolution, kernel_memory_order, pointwise
from layergraph.layers.spatial import data_format, padding
from layergraph.regularizers import regularizer


def depthwise_kernel(kernel: torch.Tensor) -> torch.Tensor:
    """Reshapes a kernel (*spatial, channels, multiplier) to `channels` groups: (*spatial, 1, channels * multiplier).

    A view, since the multiplier is the fastest axis in both.
    """
    return kernel.flatten(-2).unsqueeze(-2)


class _DepthwiseConvolution(WindowedConvolution):
    """Convolves each channel with its own `depth_multiplier` kernels, plus bias and activation.

    Input (rows, *spatial, channels), kernel (*kernel_size, channels, depth_multiplier), output
    (rows, *spatial, channels * depth_multiplier), where the multiplier is the fastest index.
    """

    kernel_size: Any = option(anything)
    strides: Any = option(anything, default=1)
    padding: str = option(padding, default="valid")
    depth_multiplier: int = option(positive_int, default=1)
    data_format: str = option(data_format, default=None)
    dilation_rate: Any = option(anything, default=1)
    activation: Activation = option(activation, default=None)
    use_bias: bool = option(boolean, default=True)
    depthwise_initializer: Any = option(initializer, default="glorot_uniform")
    bias_initializer: Any = option(initializer, default="zeros")
    depthwise_regularizer: Any = option(regularizer, default=None)
    bias_regularizer: Any = option(regularizer, default=None)
    activity_regularizer = option(regularizer, default=None)
    depthwise_constraint: Any = option(constraint, default=None)
    bias_constraint: Any = option(constraint, default=None)

    def build(self, input_shape: Any) -> None:
        channels = self.channels_of(input_shape)
        self.add_weight_by_options("kernel", (*self.kernel_size, channels, self.depth_multiplier), options="depthwise")
        self.add_bias(channels * self.depth_multiplier)
        self.build_activation(input_shape)

    def convolved(self, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes each channel's convolutions, plus bias."""
        groups = w.kernel.shape[-2]
        return self.convolve(x, depthwise_kernel(w.kernel), w.bias if self.use_bias else None, groups)


class DepthwiseConv1D(_DepthwiseConvolution):
    """Depthwise convolution over one axis (keras.layers.DepthwiseConv1D)."""

    rank = 1


class DepthwiseConv2D(_DepthwiseConvolution):
    """Depthwise convolution over images (keras.layers.DepthwiseConv2D)."""

    rank = 2


class _SeparableConvolution(WindowedConvolution):
    """A depthwise convolution, then a pointwise one that mixes the channels, plus bias and activation.

    Input (rows, *spatial, channels), depthwise kernel (*kernel_size, channels, depth_multiplier), pointwise kernel
    (1, ..., channels * depth_multiplier, filters), output (rows, *spatial, filters).
    """

    filters: int = option(positive_int)
    kernel_size: Any = option(anything)
    strides: Any = option(anything, default=1)
    padding: str = option(padding, default="valid")
    data_format: str = option(data_format, default=None)
    dilation_rate: Any = option(anything, default=1)
    depth_multiplier: int = option(positive_int, default=1)
    activation: Activation = option(activation, default=None)
    use_bias: bool = option(boolean, default=True)
    depthwise_initializer: Any = option(initializer, default="glorot_uniform")
    pointwise_initializer: Any = option(initializer, default="glorot_uniform")
    bias_initializer: Any = option(initializer, default="zeros")
    depthwise_regularizer: Any = option(regularizer, default=None)
    pointwise_regularizer: Any = option(regularizer, default=None)
    bias_regularizer: Any = option(regularizer, default=None)
    activity_regularizer = option(regularizer, default=None)
    depthwise_constraint: Any = option(constraint, default=None)
    pointwise_constraint: Any = option(constraint, default=None)
    bias_constraint: Any = option(constraint, default=None)

    def build(self, input_shape: Any) -> None:
        channels = self.channels_of(input_shape)
        self.add_weight_by_options(
            "depthwise_kernel", (*self.kernel_size, channels, self.depth_multiplier), options="depthwise"
        )
        self.add_weight_by_options(
            "pointwise_kernel",
            (*[1] * self.rank, channels * self.depth_multiplier, self.filters),
            options="pointwise",
            memory_order=kernel_memory_order(self.rank, self.channels_first),
        )
        self.add_bias(self.filters)
        self.build_activation(input_shape)

    def convolved(self, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes both convolutions, plus bias."""
        groups = w.depthwise_kernel.shape[-2]
        y = self.convolve(x, depthwise_kernel(w.depthwise_kernel), None, groups)
        y = pointwise(self.to_torch(y), w.pointwise_kernel, w.bias if self.use_bias else None)
        return self.from_torch(y)


class SeparableConv1D(_SeparableConvolution):
    """Separable convolution over one axis; padding='causal' as in tf.keras (keras.layers.SeparableConv1D)."""

    rank = 1
    causal = True


class SeparableConv2D(_SeparableConvolution):
    """Separable convolution over images (keras.layers.SeparableConv2D)."""

    rank = 2


LAYERS: dict[str, type[Layer]] = {
    "DepthwiseConv1D": DepthwiseConv1D,
    "DepthwiseConv2D": DepthwiseConv2D,
    "SeparableConv1D": SeparableConv1D,
    "SeparableConv2D": SeparableConv2D,
}
