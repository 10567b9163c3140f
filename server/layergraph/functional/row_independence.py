"""Whether a call computes each row of its outputs from the same row of its inputs alone.

Operations may do anything to the first axis (average it, reverse it, divide by its length), and so may layers with an
axis option, and plugin layers. Those are tested: their result for a batch of three rows must equal their results for
each row alone.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from layergraph.functional.binding import bind_values
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.invocation import Invocation
from layergraph.functional.layer import Layer
from layergraph.functional.symbolic_dims import SymbolicDims

_ROWS = 3
#: Lengths tried for unknown axes; the first that the call accepts is used. The last is for long crops and windows.
_LENGTHS = (8, 64, 1031, 12_000)
#: Maximum number of elements of an input that is tried.
_MOST_NUMBERS = 1 << 24
#: Largest difference between a row computed alone and in a batch, to allow for other orders of summation.
_TOLERANCE = 1e-3
#: Names of options that may refer to the first axis.
_AXES = ("axis", "axes")


def may_mix_rows(layer: Layer) -> bool:
    """Whether a layer, without those inside of it, may compute with several rows together."""
    return layer.is_operation or _names_axis(layer) or not type(layer).__module__.startswith("layergraph.")


def _names_axis(layer: Layer) -> bool:
    """Whether an option may refer to the first axis."""
    return any(_may_be_first(getattr(layer, name, -1)) for name in _AXES)


def _may_be_first(axis: Any) -> bool:
    """Whether an axis may be the first of several: not the last (-1), which most options name, or a positive one."""
    if isinstance(axis, (list, tuple)):
        return any(map(_may_be_first, axis))
    return not isinstance(axis, int) or axis == 0 or axis < -1


def rows_are_independent(call: Invocation) -> bool:
    """Whether random rows give the same results together and one by one."""
    for length in _LENGTHS:
        try:
            return _equals_single_rows(call, length)
        except Exception:
            continue
    return False


def _equals_single_rows(call: Invocation, length: int) -> bool:
    generator = torch.Generator().manual_seed(0)
    sizes = SymbolicDims(_ROWS, length)
    if any(math.prod(sizes.fill(tensor.shape)) > _MOST_NUMBERS for tensor in call.tensors) and length != _LENGTHS[0]:
        return False
    has_rows = [bool(tensor.shape) and tensor.shape[0] is None for tensor in call.tensors]
    values = [_random(sizes.fill(t.shape), t.dtype, generator) for t in call.tensors]
    masks = [
        None if t.mask_shape is None else torch.ones(sizes.fill(t.mask_shape), dtype=torch.bool) for t in call.tensors
    ]
    with torch.inference_mode(False), torch.no_grad():
        weights = bind_values(call.layer)
    # As in serving, where a call with training=True updates no statistics.
    with torch.inference_mode():

        def outputs(rows: slice) -> list[torch.Tensor]:
            taken = [v[rows] if own else v for v, own in zip(values, has_rows, strict=True)]
            taken_masks = [m[rows] if m is not None and own else m for m, own in zip(masks, has_rows, strict=True)]
            made: list[torch.Tensor] = call(CallContext(losses=None), weights, taken, taken_masks, want_masks=False)[0]
            return made

        together = outputs(slice(None))
        alone = [outputs(slice(row, row + 1)) for row in range(_ROWS)]
    return all(_equal(whole, [parts[i] for parts in alone]) for i, whole in enumerate(together))


def _equal(whole: Any, parts: list[Any]) -> bool:
    if whole.ndim == 0 or whole.shape[0] != _ROWS:
        # A value shared by all rows, such as the length of another axis.
        return all(close(part, whole, _TOLERANCE) for part in parts)
    return all(part.shape[0] == 1 for part in parts) and close(torch.cat(parts), whole, _TOLERANCE)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    """Whether shapes are equal and numbers differ by at most the tolerance, relative to 1 + |b|."""
    if a.shape != b.shape:
        return False
    if torch.equal(a, b):
        return True  # The usual case, without float64 copies, which may take a gigabyte for images.
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    return torch.allclose(a.to(torch.float64), b.to(torch.float64), rtol=tolerance, atol=tolerance, equal_nan=True)


def _random(shape: tuple[int, ...], dtype: str, generator: torch.Generator) -> torch.Tensor:
    kind = torch_dtype(dtype)
    if kind.is_floating_point:
        return torch.randn(shape, generator=generator).to(kind)
    return torch.randint(0, 2, shape, generator=generator).to(kind)
