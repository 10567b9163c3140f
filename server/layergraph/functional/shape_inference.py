"""Shapes, types and masks of a call's outputs, found by running it on torch's `meta` device.

Nothing is computed by hand, so a shape can't disagree with execution: the call runs twice, with two different lengths
for every unknown axis, and an axis of the result that differs is unknown.
"""

from __future__ import annotations

from typing import Any

import torch

from layergraph.errors import DataError, GraphError, LayerGraphError
from layergraph.functional.binding import bind_meta
from layergraph.functional.dtypes import dtype_name, torch_dtype
from layergraph.functional.invocation import Invocation
from layergraph.functional.run import Run
from layergraph.functional.strings import Strings
from layergraph.functional.structure import map_structure
from layergraph.functional.tensor import Shape

#: Two lengths for the rows, and two for every other unknown axis: odd, prime, and long enough that a deep stack of
#: strided layers leaves something. Memory is none on `meta`.
ROWS = (2, 3)
LENGTHS = (1031, 2063)
LONG_LENGTHS = (1_000_003, 2_000_003)
#: Elements of a tensor whose values are kept.
MOST_VALUES = 4096


def infer(invocation: Invocation) -> tuple[list[Shape], list[str], list[Shape | None]]:
    """Shape, dtype and mask shape of each output, in flat order. Raises GraphError where the call can't work."""
    try:
        runs = [_run_on_meta(invocation, index, LENGTHS) for index in range(len(ROWS))]
    except GraphError:
        if not any(None in tensor.shape[1:] for tensor in invocation.tensors):
            raise
        # Perhaps the lengths were too short: models of sequences crop ten thousand steps.
        runs = [_run_on_meta(invocation, index, LONG_LENGTHS) for index in range(len(ROWS))]
    (first, first_masks), (second, second_masks) = runs
    invocation.known = [_known(a, b) for a, b in zip(first, second, strict=True)]
    shapes = [_merge(a, b) for a, b in zip(first, second, strict=True)]
    dtypes = [dtype_name(value.dtype) for value in first]
    masks = [None if a is None or b is None else _merge(a, b) for a, b in zip(first_masks, second_masks, strict=True)]
    return shapes, dtypes, masks


def concrete(shape: Shape, rows: int, length: int) -> tuple[int, ...]:
    """`shape` with a length for every unknown axis."""
    return tuple((rows if axis == 0 else length) if size is None else size for axis, size in enumerate(shape))


def _known(first: Any, second: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The values of an output, where they were computed from shapes alone."""
    both = (first, second)
    plain = all(isinstance(v, torch.Tensor) and not v.is_meta and v.numel() <= MOST_VALUES for v in both)
    return (first, second) if plain else None


def _run_on_meta(invocation: Invocation, index: int, lengths: tuple[int, ...]) -> tuple[list[torch.Tensor], list[Any]]:
    layer = invocation.layer
    rows, length = ROWS[index], lengths[index]

    def empty(shape: Shape, dtype: str) -> Any:
        if dtype == Strings.dtype:
            return Strings(concrete(shape, rows, length))
        return torch.empty(concrete(shape, rows, length), dtype=torch_dtype(dtype), device="meta")

    # Shapes that were told from shapes stay numbers, for operations that tell a shape from them.
    tensors = invocation.tensors
    every = layer.computes_values and all(tensor.values is not None for tensor in tensors)
    values = [
        tensor.values[index]
        if tensor.values is not None and (every or (layer.reads_values and at > 0))
        else empty(tensor.shape, tensor.dtype)
        for at, tensor in enumerate(tensors)
    ]
    masks = [None if t.mask_shape is None else empty(t.mask_shape, "bool") for t in invocation.tensors]
    try:
        with torch.no_grad():
            return invocation(Run(losses=None), bind_meta(layer), values, masks, want_masks=True)
    except LayerGraphError as wrong:
        kind = GraphError if isinstance(wrong, DataError) else type(wrong)
        name = f"layer '{layer.name}' ({type(layer).__name__}): "
        raise kind(name + str(wrong).removeprefix(name)) from wrong
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError, AttributeError) as wrong:
        got = map_structure(lambda t: t.shape, invocation.tensors)
        reason = str(wrong).splitlines()[0][:200] if str(wrong) else type(wrong).__name__
        raise GraphError(
            f"layer '{layer.name}' ({type(layer).__name__}): can't be called on shapes {got}: {reason}"
        ) from wrong


def _merge(first: torch.Tensor, second: torch.Tensor) -> Shape:
    return tuple(a if a == b else None for a, b in zip(first.shape, second.shape, strict=True))
