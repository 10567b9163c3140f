"""Operations that rotate, flip, pad and regroup the elements of an array (keras.ops.numpy and nn)."""

from __future__ import annotations

import math
import re
from typing import Any

import torch

from layergraph.config.options import (
    anything,
    integer,
    list_of,
    one_of,
    one_or_list_of,
    option,
    optional,
    positive_int,
)
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.weights import Weights
from layergraph.ops.operation import Operation
from layergraph.ops.shape_values import whole
from layergraph.ops.shapes import lengths_of, listed


class Identity(Operation):
    """x unchanged (tf.identity and similar functions)."""

    keras_module = "layergraph.ops"

    def forward(self, context: CallContext, w: Weights, x: Any) -> Any:
        return x


class Pad(Operation):
    """The padded x (keras.ops.pad)."""

    pad_width: Any = option(anything)
    mode: str = option(one_of("constant", "reflect", "symmetric", "edge"), default="constant")

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor, constant_values: Any = None) -> torch.Tensor:
        widths = _pairs(self.pad_width, x.ndim)
        if self.mode == "constant":
            flat = [n for pair in reversed(widths) for n in pair]
            value = (
                0 if constant_values is None else whole(constant_values) if x.dtype == torch.int32 else constant_values
            )
            return torch.nn.functional.pad(x, flat, value=float(value) if x.is_floating_point() else value)
        for axis, (before, after) in enumerate(widths):
            x = x.index_select(axis, self._sources(x.shape[axis], before, after, x.device))
        return x

    def _sources(self, length: int, before: int, after: int, device: torch.device) -> torch.Tensor:
        at = torch.arange(-before, length + after, device=device)
        if self.mode == "edge":
            return at.clamp(0, length - 1)
        if self.mode == "reflect":
            at = at.abs()
            return torch.where(at >= length, 2 * (length - 1) - at, at)
        at = torch.where(at < 0, -at - 1, at)
        return torch.where(at >= length, 2 * length - 1 - at, at)


def _pairs(widths: Any, rank: int) -> list[tuple[int, int]]:
    if isinstance(widths, int):
        return [(widths, widths)] * rank
    pairs = [(item, item) if isinstance(item, int) else tuple(item) for item in widths]
    if len(widths) == 2 and all(isinstance(item, int) for item in widths):
        pairs = [(widths[0], widths[1])]
    pairs = pairs * rank if len(pairs) == 1 else pairs
    if len(pairs) != rank or any(len(pair) != 2 or min(pair) < 0 for pair in pairs):
        raise GraphError(f"pad_width is {widths}, expected two numbers for each of {rank} axes")
    return [(int(a), int(b)) for a, b in pairs]


class Rot90(Operation):
    """x rotated by k quarter turns (keras.ops.rot90)."""

    k: int = option(integer, default=1)
    axes: Any = option(list_of(integer), default=(0, 1))

    def forward(self, context: CallContext, w: Weights, array: torch.Tensor) -> torch.Tensor:
        return torch.rot90(array, self.k, list(self.axes))


class Flip(Operation):
    """x flipped along axes, by default all (keras.ops.flip)."""

    axis: Any = option(optional(one_or_list_of(integer)), default=None)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return x.flip(list(range(x.ndim)) if self.axis is None else listed(self.axis))


class Fliplr(Operation):
    """x flipped along the second axis (keras.ops.fliplr)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return x.flip(1)


class Flipud(Operation):
    """x flipped along the first axis (keras.ops.flipud)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return x.flip(0)


class Roll(Operation):
    """x shifted cyclically along axes (keras.ops.roll)."""

    shift: Any = option(one_or_list_of(integer))
    axis: Any = option(optional(one_or_list_of(integer)), default=None)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return x.roll(self.shift) if self.axis is None else x.roll(self.shift, self.axis)


class Tile(Operation):
    """x repeated as a whole (keras.ops.tile). `repeats` as an argument of the call may contain tensors."""

    reads_values = True
    computes_values = True
    repeats: Any = option(optional(one_or_list_of(integer)), default=None)

    def forward(self, context: CallContext, w: Weights, x: Any, repeats: Any = None) -> Any:
        x = torch.as_tensor(x)
        return x.tile(lengths_of(self.repeats if repeats is None else repeats))


