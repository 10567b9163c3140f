"""Transposed convolutions (keras.layers.Conv1DTranspose, Conv2DTranspose, Conv3DTranspose)."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from layergraph.config.options import anything, boolean, nonnegative_int, option, positive_int
from layergraph.constraints import constraint
from layergraph.errors import ConfigError
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.initializers import initializer
from layergraph.layers.activation_functions import Activation
from layergraph.layers.activations import activation
from layergraph.layers.biases import convolution
from layergraph.layers.convolutional.convolution import WindowedConvolution, kernel_memory_order, kernel_to_torch
from layergraph.layers.spatial import data_format, padding
from layergraph.regularizers import regularizer


def transposed_length(length: int, window: int, stride: int, mode: str, output_padding: int | None) -> int:
    """Returns the output length of one axis (Keras's deconv_output_length); `window` is the dilated kernel's length."""
    if mode == "same":
        return length * stride if output_padding is None else (length - 1) * stride + window % 2 + output_padding
    extra = max(stride - window, 0) if output_padding is None else output_padding
    return (length - 1) * stride + window + extra


class _TransposedConvolution(WindowedConvolution):
    """The gradient of a convolution with respect to its input: every input step adds a kernel to the output.

    Input (rows, *spatial, channels), kernel (*kernel_size, filters, channels), output (rows, *spatial, filters). With
    padding='same' the output length is length * stride, unless `output_padding` is set.
    """

    filters: int = option(positive_int)
    kernel_size: Any = option(anything)
    strides: Any = option(anything, default=1)
    padding: str = option(padding, default="valid")
    output_padding: Any = option(anything, default=None)
    data_format: str = option(data_format, default=None)
    dilation_rate: Any = option(anything, default=1)
    activation: Activation = option(activation, default=None)
    use_bias: bool = option(boolean, default=True)
    kernel_initializer: Any = option(initializer, default="glorot_uniform")
    bias_initializer: Any = option(initializer, default="zeros")
    kernel_regularizer: Any = option(regularizer, default=None)
    bias_regularizer: Any = option(regularizer, default=None)
    activity_regularizer = option(regularizer, default=None)
    kernel_constraint: Any = option(constraint, default=None)
    bias_constraint: Any = option(constraint, default=None)

    def setup(self) -> None:
        """Checks strides against dilation and output padding. Raises ConfigError."""
        super().setup()
        self.refuse_strided_dilation()
        if self.output_padding is None:
            return
        self.each_axis("output_padding", nonnegative_int)
        if any(extra >= stride for extra, stride in zip(self.output_padding, self.strides, strict=True)):
            raise ConfigError(
                f"{type(self).__name__}: option 'output_padding' is {self.output_padding}, "
                f"expected less than strides, which are {self.strides}"
            )

    def build(self, input_shape: Any) -> None:
        channels = self.channels_of(input_shape)
        self.add_weight_by_options(
            "kernel",
            (*self.kernel_size, self.filters, channels),
            memory_order=kernel_memory_order(self.rank, self.channels_first),
        )
        self.add_bias(self.filters)
        self.build_activation(input_shape)

    def convolved(self, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes the transposed convolution, plus bias."""
        x = x.to(w.kernel.dtype)
        lengths = self.lengths(x)
        self.check_windows(lengths, [1] * self.rank)
        crops, extras, surplus = self._borders(lengths)
        transpose: Any = functional.conv_transpose3d if self.rank == 3 else functional.conv_transpose2d
        y = convolution(
            transpose,
            self.to_torch(x),
            kernel_to_torch(w.kernel),
            w.bias if self.use_bias else None,
            stride=self.torch_sizes(self.strides),
            padding=self.torch_sizes(crops, 0),
            output_padding=self.torch_sizes(extras, 0),
            dilation=self.torch_sizes(self.dilation_rate),
        )
        return self.cropped(self.from_torch(y), [(0, steps) for steps in surplus])

    def _borders(self, lengths: tuple[int, ...]) -> tuple[list[int], list[int], list[int]]:
        """Returns, per axis: steps that torch crops on both sides, steps that it adds after, and steps to crop after.

        TensorFlow crops as much before as 'same' padding of the forward convolution would add there.
        """
        crops, extras, surplus = [], [], []
        given = self.output_padding or [None] * self.rank
        for length, window, stride, extra in zip(lengths, self.windows, self.strides, given, strict=True):
            full = (length - 1) * stride + window
            wanted = transposed_length(length, window, stride, self.padding, extra)
            crop = max(full - wanted, 0) // 2
            natural = full - 2 * crop
            crops.append(crop)
            extras.append(max(wanted - natural, 0))
            surplus.append(max(natural - wanted, 0))
        return crops, extras, surplus


class Conv1DTranspose(_TransposedConvolution):
    """Transposed convolution over one axis (keras.layers.Conv1DTranspose)."""

    rank = 1


class Conv2DTranspose(_TransposedConvolution):
    """Transposed convolution over images (keras.layers.Conv2DTranspose)."""

    rank = 2


class Conv3DTranspose(_TransposedConvolution):
    """Transposed convolution over volumes (keras.layers.Conv3DTranspose)."""

    rank = 3


LAYERS: dict[str, type[Layer]] = {
    "Conv1DTranspose": Conv1DTranspose,
    "Conv2DTranspose": Conv2DTranspose,
    "Conv3DTranspose": Conv3DTranspose,
}
