"""Numbers that stand for the lengths of unknown axes while shapes are inferred."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch

if TYPE_CHECKING:
    from layergraph.functional.tensor import Shape

#: Shapes of tensors, and of their masks.
Given: TypeAlias = "list[tuple[Shape, Shape | None]]"

#: For the rows and for every other unknown axis: two pairs of numbers, and more to be tried after them; memory is none
#: on `meta`. The first lengths are odd, and leave something of a stack of strides and windows; some models crop ten
#: thousand steps; some divide a length, or the rows, into parts.
_CANDIDATES = (((2, 3), (1031, 2063)), ((2, 3), (1_000_003, 2_000_003)), ((240, 720), (720_720, 1_441_440)))


class SymbolicDims(NamedTuple):
    """What stands for an unknown number of rows, and for every other unknown length, in one run on `meta`."""

    rows: int
    length: int

    def fill(self, shape: Shape) -> tuple[int, ...]:
        """`shape` with a length for every unknown axis."""
        return tuple(
            (self.rows if axis == 0 else self.length) if size is None else size for axis, size in enumerate(shape)
        )

    def is_unknown(self, x: torch.Tensor, axis: int) -> bool:
        """Whether the length of x along `axis` stands for an unknown one."""
        return x.is_meta and x.shape[axis] == (self.length if axis else self.rows)


class KnownValues(NamedTuple):
    """The values of a tensor that shapes alone tell, such as a shape, in the runs with two stand-ins."""

    first: torch.Tensor
    second: torch.Tensor
    symbolic_dims: tuple[SymbolicDims, SymbolicDims]

    def under(self, symbolic_dims: tuple[SymbolicDims, SymbolicDims], index: int) -> torch.Tensor | None:
        """The values in one of two runs; None if they aren't known under those stand-ins."""
        if symbolic_dims == self.symbolic_dims or torch.equal(self.first, self.second):
            return (self.first, self.second)[index]
        return None


def pairs(shapes: Iterable[Shape]) -> Iterator[tuple[SymbolicDims, SymbolicDims]]:
    """Pairs of stand-ins to be tried one after the other. No axis of `shapes` has one of these lengths."""
    shapes = list(shapes)
    known_rows = {size for shape in shapes for size in shape[:1]}
    known_lengths = {size for shape in shapes for size in shape[1:]}
    for candidates in _CANDIDATES:
        rows, lengths = _free(candidates[0], known_rows), _free(candidates[1], known_lengths)
        yield SymbolicDims(rows[0], lengths[0]), SymbolicDims(rows[1], lengths[1])


def _free(candidates: tuple[int, int], taken: set[int | None]) -> tuple[int, int]:
    """The candidates, or the next numbers that aren't taken."""
    first, second = candidates
    while first in taken:
        first += 1
    while second in taken or second <= first:
        second += 1
    return first, second


def agreed(given: Given, axes: Collection[int], *, broadcasts: bool) -> Given:
    """Shapes, where an unknown length along one of `axes` is that of the others: of all for the rows, else of those
    with as many axes. What has several lengths stays unknown; a length of 1 is none where it `broadcasts`.
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
