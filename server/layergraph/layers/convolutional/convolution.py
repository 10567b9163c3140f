"""Convolutions (keras.layers.Conv1D, Conv2D, Conv3D)."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from layergraph.config.options import anything, boolean, option, positive_int
from layergraph.constraints import constraint
from layergraph.errors import ConfigError, DataError, GraphError
from layergraph.functional.binding import bind_meta
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.layer import Layer
from layergraph.functional.lora import LoraWeights
from layergraph.functional.storage_layout import StorageLayout
from layergraph.functional.symbolic_dims import pairs
from layergraph.functional.tensor import History, Shape, Tensor
from layergraph.functional.weights import Weights
from layergraph.initializers import initializer
from layergraph.layers import biases
from layergraph.layers.activation_functions import Activation
from layergraph.layers.activations import activate, activation, adopt_activation
from layergraph.layers.lora import LoraLayer
from layergraph.layers.spatial import Pads, SpatialLayer, data_format, padding, same_padding
from layergraph.regularizers import regularizer


class WindowedConvolution(SpatialLayer):
    """Base of convolutions over sliding windows: a kernel (*kernel_size, inputs, outputs), strides and dilation."""

    storage = StorageLayout(null_regularizer=True)

    if TYPE_CHECKING:
        # Subclasses declare these options, at their positions in Keras's arguments.
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
        """Expands sizes to one value per axis, and registers an activation layer as a sublayer."""
        for name in ("kernel_size", "strides", "dilation_rate"):
            self.each_axis(name)
        self.check_padding(self.padding)
        adopt_activation(self, self.activation)

    def refuse_strided_dilation(self) -> None:
        """Raises ConfigError if both strides and dilation are above 1: Keras doesn't support that."""
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ConfigError(
                f"{type(self).__name__}: option 'strides' is {self.strides} with dilation_rate {self.dilation_rate}, "
                "expected one of them to be 1"
            )

    @property
    def windows(self) -> tuple[int, ...]:
        """Number of steps that a dilated kernel spans on each axis."""
        pairs = zip(self.kernel_size, self.dilation_rate, strict=True)
        return tuple((size - 1) * rate + 1 for size, rate in pairs)

    def convolved(self, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes the outputs before the activation."""
        raise NotImplementedError

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return activate(self.activation, context, w, self.convolved(w, x))

    def build_activation(self, input_shape: Any) -> None:
        """Builds an activation layer for the shape of the convolution's output. Called last in `build`."""
        if not isinstance(self.activation, Layer):
            return
        # Where the kernel doesn't fit, `convolved` says so, too, when the layer is called.
        if (shape := self._shape_for(input_shape)) is not None:
            self.activation.build_for((Tensor(shape, self.compute_dtype, History(self, 0, 0)),))

    def _shape_for(self, input_shape: Any) -> Shape | None:
        """The shape of the convolution's output; None if the kernel doesn't fit."""
        w, dtype = bind_meta(self), torch_dtype(self.compute_dtype)
        for both in pairs([input_shape]):
            sizes = [symbolic_dims.fill(input_shape) for symbolic_dims in both]
            # A longer axis may fit.
            with suppress(DataError, RuntimeError):
                first, second = (self.convolved(w, torch.empty(n, dtype=dtype, device="meta")).shape for n in sizes)
                return tuple(a if a == b else None for a, b in zip(first, second, strict=True))
        return None

    def add_bias(self, channels: int) -> None:
        """Creates the bias, if `use_bias`."""
        if self.use_bias:
            self.add_weight_by_options("bias", (channels,))

    def pads(self, lengths: tuple[int, ...]) -> Pads:
        """Returns the zeros before and after each spatial axis. Raises DataError if a window is longer than an axis."""
        windows = self.windows
        self.check_windows(lengths, windows if self.padding == "valid" else [1] * self.rank)
        if self.padding == "same":
            return [same_padding(*axis) for axis in zip(lengths, windows, self.strides, strict=True)]
        if self.padding == "causal":
            return [(window - 1, 0) for window in windows]
        return [(0, 0)] * self.rank

    def plain_convolution(self, x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        """Convolves an input in Keras's layout without strides, padding and dilation."""
        return self.from_torch(_convolution(self.to_torch(x), kernel_to_torch(kernel), None))

    def convolve(self, x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None, groups: int) -> torch.Tensor:
        """Convolves an input in Keras's layout with a kernel (*kernel_size, inputs / groups, outputs)."""
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
        """Returns an input in torch's layout, padded where torch can't, and the padding left to the convolution.

        `zeros` is additional padding around each spatial axis.
        """
        zeros = zeros or [(0, 0)] * self.rank
        lengths = tuple(length + before + after for length, (before, after) in zip(self.lengths(x), zeros, strict=True))
        own = self.pads(lengths)
        pads = [(a + before, b + after) for (a, b), (before, after) in zip(own, zeros, strict=True)]
        x = self.to_torch(x)
        even = [before for before, after in pads if before == after]
        if len(even) < self.rank:
            # torch pads both sides equally; uneven padding is done here, the last axis first, as torch expects it. It
            # comes right before the convolution, where other engines fuse it with the convolution.
            x, even = functional.pad(x, [size for pair in reversed(pads) for size in pair]), [0] * self.rank
        return x, self.torch_sizes(even, 0)


def _convolution(x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None, **sizes: Any) -> torch.Tensor:
    convolution = functional.conv2d if x.ndim == 4 else functional.conv3d
    return biases.convolution(convolution, x, kernel, bias, **sizes)


def pointwise(x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Convolves an input in torch's layout with a kernel of spatial size 1."""
    return _convolution(x, kernel_to_torch(kernel), bias)


def kernel_to_torch(kernel: torch.Tensor) -> torch.Tensor:
    """Views a kernel (*spatial, a, b) in torch's layout (b, a, *spatial); of rank 1 with a height of 1."""
    if kernel.ndim == 3:
        kernel = kernel.unsqueeze(0)
    return kernel.movedim((-1, -2), (0, 1))


def kernel_memory_order(rank: int, channels_first: bool) -> tuple[int, ...]:
    """Memory order of a kernel (*spatial, a, b) in which torch, which sees (b, a, *spatial), needn't copy it.

    torch's channels-last convolutions use channels-last kernels, (b, *spatial, a).
    """
    spatial = range(rank)
    return (rank + 1, rank, *spatial) if channels_first else (rank + 1, *spatial, rank)


class _Convolution(LoraLayer, WindowedConvolution):
    """activation(convolution(x, kernel) + bias) over sliding windows.

    Input (rows, *spatial, channels), kernel (*kernel_size, channels / groups, filters), output
    (rows, *spatial, filters); with data_format='channels_first' channels and filters are axis 1.
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
        """Checks strides against dilation, and groups against filters. Raises ConfigError."""
        super().setup()
        self.refuse_strided_dilation()
        if self.filters % self.groups:
            raise ConfigError(
                f"{type(self).__name__}: option 'groups' is {self.groups}, expected a divisor of {self.filters} filters"
            )

    def check_rank(self, rank: int) -> None:
        """Raises GraphError if the rank is too low. As in tf.keras, inputs may have several batch axes."""
        if rank < self.rank + 2 or (rank > self.rank + 2 and self.channels_first):
            super().check_rank(rank)

    def build(self, input_shape: Any) -> None:
        """Creates kernel and bias. Raises GraphError if the channels aren't a multiple of the groups."""
        channels = self.channels_of(input_shape)
        if channels % self.groups:
            raise GraphError(
                f"layer '{self.name}' ({type(self).__name__}): got {channels} channels, expected a multiple of "
                f"groups, which is {self.groups}"
            )
        self.add_weight_by_options(
            "kernel",
            (*self.kernel_size, channels // self.groups, self.filters),
            memory_order=kernel_memory_order(self.rank, self.channels_first),
        )
        self.add_bias(self.filters)
        self.build_activation(input_shape)

    def convolved(self, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes the convolution, plus bias."""
        if x.ndim > self.rank + 2:
            rows = x.shape[: -self.rank - 1]
            y = self._convolved(w, x.flatten(0, len(rows) - 1))
            return y.reshape(*rows, *y.shape[1:])
        return self._convolved(w, x)

    def _convolved(self, w: Weights, x: torch.Tensor) -> torch.Tensor:
        bias = w.bias if self.use_bias else None
        if isinstance(w, LoraWeights) and self.groups == 1 and not self.channels_first:
            y = self.convolve(x, w.a, None, 1) @ w.b
            return self.convolve(x, w.base, bias, 1) + w.scale * y
        return self.convolve(x, w.kernel, bias, self.groups)


class Conv1D(_Convolution):
    """Convolution over one axis; with padding='causal' no output depends on later steps (keras.layers.Conv1D)."""

    rank = 1
    causal = True


class Conv2D(_Convolution):
    """Convolution over images (keras.layers.Conv2D)."""

    rank = 2


class Conv3D(_Convolution):
    """Convolution over volumes (keras.layers.Conv3D)."""

    rank = 3


LAYERS: dict[str, type[Layer]] = {"Conv1D": Conv1D, "Conv2D": Conv2D, "Conv3D": Conv3D}
