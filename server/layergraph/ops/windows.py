"""Pooling and convolution with tensors as kernels (keras.ops.nn)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional

from layergraph.config.options import anything, nonnegative_int, option, sizes
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.layers import pooling
from layergraph.layers import pooling_global as pooling_whole
from layergraph.layers.convolutional import convolution as convolutional
from layergraph.layers.convolutional import depthwise as convolutional_depthwise
from layergraph.layers.convolutional import transpose as convolutional_transpose
from layergraph.ops.operation import Operation


class _Window(Operation):
    keras_module = "keras.src.ops.nn"


def _of_rank(layers: dict[str, type[Layer]], name: str, x: torch.Tensor, ending: str = "D") -> type[Layer]:
    """The layer class of that name for the number of x's spatial axes. Raises GraphError if there is none."""
    known = layers.get(f"{name}{x.ndim - 2}{ending}")
    if known is None:
        raise GraphError(f"got an input of {x.ndim} axes, expected rows, channels, and 1 to 3 more")
    return known


class _Pool(_Window):
    pool_size: Any = option(anything)
    strides: Any = option(anything, default=None)
    padding: Any = option(anything, default="valid")
    data_format: Any = option(anything, default=None)

    layer_name = ""

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> Any:
        kind = _of_rank(pooling.LAYERS, self.layer_name, inputs)
        layer = kind(
            pool_size=self.pool_size,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            name="op",
        )
        return layer.forward(context, w, inputs)


class MaxPool(_Pool):
    """keras.ops.max_pool."""

    layer_name = "MaxPooling"


class AveragePool(_Pool):
    """keras.ops.average_pool."""

    layer_name = "AveragePooling"


class _AdaptivePool(_Window):
    output_size: Any = option(anything)
    data_format: Any = option(anything, default=None)

    layer_name = ""

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> Any:
        """One value per window, with the windows determined by the output size."""
        kind = _of_rank(pooling_whole.LAYERS, self.layer_name, inputs)
        layer = kind(output_size=self.output_size, data_format=self.data_format, name="op")
        return layer.forward(context, w, inputs)


class AdaptiveMaxPool(_AdaptivePool):
    """keras.ops.adaptive_max_pool."""

    layer_name = "AdaptiveMaxPooling"


class AdaptiveAveragePool(_AdaptivePool):
    """keras.ops.adaptive_average_pool."""

    layer_name = "AdaptiveAveragePooling"


class _Convolve(_Window):
    strides: Any = option(anything, default=1)
    padding: Any = option(anything, default="valid")
    data_format: Any = option(anything, default=None)
    dilation_rate: Any = option(anything, default=1)

    def options(self, kernel: torch.Tensor) -> dict[str, Any]:
        """Options of the layer that computes the convolution."""
        return {
            "kernel_size": tuple(kernel.shape[:-2]),
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
            "dilation_rate": self.dilation_rate,
            "use_bias": False,
            "name": "op",
        }


class Conv(_Convolve):
    """The convolution (keras.ops.conv)."""

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor, kernel: Any) -> torch.Tensor:  # type: ignore[override]
        kernel = torch.as_tensor(kernel, device=inputs.device)
        kind: Any = _of_rank(convolutional.LAYERS, "Conv", inputs)
        layer = kind(filters=kernel.shape[-1], **self.options(kernel))
        channels = layer.channels_of(inputs.shape)
        result: torch.Tensor = layer.convolve(inputs, kernel, None, channels // kernel.shape[-2])
        return result


class DepthwiseConv(_Convolve):
    """The convolution of each channel with its own kernels (keras.ops.depthwise_conv)."""

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor, kernel: Any) -> torch.Tensor:  # type: ignore[override]
        kernel = torch.as_tensor(kernel, device=inputs.device)
        kind: Any = _of_rank(convolutional_depthwise.LAYERS, "DepthwiseConv", inputs)
        layer = kind(depth_multiplier=kernel.shape[-1], **self.options(kernel))
        flat = convolutional_depthwise.depthwise_kernel(kernel)
        result: torch.Tensor = layer.convolve(inputs, flat, None, kernel.shape[-2])
        return result


class ConvTranspose(_Convolve):
    """The transposed convolution (keras.ops.conv_transpose)."""

    strides: Any = option(anything, default=1)
    padding: Any = option(anything, default="valid")
    output_padding: Any = option(anything, default=None)
    data_format: Any = option(anything, default=None)
    dilation_rate: Any = option(anything, default=1)

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor, kernel: Any) -> torch.Tensor:  # type: ignore[override]
        kernel = torch.as_tensor(kernel, device=inputs.device)
        kind: Any = _of_rank(convolutional_transpose.LAYERS, "Conv", inputs, "DTranspose")
        layer = kind(filters=kernel.shape[-2], output_padding=self.output_padding, **self.options(kernel))
        result: torch.Tensor = layer.convolved(SimpleNamespace(kernel=kernel), inputs)
        return result


class SeparableConv(_Convolve):
    """A depthwise convolution followed by a pointwise one (keras.ops.separable_conv)."""

    def forward(  # type: ignore[override]
        self, context: CallContext, w: Weights, inputs: torch.Tensor, depthwise_kernel: Any, pointwise_kernel: Any
    ) -> torch.Tensor:
        depthwise = DepthwiseConv(self.strides, self.padding, self.data_format, self.dilation_rate, name="op")
        pointwise = Conv(1, "valid", self.data_format, name="op")
        return pointwise.forward(context, w, depthwise.forward(context, w, inputs, depthwise_kernel), pointwise_kernel)


class Unfold(_Window):
    """The windows of images (rows, channels, height, width) as columns (keras.ops.unfold)."""

    kernel_size: Any = option(sizes(2))
    dilation: Any = option(sizes(2), default=1)
    padding: Any = option(sizes(2, nonnegative_int), default=0)
    stride: Any = option(sizes(2), default=1)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return functional.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)


class Fold(_Window):
    """Images (rows, channels, *output_size) as sums of columns (keras.ops.fold)."""

    output_size: Any = option(sizes(2))
    kernel_size: Any = option(sizes(2))
    dilation: Any = option(sizes(2), default=1)
    padding: Any = option(sizes(2, nonnegative_int), default=0)
    stride: Any = option(sizes(2), default=1)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return functional.fold(x, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)


OPERATIONS: dict[str, type[Operation]] = {
    "Fold": Fold,
    "Unfold": Unfold,
    "SeparableConv": SeparableConv,
    "ConvTranspose": ConvTranspose,
    "AdaptiveAveragePool": AdaptiveAveragePool,
    "AdaptiveMaxPool": AdaptiveMaxPool,
    "AveragePool": AveragePool,
    "Conv": Conv,
    "DepthwiseConv": DepthwiseConv,
    "MaxPool": MaxPool,
}
