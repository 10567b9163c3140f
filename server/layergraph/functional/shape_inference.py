"""Infers shapes, dtypes and masks of a call's outputs by running the call on torch's `meta` device.

Shapes come from the code that computes, so they can't disagree with execution. The call runs twice, with two different
lengths for every unknown axis; an axis of the output whose length differs is unknown. Calls with equal keys run once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from layergraph.errors import DataError, GraphError, LayerGraphError
from layergraph.functional.axes import check_axes
from layergraph.functional.binding import bind_meta
from layergraph.functional.call_context import CallContext
from layergraph.functional.call_key import CallCache, call_key
from layergraph.functional.dtypes import dtype_name, torch_dtype
from layergraph.functional.invocation import Invocation
from layergraph.functional.meta_kernels import leave_compiler_out
from layergraph.functional.nest import Structure, flatten, map_structure, pack
from layergraph.functional.strings import Strings
from layergraph.functional.symbolic_dims import Given, KnownValues, SymbolicDims, pairs, unified
from layergraph.functional.tensor import History, Shape, Tensor
from layergraph.functional.torch_errors import meaning

leave_compiler_out()

#: Exceptions that torch and Python raise for incompatible arguments.
_CALL_ERRORS = (
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    StopIteration,
)
#: Maximum number of elements of a tensor whose values are kept.
MAX_VALUES = 4096


@dataclass(frozen=True, slots=True)
class Inferred:
    """What is known of an output before execution: shape, dtype, shape of its mask or None, values or None."""

    shape: Shape
    dtype: str
    mask_shape: Shape | None = None
    values: KnownValues | None = None

    def tensor(self, history: History, name: str) -> Tensor:
        """The output as a symbolic tensor."""
        return Tensor(self.shape, self.dtype, history, name=name, mask_shape=self.mask_shape, values=self.values)


#: The outputs, in the structure that `forward` has returned, and their masks.
_Results = tuple[Structure, list[Any]]

_remembered: CallCache[Structure] = CallCache(4096)


def infer(invocation: Invocation) -> Structure:
    """Returns each output's inferred shape, dtype and mask, in the structure that `forward` returns. Raises GraphError
    if the call fails.
    """
    key = call_key(invocation)
    inferred = _remembered.get(key)
    if inferred is None:
        inferred = infer_anew(invocation)
        if all(output.values is None for output in flatten(inferred)):
            _remembered.keep(key, inferred)
    return inferred


def infer_anew(invocation: Invocation) -> Structure:
    """Like `infer`, but always runs the layer: nothing is taken from the cache."""
    check_axes(invocation.layer, [tensor.shape for tensor in invocation.tensors])
    given = [(tensor.shape, tensor.mask_shape) for tensor in invocation.tensors]
    if not invocation.layer.is_operation:
        # All tensors of a layer share the batch axis: an unknown batch size is that of the input where it is known.
        given = unified(given, [0], broadcasts=True)
    try:
        return _run_twice(invocation, given)
    except GraphError:
        rank = max((len(shape) for shape, _ in given), default=0)
        # An unknown length may have to equal that of another input: tried along each axis, then along all axes.
        for axes in (*([axis] for axis in range(rank)), range(rank)):
            fitted = unified(given, axes, broadcasts=False)
            if fitted != given:
                with contextlib.suppress(GraphError):
                    return _run_twice(invocation, fitted)
        raise


def _run_twice(invocation: Invocation, given: Given) -> Structure:
    shapes = [shape for pair in given for shape in pair if shape is not None]
    failure: GraphError | None = None
    emptied: Structure | None = None
    # Values computed from shapes are valid only for the symbolic dimensions that they were computed with.
    known = [tensor.values.symbolic_dims for tensor in invocation.tensors if tensor.values is not None]
    for symbolic_dims in (*known[:1], *pairs(shapes)):
        try:
            outputs, masks = _run_on_meta(invocation, given, symbolic_dims, 0)
            first = flatten(outputs)
            if _one_run_suffices(invocation, shapes, (first, masks), symbolic_dims[0]):
                rows = symbolic_dims[0].rows if any(shape[:1] == (None,) for shape in shapes) else -1
                inferred = [_of_one_run(value, mask, rows) for value, mask in zip(first, masks, strict=True)]
            else:
                again, masks_again = _run_on_meta(invocation, given, symbolic_dims, 1)
                both = zip(first, masks, flatten(again), masks_again, strict=True)
                inferred = [_of_two_runs(*of_both, symbolic_dims) for of_both in both]
            made = pack(outputs, inferred)
            if not _is_emptied(inferred, shapes):
                return made
            # Longer ones may leave something.
            emptied = emptied or made
        except GraphError as wrong:
            failure = failure or wrong
        # Other lengths may work, if there are unknown ones. A layer never depends on the batch size.
        if not any(None in (shape if invocation.layer.is_operation else shape[1:]) for shape in shapes):
            break
    if emptied is not None:
        return emptied
    assert failure is not None
    raise failure


def _is_emptied(inferred: Sequence[Inferred], shapes: Sequence[Shape]) -> bool:
    """Whether an axis is empty that none of the inputs has: the lengths may have been too short for a crop."""
    return any(0 in made.shape for made in inferred) and not any(0 in shape for shape in shapes)


def _run_on_meta(invocation: Invocation, given: Given, both: tuple[SymbolicDims, SymbolicDims], index: int) -> _Results:
    layer, symbolic_dims = invocation.layer, both[index]

    def empty(shape: Shape, dtype: str) -> Any:
        if dtype == Strings.dtype:
            return Strings(symbolic_dims.fill(shape))
        return torch.empty(symbolic_dims.fill(shape), dtype=torch_dtype(dtype), device="meta")

    # Known values, such as shapes, stay concrete for operations whose output shape depends on them.
    known = [None if tensor.values is None else tensor.values.under(both, index) for tensor in invocation.tensors]
    every = layer.computes_values and all(value is not None for value in known) and _has_few_constants(invocation)
    first = 0 if invocation.starts_with_constant else 1
    try:
        values = [
            value if value is not None and (every or (layer.reads_values and at >= first)) else empty(shape, t.dtype)
            for at, (t, value, (shape, _)) in enumerate(zip(invocation.tensors, known, given, strict=True))
        ]
        masks = [None if mask is None else empty(mask, "bool") for _, mask in given]
        custom = any(inner.computes_by_call for inner in layer.walk_layers())
        with torch.no_grad(), _ConstantsOnMeta() if custom else contextlib.nullcontext():
            context = CallContext(losses=None, symbolic_dims=symbolic_dims)
            return invocation.structured(context, bind_meta(layer), values, masks, want_masks=True)
    except LayerGraphError as wrong:
        kind = GraphError if isinstance(wrong, DataError) else type(wrong)
        name = f"layer '{layer.name}' ({type(layer).__name__}): "
        raise kind(name + str(wrong).removeprefix(name)) from wrong
    except _CALL_ERRORS as wrong:
        got = map_structure(lambda t: t.shape, invocation.tensors)
        reason = _own_words(wrong) if layer.computes_by_call else meaning(wrong)
        raise GraphError(
            f"layer '{layer.name}' ({type(layer).__name__}): can't be called on shapes {got}: {reason}"
        ) from wrong


class _ConstantsOnMeta(TorchFunctionMode):
    """Operations take tensors with values beside those on `meta`, such as constants that a custom layer has made."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = args, kwargs or {}
        on_meta = {leaf.is_meta for leaf in flatten(given) if isinstance(leaf, torch.Tensor)}
        if len(on_meta) > 1:
            given = map_structure(lambda leaf: leaf.to("meta") if isinstance(leaf, torch.Tensor) else leaf, given)
        return func(*given[0], **given[1])


