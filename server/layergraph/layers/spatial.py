"""Base of layers with spatial axes: layouts, windows and padding of convolutions, pooling and resizing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.nn import functional

from layergraph.config.options import Expected, Validator, positive_int, short_repr, sizes
from layergraph.errors import ConfigError, DataError, GraphError
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.layer import Layer

#: Zeros before and after, for each spatial axis.
Pads = Sequence[tuple[int, int]]


def data_format(value: Any) -> str:
    """Validator: 'channels_last' (the default) or 'channels_first', case-insensitive."""
    name = value.lower() if isinstance(value, str) else value
    if name is None or name in ("channels_last", "channels_first"):
        return name or "channels_last"
    raise Expected("'channels_last' or 'channels_first'")


def padding(value: Any) -> str:
    """Validator: the padding mode, 'valid', 'same' or 'causal', case-insensitive."""
    name = value.lower() if isinstance(value, str) else value
    if name in ("valid", "same", "causal"):
        return str(name)
    raise Expected("'valid' or 'same'")


def same_padding(length: int, window: int, stride: int) -> tuple[int, int]:
    """Returns 'same' padding of one axis: the output has ceil(length / stride) steps; an odd zero goes after."""
    # With stride 1 the length isn't used, so a traced graph doesn't depend on it.
    total = window - 1 if stride == 1 else max(0, (-(-length // stride) - 1) * stride + window - length)
    return total // 2, total - total // 2


class SpatialLayer(Layer):
    """A layer with `rank` spatial axes between batch axis and channels.

    Input (rows, *spatial, channels), or (rows, channels, *spatial) with data_format='channels_first'.
    """

    #: Number of spatial axes.
    rank: ClassVar[int]
    #: Whether padding may be 'causal'.
    causal: ClassVar[bool] = False

    if TYPE_CHECKING:
        # Subclasses declare the option, at its position in Keras's arguments.
        @property
        def data_format(self) -> str: ...

    @property
    def channels_first(self) -> bool:
        """Whether the channels are axis 1 rather than the last."""
        return self.data_format == "channels_first"

    @property
    def spatial_axes(self) -> tuple[int, ...]:
        """Indices of an input's spatial axes."""
        first = 2 if self.channels_first else 1
        return tuple(range(first, first + self.rank))

    def each_axis(self, name: str, validate: Validator[int] = positive_int) -> None:
        """Expands option `name` to one value per spatial axis. Raises ConfigError."""
        value = getattr(self, name)
        try:
            setattr(self, name, sizes(self.rank, validate)(value))
        except Expected as wrong:
            raise ConfigError(
                f"{type(self).__name__}: option '{name}' is {short_repr(value)}, expected {wrong}"
            ) from None

    def check_padding(self, mode: str) -> None:
        """Raises ConfigError if padding is 'causal' and the layer doesn't support it."""
        if mode == "causal" and not self.causal:
            raise ConfigError(f"{type(self).__name__}: option 'padding' is 'causal', expected 'valid' or 'same'")

    def channels_of(self, shape: Any) -> int:
        """Returns the number of channels. Raises GraphError if it is unknown, or the rank is wrong."""
        self.check_rank(len(shape))
        channels = shape[1 if self.channels_first else -1]
        if channels is None:
            raise GraphError(
                f"layer '{self.name}' ({type(self).__name__}): got shape {shape}, expected a known number of channels"
            )
        return int(channels)

    def check_rank(self, rank: int) -> None:
        """Raises GraphError if an input's rank isn't that of the layer."""
        if rank != self.rank + 2:
            raise GraphError(
                f"layer '{self.name}' ({type(self).__name__}): got an input of rank {rank}, expected {self.rank + 2}"
            )

    def lengths(self, x: torch.Tensor) -> tuple[int, ...]:
        """Returns the lengths of the spatial axes. Raises GraphError for another rank."""
        self.check_rank(x.ndim)
        return tuple(x.shape[axis] for axis in self.spatial_axes)

    def check_windows(self, lengths: Sequence[int], windows: Sequence[int]) -> None:
        """Raises DataError if a window is longer than its axis."""
        for axis, length, window in zip(self.spatial_axes, lengths, windows, strict=True):
            if length < window:
                raise DataError(
                    f"layer '{self.name}' ({type(self).__name__}): axis {axis} of the input is {length} long, "
                    f"expected at least {window}"
                )

    def floating(self, x: torch.Tensor) -> torch.Tensor:
        """Casts integer inputs to the compute dtype: Keras's symbolic outputs are floating point."""
        return x if x.is_floating_point() else x.to(torch_dtype(self.compute_dtype))

    def padded(self, x: torch.Tensor, pads: Pads) -> torch.Tensor:
        """Pads the spatial axes with zeros."""
        if not any(map(any, pads)):
            return x
        # torch expects the last axis first. Padding before the layout changes preserves the memory format.
        flat = [] if self.channels_first else [0, 0]
        for before, after in reversed(pads):
            flat += [before, after]
        return functional.pad(x, flat)

    def cropped(self, x: torch.Tensor, crops: Pads) -> torch.Tensor:
        """Returns a view of the input without the given steps before and after each spatial axis."""
        for axis, (before, after) in zip(self.spatial_axes, crops, strict=True):
            if before or after:
                length = x.shape[axis]
                x = x.narrow(axis, min(before, length), max(0, length - before - after))
        return x

    def to_torch(self, x: torch.Tensor) -> torch.Tensor:
        """Returns a view (rows, channels, *spatial), torch's layout for convolutions and pooling.

        The view has torch's `channels_last` memory format, so nothing is copied. That format doesn't exist for one
        spatial axis, so layers of rank 1 compute on images of height 1.
        """
        if self.rank == 1:
            x = x.unsqueeze(2 if self.channels_first else 1)
        return x if self.channels_first else x.movedim(-1, 1)

    def from_torch(self, y: torch.Tensor) -> torch.Tensor:
        """Inverse of `to_torch`."""
        if not self.channels_first:
            y = y.movedim(1, -1)
        return y.squeeze(2 if self.channels_first else 1) if self.rank == 1 else y

    def torch_sizes(self, values: Sequence[int], unit: int = 1) -> tuple[int, ...]:
        """Returns one value per axis of `to_torch`'s result: `unit` for the height that it adds."""
        return (unit, *values) if self.rank == 1 else tuple(values)
