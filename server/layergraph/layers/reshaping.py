"""Layers that rearrange or repeat values (keras.layers.reshaping)."""

from __future__ import annotations

import math
from typing import Any

import torch

from layergraph.config.options import (
    Expected,
    anything,
    integer,
    list_of,
    nonnegative_int,
    one_of,
    option,
    positive_int,
    short_repr,
)
from layergraph.errors import ConfigError, DataError, GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.layer import Layer
from layergraph.functional.nest import Structure
from layergraph.functional.weights import Weights
from layergraph.layers.spatial import SpatialLayer, data_format
from layergraph.layers.up_sampling import LAYERS as UP_SAMPLING


class Flatten(Layer):
    """Flattens all axes but the batch axis; channels_first inputs in channels_last order (keras.layers.Flatten)."""

    data_format: str = option(data_format, default=None)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes the outputs, (rows, values)."""
        if self.data_format == "channels_first" and x.ndim > 1:
            x = x.movedim(1, -1)
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def target_shape(value: Any) -> tuple[int, ...]:
    """Validator: lengths of the axes after the batch axis; one may be -1, to be inferred."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value,)
    lengths = list_of(integer)([-1 if item is None else item for item in value] if _is_list(value) else value)
    if min(lengths, default=0) < -1 or lengths.count(-1) > 1:
        raise Expected("lengths, of which one may be -1")
    return lengths


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


class Reshape(Layer):
    """Reshapes each row to `target_shape`; a length of -1 is inferred (keras.layers.Reshape)."""

    target_shape: Any = option(target_shape)

    def build_for(self, args: tuple[Structure, ...]) -> None:
        """Raises GraphError if a known shape can't be reshaped."""
        super().build_for(args)
        shape = getattr(args[0], "shape", None)
        # With an unknown length, the check is made in execution.
        if shape and None not in shape[1:] and self._lengths(shape[1:]) is None:
            raise GraphError(
                f"layer '{self.name}' (Reshape): can't reshape rows of shape {tuple(shape[1:])} to {self.target_shape}"
            )

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes the outputs, (rows, *target_shape). Raises DataError if the number of values differs."""
        lengths = self._lengths(x.shape[1:])
        if lengths is not None:
            return x.reshape(x.shape[0], *lengths)
        if x.is_meta:
            # Shape inference: the symbolic dimensions may not be divisible. The inferred length is then unknown, as
            # they are.
            left = math.prod(x.shape[1:])
            return x.new_empty((x.shape[0], *(left if length == -1 else length for length in self.target_shape)))
        raise DataError(
            f"layer '{self.name}' (Reshape): can't reshape rows of shape {tuple(x.shape[1:])} to {self.target_shape}"
        )

    def _lengths(self, shape: Any) -> tuple[int, ...] | None:
        """Returns `target_shape` without -1 for rows of that shape, or None if the number of values differs."""
        count = math.prod(shape)
        known = math.prod(length for length in self.target_shape if length != -1)
        if -1 not in self.target_shape:
            return self.target_shape if count == known else None
        if known == 0 or count % known:
            return None
        return tuple(count // known if length == -1 else length for length in self.target_shape)


class Permute(Layer):
    """Permutes the axes after the batch axis; `dims` counts from 1 (keras.layers.Permute)."""

    dims: tuple[int, ...] = option(list_of(positive_int))

    def setup(self) -> None:
        """Raises ConfigError unless each axis is named once."""
        if sorted(self.dims) != list(range(1, len(self.dims) + 1)):
            raise ConfigError(
                f"Permute: option 'dims' is {list(self.dims)}, expected each of 1 to {len(self.dims)} once"
            )

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes the outputs, a view. Raises GraphError for another rank."""
        if x.ndim != len(self.dims) + 1:
            raise GraphError(
                f"layer '{self.name}' (Permute): got an input of rank {x.ndim}, expected {len(self.dims) + 1}"
            )
        return x.permute(0, *self.dims)