def _own_words(wrong: Exception) -> str:
    """Returns the text of an error from the `call` of a class that isn't layergraph's."""
    reason = str(wrong).splitlines()[0][:200] if str(wrong) else type(wrong).__name__
    if "Weight" in reason or reason.endswith("'Tensor' object has no attribute 'value'"):
        return f"{reason}; in call the attribute of a weight is its tensor, as in self.w or self.dense.kernel"
    if "meta" not in reason:
        return reason
    return (
        f"call depends on the values of tensors, where only shapes are known ({reason}); expected operations on "
        "tensors alone, such as torch.where or layergraph.ops.where in place of `if`"
    )


def _has_few_constants(invocation: Invocation) -> bool:
    """Whether the constant arguments are small enough to compute values with: a file may hold a million elements."""
    leaves = flatten(list(invocation.template))
    return len(leaves) + sum(leaf.size for leaf in leaves if isinstance(leaf, np.ndarray)) <= MAX_VALUES


def _one_run_suffices(
    invocation: Invocation, shapes: Sequence[Shape], results: _Results, symbolic_dims: SymbolicDims
) -> bool:
    """Whether a second run isn't needed: only the batch size is unknown, and the layer keeps the batch axis first."""
    values, masks = results
    made = [*values, *(mask for mask in masks if mask is not None)]
    if any(not value.is_meta or symbolic_dims.length in value.shape[1:] for value in made):
        return False
    if not any(None in shape for shape in shapes):
        return True
    if invocation.layer.is_operation or any(None in shape[1:] for shape in shapes):
        return False
    return all(tuple(value.shape[:1]) == (symbolic_dims.rows,) for value in made)


def _of_one_run(value: torch.Tensor, mask: Any, rows: int) -> Inferred:
    def shape_of(made: torch.Tensor) -> Shape:
        return tuple(None if axis == 0 and size == rows else size for axis, size in enumerate(made.shape))

    return Inferred(shape_of(value), dtype_name(value.dtype), None if mask is None else shape_of(mask))


def _of_two_runs(
    first: torch.Tensor,
    first_mask: Any,
    second: torch.Tensor,
    second_mask: Any,
    symbolic_dims: tuple[SymbolicDims, SymbolicDims],
) -> Inferred:
    both = (first, second)
    plain = all(isinstance(v, torch.Tensor) and not v.is_meta and v.numel() <= MAX_VALUES for v in both)
    return Inferred(
        _merge(first, second),
        dtype_name(first.dtype),
        None if first_mask is None or second_mask is None else _merge(first_mask, second_mask),
        KnownValues(first, second, symbolic_dims) if plain else None,
    )


def _merge(first: torch.Tensor, second: torch.Tensor) -> Shape:
    return tuple(a if a == b else None for a, b in zip(first.shape, second.shape, strict=True))
