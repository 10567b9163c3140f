"""Convolutions (keras.layers.Conv1D, Conv2D, Conv3D)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from layergraph.config.options import anything, boolean, option, positive_int
from layergraph.constraints import constraint
from layergraph.errors import ConfigError, GraphError
from layergraph.functional.binding import bind_meta
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.layer import Layer
from layergraph.functional.storage_layout import StorageLayout
from layergraph.functional.symbolic_dims import pairs
from layergraph.functional.tensor import History, Tensor
from layergraph.functional.weights import Weights
from layergraph.initializers import initializer
from layergraph.layers import biases
from layergraph.layers.activation_functions import Activation, activate, activation, adopt_activation
from layergraph.layers.spatial import Pads, SpatialLayer, data_format, padding, same_padding
from layergraph.regularizers import regularizer


class WindowedConvolution(SpatialLayer):
    """What convolutions over sliding windows share: a kernel (*kernel_size, inputs, outputs), strides and dilation."""

    storage = StorageLayout(null_regularizer=True)

    if TYPE_CHECKING:
        # Subclasses declare these options, where they stand in the order of Keras's arguments.
        @property
        def kernel_size(self) -> tuple[int, ...]: ...
        @property
        def strides(self) -> tuple[int, ...]: ...
        @property
        def dilation_rate(self) -> tuple[int, ...]: ...
        @property
        def padding(self) -> str: ...
        @property
        def activation(self) -> Activation: ...
        @property
        def use_bias(self) -> bool: ...
        @property
        def bias_initializer(self) -> Any: ...
        @property
        def bias_regularizer(self) -> Any: ...
        @property
        def bias_constraint(self) -> Any: ...

    def setup(self) -> None:
        """Brings sizes to one value an axis, and takes an activation layer in."""
        for name in ("kernel_size", "strides", "dilation_rate"):
            self.each_axis(name)
        self.check_padding(self.padding)
        adopt_activation(self, self.activation)

    def refuse_strided_dilation(self) -> None:
        """Raises ConfigError where both strides and dilation are above 1: Keras doesn't define that."""
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ConfigError(
                f"{type(self).__name__}: option 'strides' is {self.strides} with dilation_rate {self.dilation_rate}, "
                "expected one of them to be 1"
            )

    @property
    def windows(self) -> tuple[int, ...]:
        """Steps that a dilated kernel spans on each axis."""
        pairs = zip(self.kernel_size, self.dilation_rate, strict=True)
        return tuple((size - 1) * rate + 1 for size, rate in pairs)

    def convolved(self, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """The outputs before the activation."""
        raise NotImplementedError

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes the outputs."""
        return activate(self.activation, context, w, self.convolved(w, x))

    def build_activation(self, input_shape: Any) -> None:
        """Builds a layer that is the activation for what the convolution will give it. To be called last in `build`."""
        if not isinstance(self.activation, Layer):
            return
        w = bind_meta(self)
        dtype = torch_dtype(self.compute_dtype)
        sizes = [symbolic_dims.fill(input_shape) for symbolic_dims in next(pairs([input_shape]))]
        first, second = (self.convolved(w, torch.empty(size, dtype=dtype, device="meta")).shape for size in sizes)
        shape = tuple(a if a == b else None for a, b in zip(first, second, strict=True))
        self.activation.build_for((Tensor(shape, self.compute_dtype, History(self, 0, 0)),))

    def add_bias(self, channels: int) -> None:
        """Creates the bias, if there is one."""
        if self.use_bias:
            self.add_weight(
                "bias",
                (channels,),
                self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    def pads(self, lengths: tuple[int, ...]) -> Pads:
        """Zeros around each spatial axis. Raises DataError if no window fits."""
        windows = self.windows
        self.check_windows(lengths, windows if self.padding == "valid" else [1] * self.rank)
        if self.padding == "same":
            return [same_padding(*axis) for axis in zip(lengths, windows, self.strides, strict=True)]
        if self.padding == "causal":
            return [(window - 1, 0) for window in windows]
        return [(0, 0)] * self.rank

    def plain_convolution(self, x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        """The convolution of an input in Keras's layout, without strides, padding and dilation."""
        return self.from_torch(_convolution(self.to_torch(x), kernel_to_torch(kernel), None))

    def convolve(self, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None, groups: int) -> torch.Tensor:
        """The convolution of an input in Keras's layout with a kernel (*kernel_size, inputs / groups, outputs)."""
        x, padding = self.framed(x.to(kernel.dtype))
        y = _convolution(
            x,
            kernel_to_torch(kernel),
            bias,
            stride=self.torch_sizes(self.strides),
            padding=padding,
            dilation=self.torch_sizes(self.dilation_rate),
            groups=groups,
        )
        return self.from_torch(y)

    def framed(self, x: torch.Tensor, zeros: Pads | None = None) -> tuple[torch.Tensor, tuple[int, ...]]:
        """An input in Keras's layout as torch's convolutions take it, and the padding that is left to them.

        `zeros` are put around each spatial axis first.
        """
        zeros = zeros or [(0, 0)] * self.rank
        lengths = tuple(length + before + after for length, (before, after) in zip(self.lengths(x), zeros, strict=True))
        own = self.pads(lengths)
        pads = [(a + before, b + after) for (a, b), (before, after) in zip(own, zeros, strict=True)]
        x = self.to_torch(x)
        even = [before for before, after in pads if before == after]
        if len(even) < self.rank:
            # torch pads both sides alike; the rest is done here, the last axis first, as torch wants it. It stands
            # right before the convolution, where other engines take it for the convolution's own.
            x, even = functional.pad(x, [size for pair in reversed(pads) for size in pair]), [0] * self.rank
        return x, self.torch_sizes(even, 0)


def _convolution(x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None, **sizes: Any) -> torch.Tensor:
    convolution = functional.conv2d if x.ndim == 4 else functional.conv3d
    return biases.convolution(convolution, x, kernel, bias, **sizes)


def pointwise(x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """A convolution with windows of one step, of an input in torch's layout."""
    return _convolution(x, kernel_to_torch(kernel), bias)


def kernel_to_torch(kernel: torch.Tensor) -> torch.Tensor:
    """A view of a kernel (*spatial, a, b) as torch has it, (b, a, *spatial); of rank 1 with a height of 1."""
    if kernel.ndim == 3:
        kernel = kernel.unsqueeze(0)
    return kernel.movedim((-1, -2), (0, 1))


def kernel_memory_order(rank: int, channels_first: bool) -> tuple[int, ...]:
    """How a kernel (*spatial, a, b) lies in memory so that torch, which sees (b, a, *spatial), need not copy it.

    Its convolutions of channels-last images want channels-last kernels, (b, *spatial, a).
    """
    spatial = range(rank)
    return (rank + 1, rank, *spatial) if channels_first else (rank + 1, *spatial, rank)


class _Convolution(WindowedConvolution):
    """activation(kernel * x + bias) over sliding windows.

    Input (rows, *spatial, channels), kernel (*kernel_size, channels / groups, filters), output
    (rows, *spatial, filters); with data_format='channels_first' channels and filters come second.
    """

    filters: int = option(positive_int)
    kernel_size: Any = option(anything)
    strides: Any = option(anything, default=1)
    padding: str = option(padding, default="valid")
    data_format: str = option(data_format, default=None)
    dilation_rate: Any = option(anything, default=1)
    groups: int = option(positive_int, default=1)
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
        """Checks strides against dilation, and groups against filters."""
        super().setup()
        self.refuse_strided_dilation()
        if self.filters % self.groups:
            raise ConfigError(
                f"{type(self).__name__}: option 'groups' is {self.groups}, expected a divisor of {self.filters} filters"
            )

    def check_rank(self, rank: int) -> None:
        """Raises GraphError for an input without rows. tf.keras takes any number of axes as rows."""
        if rank < self.rank + 2 or (rank > self.rank + 2 and self.channels_first):
            super().check_rank(rank)

    def build(self, input_shape: Any) -> None:
        """Creates kernel and bias."""
        channels = self.channels_of(input_shape)
        if channels % self.groups:
            raise GraphError(
                f"layer '{self.name}' ({type(self).__name__}): got {channels} channels, expected a multiple of "
                f"groups, which is {self.groups}"
            )
        self.add_weight(
            "kernel",
            (*self.kernel_size, channels // self.groups, self.filters),
            self.kernel_initializer,
            memory_order=kernel_memory_order(self.rank, self.channels_first),
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        self.add_bias(self.filters)
        self.build_activation(input_shape)

    def convolved(self, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """kernel * x + bias."""
        bias = w.bias if self.use_bias else None
        if x.ndim > self.rank + 2:
            rows = x.shape[: -self.rank - 1]
            y = self.convolve(x.flatten(0, len(rows) - 1), w.kernel, bias, self.groups)
            return y.reshape(*rows, *y.shape[1:])
        return self.convolve(x, w.kernel, bias, self.groups)


class Conv1D(_Convolution):
    """Convolution over one axis; padding='causal' looks only back (keras.layers.Conv1D)."""

    rank = 1
    causal = True


class Conv2D(_Convolution):
    """Convolution over images (keras.layers.Conv2D)."""

    rank = 2


class Conv3D(_Convolution):
    """Convolution over volumes (keras.layers.Conv3D)."""

    rank = 3


LAYERS: dict[str, type[Layer]] = {"Conv1D": Conv1D, "Conv2D": Conv2D, "Conv3D": Conv3D}
