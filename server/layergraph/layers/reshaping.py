"""Layers that move or repeat values without changing them (keras.layers.reshaping)."""

from __future__ import annotations

import math
from typing import Any

import torch

from layergraph.config.options import Expected, anything, brief, integer, list_of, nonnegative_int, option, positive_int
from layergraph.errors import ConfigError, DataError, GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.layer import Layer
from layergraph.functional.nest import Structure
from layergraph.functional.weights import Weights
from layergraph.layers.spatial import SpatialLayer, data_format
from layergraph.layers.up_sampling import LAYERS as UP_SAMPLING


class Flatten(Layer):
    """All axes but the rows joined into one; channels_first inputs as if channels came last (keras.layers.Flatten)."""

    data_format: str = option(data_format, default=None)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes the outputs: (rows, values)."""
        if self.data_format == "channels_first" and x.ndim > 1:
            x = x.movedim(1, -1)
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def target_shape(value: Any) -> tuple[int, ...]:
    """Validator: lengths without the rows; one may be -1, for what is left."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value,)
    lengths = list_of(integer)([-1 if item is None else item for item in value] if _is_list(value) else value)
    if min(lengths, default=0) < -1 or lengths.count(-1) > 1:
        raise Expected("lengths, of which one may be -1")
    return lengths


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


