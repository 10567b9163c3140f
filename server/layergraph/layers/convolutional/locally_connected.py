"""Convolutions with a separate kernel per window (tf.keras.layers.LocallyConnected1D, LocallyConnected2D)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from layergraph.config.options import Expected, anything, boolean, integer, option, positive_int
from layergraph.constraints import constraint
from layergraph.errors import ConfigError, GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.layer import Layer
from layergraph.functional.tensor import History, Tensor
from layergraph.functional.weights import Weights
from layergraph.initializers import initializer
from layergraph.layers.activation_functions import Activation
from layergraph.layers.activations import activate, activation, adopt_activation
from layergraph.layers.spatial import SpatialLayer, data_format, padding
from layergraph.regularizers import regularizer

#: Pairs of window and input that overlap, with the place within the window: (window, place, input), in C order.
Overlaps = Iterator[tuple[int, int, int]]


def _implementation(value: Any) -> int:
    number = integer(value)
    if number not in (1, 2, 3):
        raise Expected("1, 2 or 3")
    return number


class _LocallyConnected(SpatialLayer):
    """activation(x * kernel + bias) with a separate kernel and bias per window.

    Input (rows, *spatial, channels), output (rows, *windows, filters); with data_format='channels_first' channels and
    filters are axis 1.

    implementation   how the kernel is stored: 1 as (windows, places in a window * channels, filters), places and
                     channels in C order (channels first if the data format is); 2 as the dense matrix from all inputs
                     to all outputs, of which only entries within a window are used; 3 as these entries of the matrix
                     (outputs, inputs), in C order
    """

    filters: int = option(positive_int)
    kernel_size: Any = option(anything)
    strides: Any = option(anything, default=1)
    padding: str = option(padding, default="valid")
    data_format: str = option(data_format, default=None)
    activation: Activation = option(activation, default=None)
    use_bias: bool = option(boolean, default=True)
    kernel_initializer: Any = option(initializer, default="glorot_uniform")
    bias_initializer: Any = option(initializer, default="zeros")
    kernel_regularizer: Any = option(regularizer, default=None)
    bias_regularizer: Any = option(regularizer, default=None)
    activity_regularizer = option(regularizer, default=None)
    kernel_constraint: Any = option(constraint, default=None)
    bias_constraint: Any = option(constraint, default=None)
    implementation: int = option(_implementation, default=1)

    def setup(self) -> None:
        """Expands sizes to one value per axis. Raises ConfigError for implementation 1 with padding."""
        for name in ("kernel_size", "strides"):
            self.each_axis(name)
        self.check_padding(self.padding)
        if self.padding != "valid" and self.implementation == 1:
            raise ConfigError(
                f"{type(self).__name__}: option 'padding' is {self.padding!r}, expected 'valid' with implementation 1"
            )
        adopt_activation(self, self.activation)

    def build(self, input_shape: Any) -> None:
        """Creates kernel and bias. Raises GraphError if a length is unknown, or shorter than a window."""
        channels = self.channels_of(input_shape)
        lengths = tuple(input_shape[axis] for axis in self.spatial_axes)
        if any(length is None for length in lengths):
            raise GraphError(
                f"layer '{self.name}' ({type(self).__name__}): got shape {input_shape}, expected known lengths of all "
                "axes but the batch axis"
            )
        windows = self._windows(lengths)
        if min(windows) < 1:
            raise GraphError(
                f"layer '{self.name}' ({type(self).__name__}): got lengths {lengths}, expected at least the "
                f"kernel size {self.kernel_size}"
            )
        self.add_weight_by_options("kernel", self._kernel_shape(lengths, windows, channels))
        if self.use_bias:
            self.add_weight_by_options("bias", (*windows, self.filters))
        if isinstance(self.activation, Layer):
            shape = (input_shape[0], *self._ordered(windows, self.filters))
            self.activation.build_for((Tensor(shape, self.compute_dtype, History(self, 0, 0)),))

    def _windows(self, lengths: tuple[int, ...]) -> tuple[int, ...]:
        """Number of windows along each axis."""
        sizes = zip(lengths, self.kernel_size, self.strides, strict=True)
        if self.padding == "same":
            return tuple(-(-length // stride) for length, _, stride in sizes)
        return tuple((length - size) // stride + 1 for length, size, stride in sizes)

    def _kernel_shape(self, lengths: tuple[int, ...], windows: tuple[int, ...], channels: int) -> tuple[int, ...]:
        if self.implementation == 1:
            return (math.prod(windows), math.prod(self.kernel_size) * channels, self.filters)
        if self.implementation == 2:
            if self.channels_first:
                return (channels, *lengths, self.filters, *windows)
            return (*lengths, channels, *windows, self.filters)
        axes = zip(lengths, windows, self.kernel_size, self.strides, strict=True)
        overlaps = math.prod(sum(1 for _ in self._along(*axis)) for axis in axes)
        return (overlaps * channels * self.filters,)

    def _along(self, length: int, windows: int, size: int, stride: int) -> Overlaps:
        """Yields the overlaps of windows and inputs along one axis."""
        # With 'same' padding Keras centres windows on every stride-th input, unlike in a convolution.
        before = size // 2 if self.padding == "same" else 0
        for window in range(windows):
            for place in range(size):
                at = window * stride + place - before
                if 0 <= at < length:
                    yield window, place, at

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        x = x.to(w.kernel.dtype)
        lengths = self.lengths(x)
        windows = self._windows(lengths)
        if self.implementation == 1:
            y = self._by_windows(x, w.kernel, windows)
        else:
            y = self._by_matrix(x, self._matrix(w.kernel, x, lengths, windows))
            y = y.reshape(-1, *self._ordered(windows, self.filters))
        if self.use_bias:
            # The bias has the filters last. With channels_first Keras reshapes rather than transposes it.
            y = y + (w.bias.reshape(self.filters, *windows) if self.channels_first else w.bias)
        return activate(self.activation, context, w, y)

    def _ordered(self, sizes: tuple[int, ...], channels: int) -> tuple[int, ...]:
        return (channels, *sizes) if self.channels_first else (*sizes, channels)

    def _by_windows(self, x: torch.Tensor, kernel: torch.Tensor, windows: tuple[int, ...]) -> torch.Tensor:
        for axis, size, stride in zip(self.spatial_axes, self.kernel_size, self.strides, strict=True):
            x = x.unfold(axis, size, stride)
        # (rows, *windows, channels, *places) or (rows, channels, *windows, *places)
        channel_axis = 1 if self.channels_first else self.rank + 1
        x = x.movedim(channel_axis, self.rank + 1 if self.channels_first else -1)
        cut = x.reshape(x.shape[0], kernel.shape[0], kernel.shape[1])
        y = torch.einsum("nwp,wpf->nwf", cut, kernel)
        y = y.reshape(-1, *windows, self.filters)
        return y.movedim(-1, 1) if self.channels_first else y

    @staticmethod
    def _by_matrix(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        return x.reshape(x.shape[0], -1) @ matrix

    def _matrix(
        self, kernel: torch.Tensor, x: torch.Tensor, lengths: tuple[int, ...], windows: tuple[int, ...]
    ) -> torch.Tensor:
        """Returns the dense matrix (inputs, outputs) of implementations 2 and 3."""
        channels = x.shape[1 if self.channels_first else -1]
        inputs, outputs = math.prod(lengths) * channels, math.prod(windows) * self.filters
        overlapping = torch.ones((), dtype=torch.bool, device=kernel.device)
        for length, count, size, stride in zip(lengths, windows, self.kernel_size, self.strides, strict=True):
            one = torch.zeros(length, count, dtype=torch.bool)
            for window, _, at in self._along(length, count, size, stride):
                one[at, window] = True
            overlapping = overlapping[..., None, None] & one.to(kernel.device)
        # (in 1, out 1, in 2, out 2, ...) to (in ..., out ...), with an axis for the channels of each
        ins, outs = range(0, 2 * self.rank, 2), range(1, 2 * self.rank, 2)
        overlapping = overlapping.permute(*ins, *outs)
        overlapping = overlapping.unsqueeze(0 if self.channels_first else self.rank)
        overlapping = overlapping.unsqueeze(self.rank + 1 if self.channels_first else 2 * self.rank + 1)
        shape = (*self._ordered(lengths, channels), *self._ordered(windows, self.filters))
        overlapping = overlapping.expand(shape).reshape(inputs, outputs)
        if self.implementation == 2:
            return torch.where(overlapping, kernel.reshape(inputs, outputs), 0)
        if kernel.is_meta:
            return kernel.new_empty((inputs, outputs))
        flat = torch.zeros(outputs, inputs, dtype=kernel.dtype, device=kernel.device)
        return flat.masked_scatter(overlapping.t(), kernel).t()


class LocallyConnected1D(_LocallyConnected):
    """Separate kernels per window over one axis (tf.keras.layers.LocallyConnected1D)."""

    rank = 1


class LocallyConnected2D(_LocallyConnected):
    """Separate kernels per window over images (tf.keras.layers.LocallyConnected2D)."""

    rank = 2


LAYERS: dict[str, type[Layer]] = {"LocallyConnected1D": LocallyConnected1D, "LocallyConnected2D": LocallyConnected2D}
