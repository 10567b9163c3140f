"""Symbolic dimensions: numbers used as the lengths of unknown axes while shapes are inferred."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch

if TYPE_CHECKING:
    from layergraph.functional.tensor import Shape

#: Shapes of the input tensors and of their masks.
Given: TypeAlias = "list[tuple[Shape, Shape | None]]"

#: Pairs of numbers for the batch size and for all other unknown axes, tried in order; `meta` tensors take no memory.
#: The first lengths are odd and survive a stack of strides and windows. They are far apart: of a crop or a stride of
#: thousands both would leave as much of two shorter ones, and the length would pass for known. The second allow for
#: longer crops, also of volumes, which are too large with the third; the fourth and fifth for models that divide a
#: length, or the batch, into parts. The sixth are Keras's, for custom layers with a table of positions. In the last,
#: all axes are equal: a first axis that isn't the batch may have to fit another axis.
_CANDIDATES = (
    ((2, 3), (1031, 20_011)),
    ((2, 3), (20_011, 40_009)),
    ((2, 3), (1_000_003, 2_000_003)),
    ((240, 720), (720_720, 1_441_440)),
    ((2, 3), (1_612_800, 3_225_600)),
    ((2, 3), (83, 89)),
    ((1031, 20_011), (1031, 20_011)),
)


class SymbolicDims(NamedTuple):
    """The numbers used for an unknown batch size and for all other unknown lengths in one run on `meta`."""

    rows: int
    length: int

    def fill(self, shape: Shape) -> tuple[int, ...]:
        """Returns `shape` with a number for every unknown axis."""
        return tuple(
            (self.rows if axis == 0 else self.length) if size is None else size for axis, size in enumerate(shape)
        )

    def is_unknown(self, x: torch.Tensor, axis: int) -> bool:
        """Whether the length of x along `axis` is a symbolic dimension."""
        return x.is_meta and x.shape[axis] == (self.length if axis else self.rows)


class KnownValues(NamedTuple):
    """Values of a tensor that depend on shapes alone, such as a shape, under two pairs of symbolic dimensions."""

    first: torch.Tensor
    second: torch.Tensor
    symbolic_dims: tuple[SymbolicDims, SymbolicDims]

    def under(self, symbolic_dims: tuple[SymbolicDims, SymbolicDims], index: int) -> torch.Tensor | None:
        """Returns the values in run `index` (0 or 1); None if they aren't known under these symbolic dimensions."""
        if symbolic_dims == self.symbolic_dims or torch.equal(self.first, self.second):
            return (self.first, self.second)[index]
        return None


def pairs(shapes: Iterable[Shape]) -> Iterator[tuple[SymbolicDims, SymbolicDims]]:
    """Yields pairs of symbolic dimensions to try in order. No known axis of `shapes` has one of these lengths."""
    shapes = list(shapes)
    known_rows = {size for shape in shapes for size in shape[:1]}
    known_lengths = {size for shape in shapes for size in shape[1:]}
    for candidates in _CANDIDATES:
        rows, lengths = _free(candidates[0], known_rows), _free(candidates[1], known_lengths)
        yield SymbolicDims(rows[0], lengths[0]), SymbolicDims(rows[1], lengths[1])


def _free(candidates: tuple[int, int], taken: set[int | None]) -> tuple[int, int]:
    """Returns the candidates, or the next numbers that aren't taken."""
    first, second = candidates
    while first in taken:
        first += 1
    while second in taken or second <= first:
        second += 1
    return first, second


def unified(given: Given, axes: Collection[int], *, broadcasts: bool) -> Given:
    """Replaces unknown lengths along `axes` by the known length of the other tensors: of all tensors for the batch
    axis, otherwise of those with the same rank. Conflicting lengths leave the axis unknown; a length of 1 doesn't count
    if it `broadcasts`.
    """
    sizes: dict[tuple[int, int], set[int]] = defaultdict(set)
    for shape, _ in given:
        for axis, size in enumerate(shape):
            if size is not None and axis in axes:
                sizes[len(shape) if axis else 0, axis].add(size)
    lengths = {place: length for place, found in sizes.items() if (length := _only(found, broadcasts)) is not None}

    def fitted(shape: Shape, rank: int) -> Shape:
        return tuple(
            lengths.get((rank if axis else 0, axis)) if size is None else size for axis, size in enumerate(shape)
        )

    return [(fitted(shape, len(shape)), None if mask is None else fitted(mask, len(shape))) for shape, mask in given]


def _only(sizes: set[int], broadcasts: bool) -> int | None:
    wide = sizes - {1}
    chosen = wide if wide or broadcasts else sizes
    return next(iter(chosen)) if len(chosen) == 1 else None