class Reshape(Layer):
    """The values of a row in another shape, in the same order; -1 stands for what is left (keras.layers.Reshape)."""

    target_shape: Any = option(target_shape)

    def build_for(self, args: tuple[Structure, ...]) -> None:
        """Refuses known shapes that can't be reshaped. Raises GraphError."""
        super().build_for(args)
        shape = getattr(args[0], "shape", None)
        # Where a length is unknown, the data decides.
        if shape and None not in shape[1:] and self._lengths(shape[1:]) is None:
            raise GraphError(
                f"layer '{self.name}' (Reshape): can't bring rows of shape {tuple(shape[1:])} to {self.target_shape}"
            )

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes the outputs: (rows, *target_shape). Raises DataError where the number of values doesn't fit."""
        lengths = self._lengths(x.shape[1:])
        if lengths is not None:
            return x.reshape(x.shape[0], *lengths)
        if x.is_meta:
            # The shape of unknown lengths is asked for, and the stand-ins for them may not divide. What is left is as
            # unknown as they are.
            left = math.prod(x.shape[1:])
            return x.new_empty((x.shape[0], *(left if length == -1 else length for length in self.target_shape)))
        raise DataError(
            f"layer '{self.name}' (Reshape): rows of shape {tuple(x.shape[1:])} can't be brought to {self.target_shape}"
        )

    def _lengths(self, shape: Any) -> tuple[int, ...] | None:
        """`target_shape` for rows of that shape, or None if it doesn't fit."""
        count = math.prod(shape)
        known = math.prod(length for length in self.target_shape if length != -1)
        if -1 not in self.target_shape:
            return self.target_shape if count == known else None
        if known == 0 or count % known:
            return None
        return tuple(count // known if length == -1 else length for length in self.target_shape)


class Permute(Layer):
    """The axes in another order; `dims` counts from 1, without the rows (keras.layers.Permute)."""

    dims: tuple[int, ...] = option(list_of(positive_int))

    def setup(self) -> None:
        """Checks that each axis is named once."""
        if sorted(self.dims) != list(range(1, len(self.dims) + 1)):
            raise ConfigError(
                f"Permute: option 'dims' is {list(self.dims)}, expected each of 1 to {len(self.dims)} once"
            )

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes the outputs, as a view."""
        if x.ndim != len(self.dims) + 1:
            raise GraphError(
                f"layer '{self.name}' (Permute): got an input of rank {x.ndim}, expected {len(self.dims) + 1}"
            )
        return x.permute(0, *self.dims)


class RepeatVector(Layer):
    """A vector `n` times: (rows, features) -> (rows, n, features) (keras.layers.RepeatVector)."""

    n: int = option(positive_int)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes the outputs, as a view."""
        if x.ndim != 2:
            raise GraphError(f"layer '{self.name}' (RepeatVector): got an input of rank {x.ndim}, expected 2")
        # Keras's symbolic output is in the layer's type.
        x = x if x.is_floating_point() else x.to(torch_dtype(self.compute_dtype))
        return x.unsqueeze(1).expand(-1, self.n, -1)


def border(rank: int, value: Any) -> tuple[tuple[int, int], ...]:
    """Steps before and after on each axis, from one number, one for each axis, or a pair for each. Raises Expected."""
    wanted = f"an integer of at least 0, {rank} of them, or {rank} pairs of them"
    if not _is_list(value):
        value = (value,) * rank
    if len(value) != rank:
        raise Expected(wanted)
    try:
        pairs = [tuple(map(nonnegative_int, item if _is_list(item) else (item, item))) for item in value]
    except Expected:
        raise Expected(wanted) from None
    if any(len(pair) != 2 for pair in pairs):
        raise Expected(wanted)
    return tuple((pair[0], pair[1]) for pair in pairs)


class _BorderLayer(SpatialLayer):
    """What padding and cropping share: an option that tells steps before and after each spatial axis."""

    def read_border(self, name: str) -> None:
        """Brings option `name` to pairs; for one axis to a single pair, as Keras keeps it. Raises ConfigError."""
        value = getattr(self, name)
        try:
            if self.rank == 1 and _is_list(value) and len(value) == 2:
                value = (value,)
            pairs = border(self.rank, value)
        except Expected as wrong:
            raise ConfigError(f"{type(self).__name__}: option '{name}' is {brief(value)}, expected {wrong}") from None
        setattr(self, name, pairs[0] if self.rank == 1 else pairs)

    def get_config(self) -> dict[str, Any]:
        """Keras's config: over one axis, most releases know no data format."""
        config = super().get_config()
        if self.rank == 1 and not self.channels_first:
            del config["data_format"]
        return config

    def pairs(self, value: Any) -> tuple[tuple[int, int], ...]:
        """The option's value as one pair for each axis."""
        return (value,) if self.rank == 1 else value


class _ZeroPadding(_BorderLayer):
    """Zeros around the spatial axes."""

    padding: Any = option(anything, default=1)
    data_format: str = option(data_format, default=None)

    def setup(self) -> None:
        """Brings the padding to pairs."""
        self.read_border("padding")

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes the outputs."""
        self.check_rank(x.ndim)
        return self.padded(self.floating(x), self.pairs(self.padding))


class ZeroPadding1D(_ZeroPadding):
    """Zeros before and after one axis (keras.layers.ZeroPadding1D)."""

    rank = 1


class ZeroPadding2D(_ZeroPadding):
    """Zeros around images (keras.layers.ZeroPadding2D)."""

    rank = 2


class ZeroPadding3D(_ZeroPadding):
    """Zeros around volumes (keras.layers.ZeroPadding3D)."""

    rank = 3


class _Cropping(_BorderLayer):
    """The spatial axes without some steps at their ends."""

    cropping: Any = option(anything, default=1)
    data_format: str = option(data_format, default=None)

    def setup(self) -> None:
        """Brings the cropping to pairs."""
        self.read_border("cropping")

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes the outputs. Raises DataError where nothing would be left."""
        crops = self.pairs(self.cropping)
        self.check_windows(self.lengths(x), [sum(pair) + 1 for pair in crops])
        return self.cropped(self.floating(x), crops)


class Cropping1D(_Cropping):
    """One axis without its ends (keras.layers.Cropping1D)."""

    rank = 1


class Cropping2D(_Cropping):
    """Images without their borders (keras.layers.Cropping2D)."""

    rank = 2
    cropping: Any = option(anything, default=0)
    data_format: str = option(data_format, default=None)


class Cropping3D(_Cropping):
    """Volumes without their borders (keras.layers.Cropping3D)."""

    rank = 3


LAYERS: dict[str, type[Layer]] = {
    "Flatten": Flatten,
    "Reshape": Reshape,
    "Permute": Permute,
    "RepeatVector": RepeatVector,
    "ZeroPadding1D": ZeroPadding1D,
    "ZeroPadding2D": ZeroPadding2D,
    "ZeroPadding3D": ZeroPadding3D,
    "Cropping1D": Cropping1D,
    "Cropping2D": Cropping2D,
    "Cropping3D": Cropping3D,
    **UP_SAMPLING,
}