class Repeat(Operation):
    """x with each element repeated (keras.ops.repeat)."""

    repeats: int = option(integer)
    axis: int | None = option(optional(integer), default=None)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return x.repeat_interleave(self.repeats, self.axis)


class Meshgrid(Operation):
    """Coordinates of a grid (keras.ops.meshgrid)."""

    indexing: str = option(one_of("xy", "ij"), default="xy")

    def forward(self, context: CallContext, w: Weights, x: Any, y: Any = None, z: Any = None) -> list[torch.Tensor]:
        axes = [value.reshape(-1) for value in (x, y, z) if value is not None]
        return list(torch.meshgrid(*axes, indexing=self.indexing))


class _Blocks(Operation):
    keras_module = "keras.src.ops.nn"

    block_size: int = option(positive_int)
    data_format: str = option(one_of("channels_last", "channels_first"), default="channels_last")

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        last = self.data_format == "channels_last"
        y = self.moved(x if last else x.movedim(1, -1), self.block_size)
        return y if last else y.movedim(-1, 1)

    def moved(self, x: torch.Tensor, block: int) -> torch.Tensor:
        """The regrouped elements of x, channels last; defined by subclasses."""
        raise NotImplementedError


class DepthToSpace(_Blocks):
    """keras.ops.depth_to_space."""

    def moved(self, x: torch.Tensor, block: int) -> torch.Tensor:
        """Channels become a block of pixels."""
        rows, height, width, depth = x.shape
        y = x.reshape(rows, height, width, block, block, depth // block**2).permute(0, 1, 3, 2, 4, 5)
        return y.reshape(rows, height * block, width * block, -1)


class SpaceToDepth(_Blocks):
    """keras.ops.space_to_depth."""

    def moved(self, x: torch.Tensor, block: int) -> torch.Tensor:
        """A block of pixels becomes channels."""
        rows, height, width, depth = x.shape
        y = x.reshape(rows, height // block, block, width // block, block, depth).permute(0, 1, 3, 2, 4, 5)
        return y.reshape(rows, height // block, width // block, depth * block**2)


#: Parts of a `rearrange` pattern: names, and groups of names in parentheses.
_PATTERN = re.compile(r"\w+|\([\w\s]*\)")


class Rearrange(Operation):
    """The elements in another order, by an einops pattern such as 'b h (w c) -> b (h w) c' (keras.ops.rearrange).

    Raises GraphError if the pattern doesn't fit.
    """

    keras_module = "keras.src.ops.einops"
    variadic = True

    def forward(  # type: ignore[override]
        self, context: CallContext, w: Weights, tensor: torch.Tensor, pattern: str, **axes_lengths: int
    ) -> torch.Tensor:
        before, arrow, after = str(pattern).partition("->")
        old, new = ([part.strip("()").split() for part in _PATTERN.findall(side)] for side in (before, after))
        names = [name for group in old for name in group]
        if not arrow or len(old) != tensor.ndim or sorted(names) != sorted(name for group in new for name in group):
            raise GraphError(f"pattern is {str(pattern)[:80]!r}, expected one for {tensor.ndim} axes")
        lengths: dict[str, int] = {name: int(length) for name, length in axes_lengths.items()}
        for group, length in zip(old, tensor.shape, strict=True):
            open_names = [name for name in group if name not in lengths]
            if len(open_names) > 1:
                raise GraphError(f"pattern is {str(pattern)[:80]!r}, expected axes_lengths for {open_names}")
            for name in open_names:
                lengths[name] = length // math.prod(lengths[other] for other in group if other != name)
        x = tensor.reshape([lengths[name] for name in names])
        x = x.permute([names.index(name) for group in new for name in group])
        return x.reshape([math.prod(lengths[name] for name in group) for group in new])


OPERATIONS: dict[str, type[Operation]] = {
    "DepthToSpace": DepthToSpace,
    "Flip": Flip,
    "Fliplr": Fliplr,
    "Flipud": Flipud,
    "Meshgrid": Meshgrid,
    "Pad": Pad,
    "Rearrange": Rearrange,
    "Repeat": Repeat,
    "Roll": Roll,
    "Rot90": Rot90,
    "SpaceToDepth": SpaceToDepth,
    "Tile": Tile,
    "tf>Identity": Identity,
}