class RepeatVector(Layer):
    """Repeats a vector `n` times: (rows, features) -> (rows, n, features) (keras.layers.RepeatVector)."""

    n: int = option(positive_int)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes the outputs, a view. Raises GraphError unless the rank is 2."""
        if x.ndim != 2:
            raise GraphError(f"layer '{self.name}' (RepeatVector): got an input of rank {x.ndim}, expected 2")
        # Keras's symbolic output has the layer's compute dtype.
        x = x if x.is_floating_point() else x.to(torch_dtype(self.compute_dtype))
        return x.unsqueeze(1).expand(-1, self.n, -1)


def border(rank: int, value: Any) -> tuple[tuple[int, int], ...]:
    """Expands one number, one per axis, or one pair per axis to pairs (before, after). Raises Expected."""
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
    """Base of padding and cropping: an option with the steps before and after each spatial axis."""

    def read_border(self, name: str) -> None:
        """Expands option `name` to pairs, or to a single pair for one axis, as Keras stores it. Raises ConfigError."""
        value = getattr(self, name)
        try:
            if self.rank == 1 and _is_list(value) and len(value) == 2:
                value = (value,)
            pairs = border(self.rank, value)
        except Expected as wrong:
            raise ConfigError(
                f"{type(self).__name__}: option '{name}' is {short_repr(value)}, expected {wrong}"
            ) from None
        setattr(self, name, pairs[0] if self.rank == 1 else pairs)

    def get_config(self) -> dict[str, Any]:
        """Keras's config; for one axis, most releases have no data format."""
        config = super().get_config()
        if self.rank == 1 and not self.channels_first:
            del config["data_format"]
        return config

    def pairs(self, value: Any) -> tuple[tuple[int, int], ...]:
        """Returns the option's value as one pair per axis."""
        return (value,) if self.rank == 1 else value


class _ZeroPadding(_BorderLayer):
    """Pads the spatial axes with zeros."""

    padding: Any = option(anything, default=1)
    data_format: str = option(data_format, default=None)

    def setup(self) -> None:
        self.read_border("padding")

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        self.check_rank(x.ndim)
        return self.padded(self.floating(x), self.pairs(self.padding))


class ZeroPadding1D(_ZeroPadding):
    """Zero padding of one axis (keras.layers.ZeroPadding1D)."""

    rank = 1


class ZeroPadding2D(_ZeroPadding):
    """Zero padding of images (keras.layers.ZeroPadding2D)."""

    rank = 2


class ZeroPadding3D(_ZeroPadding):
    """Zero padding of volumes (keras.layers.ZeroPadding3D)."""

    rank = 3


class _Cropping(_BorderLayer):
    """Removes steps at the ends of the spatial axes.

    crop_rule   whether an axis may become empty (keras2): in Cropping3D of Keras 2, and in the others up to 2.6
    """

    cropping: Any = option(anything, default=1)
    data_format: str = option(data_format, default=None)
    crop_rule: str = option(one_of("keras3", "keras2"), default="keras3", kw_only=True, saved=False)

    def setup(self) -> None:
        self.read_border("cropping")

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes the outputs. Raises DataError if an axis would become empty, and may not."""
        crops, lengths = self.pairs(self.cropping), self.lengths(x)
        if self.crop_rule == "keras3":
            self.check_windows(lengths, [sum(pair) + 1 for pair in crops])
        return self.cropped(self.floating(x), crops)


class Cropping1D(_Cropping):
    """Crops one axis (keras.layers.Cropping1D)."""

    rank = 1


class Cropping2D(_Cropping):
    """Crops images (keras.layers.Cropping2D)."""

    rank = 2
    cropping: Any = option(anything, default=0)
    data_format: str = option(data_format, default=None)


class Cropping3D(_Cropping):
    """Crops volumes (keras.layers.Cropping3D)."""

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
