"""Whether the rows of a batch are independent, so that rows of several requests can be computed together.

The rows of Keras layers are independent in inference. Operations may do anything to the first axis (average it, reverse
it, divide by its length), and so may layers with an axis option, those of single numbers, whose last axis is the first,
and plugin layers. Those are tested: their result for a batch of three rows must equal their results for each row alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from layergraph.execution.step import Step
from layergraph.functional.binding import Binder
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.layer import Layer
from layergraph.functional.strings import Strings
from layergraph.functional.symbolic_dims import SymbolicDims

_ROWS = 3
#: Lengths tried for unknown axes; the first that the call accepts is used.
_LENGTHS = (8, 64, 1031)
#: Largest difference between a row computed alone and in a batch, to allow for other orders of summation.
_TOLERANCE = 1e-3
#: Names of options that may refer to the first axis.
_AXES = ("axis", "axes")


def is_batch_independent(steps: Sequence[Step]) -> bool:
    """Whether each call's result for a row is independent of the other rows in the batch."""
    tried: dict[tuple[Any, ...], bool] = {}
    for step in steps:
        if not all(layer.rows_are_independent for layer in step.call.layer.walk_layers()):
            return False
        if not _may_mix(step):
            continue
        key = (id(step.call.layer), step.call.training, *(id(tensor) for tensor in step.call.tensors))
        if key not in tried:
            tried[key] = _rows_independent(step)
        if not tried[key]:
            return False
    return True


def _may_mix(step: Step) -> bool:
    layer = step.call.layer
    if any(tensor.dtype == Strings.dtype for tensor in step.call.tensors):
        return False  # Text is looked up element by element.
    if step.call.training is True or any(len(tensor.shape) == 1 for tensor in step.call.tensors):
        return True
    return any(_layer_may_mix(inner) for inner in layer.walk_layers())


def _layer_may_mix(layer: Layer) -> bool:
    # A model that converts its inputs is one step: calls inside of it aren't looked at one by one.
    unknown = layer.is_operation or layer.inner_model is not None
    return unknown or _names_axis(layer) or not type(layer).__module__.startswith("layergraph.")


def _names_axis(layer: Layer) -> bool:
    """Whether an option may refer to the first axis."""
    return any(_may_be_first(getattr(layer, name, -1)) for name in _AXES)


def _may_be_first(axis: Any) -> bool:
    """Whether an axis may be the first of several: not the last (-1), which most options name, or a positive one."""
    if isinstance(axis, (list, tuple)):
        return any(map(_may_be_first, axis))
    return not isinstance(axis, int) or axis == 0 or axis < -1


def _rows_independent(step: Step) -> bool:
    for length in _LENGTHS:
        try:
            return _equals_single_rows(step, length)
        except Exception:
            continue
    return False


def _equals_single_rows(step: Step, length: int) -> bool:
    call = step.call
    generator = torch.Generator().manual_seed(0)
    sizes = SymbolicDims(_ROWS, length)
    has_rows = [bool(tensor.shape) and tensor.shape[0] is None for tensor in call.tensors]
    values = [_random(sizes.fill(t.shape), t.dtype, generator) for t in call.tensors]
    masks = [
        None if t.mask_shape is None else torch.ones(sizes.fill(t.mask_shape), dtype=torch.bool) for t in call.tensors
    ]
    with torch.inference_mode(False), torch.no_grad():
        weights = Binder(lambda weight: weight.value)(call.layer)
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
        return all(part.shape == whole.shape and _close(part, whole) for part in parts)
    return all(part.shape[0] == 1 for part in parts) and _close(torch.cat(parts), whole)


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape:
        return False
    if torch.equal(a, b):
        return True  # The usual case, without float64 copies, which may take a gigabyte for images.
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    return torch.allclose(a.to(torch.float64), b.to(torch.float64), rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)


def _random(shape: tuple[int, ...], dtype: str, generator: torch.Generator) -> torch.Tensor:
    kind = torch_dtype(dtype)
    if kind.is_floating_point:
        return torch.randn(shape, generator=generator).to(kind)
    return torch.randint(0, 2, shape, generator=generator).to(kind)
