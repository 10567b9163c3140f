"""TensorFlow functions that index, mask and create arrays, and that Keras 3 lacks (tf)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from layergraph.config.tensorflow_ops import subscript
from layergraph.errors import DataError, GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.exporting import has_any
from layergraph.functional.weights import Weights
from layergraph.ops.indexing import GetItem
from layergraph.ops.operation import Operation, function_node, unknown_length

#: Maximum number of elements of an array created from numbers alone.
_MOST = 10_000_000


def _integers(value: Any) -> list[int]:
    """A list of integers; it may be, or contain, tensors with known values."""
    value = value.reshape(-1).tolist() if isinstance(value, torch.Tensor) else value
    return [int(n) for n in (value if isinstance(value, (list, tuple)) else [value])]


def _indices(value: Any, like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(value, device=like.device).to(torch.int64)


def _checked(indices: torch.Tensor, length: int) -> torch.Tensor:
    if has_any((indices < 0) | (indices >= length)):
        raise DataError(f"an index is out of range, expected from 0 to {length - 1}")
    return indices


# By index.


def _gathered(params: Any, indices: Any = None, axis: int | None = None, batch_dims: int = 0, ids: Any = None) -> Any:
    """tf.gather: slices of `params` along `axis`, by separate indices for each element of the batch axes."""
    indices = ids if indices is None else indices
    if not isinstance(params, torch.Tensor):
        # `params` is a constant.
        params = torch.as_tensor(params, device=indices.device)
        params = params.to(torch.int32) if params.dtype is torch.int64 else params
    chosen = _indices(indices, params)
    batch = batch_dims % max(chosen.ndim, 1) if batch_dims < 0 else batch_dims
    along = batch if axis is None else axis % params.ndim
    places = _checked(chosen, params.shape[along])
    x = params.movedim(along, batch)
    rows, rest = list(x.shape[:batch]), x.shape[batch + 1 :]
    flat = places.reshape(*rows, -1)
    spread = flat.reshape(*flat.shape, *[1] * len(rest)).expand(*flat.shape, *rest)
    y = x.gather(batch, spread).reshape(*chosen.shape, *rest)
    several = chosen.ndim - batch
    return y.movedim(tuple(range(batch, batch + several)), tuple(range(along, along + several)))


def _gathered_nd(params: torch.Tensor, indices: Any, batch_dims: int = 0) -> torch.Tensor:
    """tf.gather_nd: elements by tuples of indices."""
    chosen = _indices(indices, params)
    axes = chosen.shape[-1]
    rows = params.shape[:batch_dims]
    grid = [
        torch.arange(n, device=params.device).reshape(-1, *[1] * (chosen.ndim - 2 - at)) for at, n in enumerate(rows)
    ]
    places = [_checked(chosen[..., at], params.shape[batch_dims + at]) for at in range(axes)]
    at = (*grid, *places)
    return params[at]


def _places(indices: torch.Tensor, shape: list[int]) -> torch.Tensor:
    """Flat indices of the first axes for tuples of indices."""
    axes = indices.shape[-1]
    for at in range(axes):
        _checked(indices[..., at], shape[at])
    strides = [math.prod(shape[at + 1 : axes]) for at in range(axes)]
    return (indices * torch.tensor(strides, device=indices.device)).sum(-1).reshape(-1)


def _scattered(how: str) -> Callable[..., torch.Tensor]:
    """tf.tensor_scatter_nd_*: updates at the indices."""

    def scattered(tensor: torch.Tensor, indices: Any, updates: Any) -> torch.Tensor:
        chosen = _indices(indices, tensor)
        axes = chosen.shape[-1]
        places, rest = _places(chosen, list(tensor.shape)), tensor.shape[axes:]
        flat = tensor.reshape(-1, *rest)
        values = torch.as_tensor(updates, device=tensor.device).to(tensor.dtype).reshape(-1, *rest)
        if how == "update":
            changed = flat.index_copy(0, places, values)
        elif how in ("add", "sub"):
            changed = flat.index_add(0, places, values if how == "add" else -values)
        else:
            where = places.reshape(-1, *[1] * len(rest)).expand(values.shape)
            changed = flat.scatter_reduce(0, where, values, how)
        return changed.reshape(tensor.shape)

    return scattered


def _scatter_nd(indices: Any, updates: Any, shape: Any) -> torch.Tensor:
    """tf.scatter_nd: updates added to zeros."""
    like = updates if isinstance(updates, torch.Tensor) else indices
    zeros = torch.as_tensor(updates, device=like.device).new_zeros(()).expand(_integers(shape))
    return _scattered("add")(zeros, indices, updates)


class BooleanMask(Operation):
    """The elements where the mask is true, along one axis (tf.boolean_mask). Their number depends on the data."""

    keras_module = "layergraph.ops"

    def forward(  # type: ignore[override]
        self, context: CallContext, w: Weights, tensor: torch.Tensor, mask: Any, axis: int | None = None
    ) -> torch.Tensor:
        holds = torch.as_tensor(mask, device=tensor.device).to(torch.bool)
        first = axis or 0
        rest = tensor.shape[first + holds.ndim :]
        if tensor.is_meta:
            return tensor.new_empty((*tensor.shape[:first], unknown_length(context), *rest))
        flat = tensor.reshape(*tensor.shape[:first], -1, *rest)
        return flat.index_select(first, torch.nonzero(holds.reshape(-1)).reshape(-1))


class Where(Operation):
    """The indices where the condition is true: (count, axes) (tf.where of a condition alone)."""

    keras_module = "layergraph.ops"

    def forward(self, context: CallContext, w: Weights, condition: torch.Tensor) -> torch.Tensor:
        if condition.is_meta:
            return condition.new_empty((unknown_length(context), condition.ndim), dtype=torch.int64)
        return torch.nonzero(condition)


class Unique(Operation):
    """The distinct elements in order of first occurrence, and each element's index among them (tf.unique)."""

    keras_module = "layergraph.ops"

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> list[torch.Tensor]:
        if x.is_meta:
            return [x.new_empty(unknown_length(context)), x.new_empty(x.shape[0], dtype=torch.int32)]
        values, inverse = torch.unique(x, return_inverse=True)
        order = torch.arange(x.shape[0], device=x.device)
        first = order.new_empty(values.shape[0]).scatter_reduce(0, inverse, order, "amin", include_self=False)
        by_place = torch.argsort(first)
        return [values[by_place], torch.argsort(by_place)[inverse].to(torch.int32)]


class StridedSlice(Operation):
    """tf.strided_slice whose bounds are tensors with values derived from shapes."""

    keras_module = "layergraph.ops"
    reads_values = True
    computes_values = True
    variadic = True

    def forward(  # type: ignore[override]
        self, context: CallContext, w: Weights, x: torch.Tensor, begin: Any, end: Any, strides: Any, **masks: int
    ) -> Any:
        key = subscript(_integers(begin), _integers(end), _integers(strides), masks)
        return GetItem(name="op").forward(context, w, x, key)


class Slice(Operation):
    """tf.slice. A size of -1 extends to the end."""

    keras_module = "layergraph.ops"
    reads_values = True
    computes_values = True
    variadic = True

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor, begin: Any, size: Any) -> torch.Tensor:  # type: ignore[override]
        known = context.symbolic_dims
        for axis, (start, length) in enumerate(zip(_integers(begin), _integers(size), strict=True)):
            rest = x.shape[axis] - start
            if known is not None and known.is_unknown(x, axis) and (length < 0 or rest < length):
                # The placeholder of an unknown length may be shorter than real data.
                shape = list(x.shape)
                shape[axis] = length if length >= 0 and rest < length else x.shape[axis]
                x = x.new_empty(shape)
            else:
                x = x.narrow(axis, start, rest if length == -1 else length)
        return x


def _reversed_sequence(
    x: torch.Tensor,
    seq_lengths: Any,
    seq_axis: int | None = None,
    batch_axis: int | None = None,
    seq_dim: int | None = None,
    batch_dim: int | None = None,
) -> torch.Tensor:
    """tf.reverse_sequence: reverses the first `seq_lengths` steps of each row."""
    steps = (seq_axis if seq_axis is not None else seq_dim) or 0
    rows = (batch_axis if batch_axis is not None else batch_dim) or 0
    y = x.movedim((rows, steps), (0, 1))
    lengths = _indices(seq_lengths, x)[:, None]
    at = torch.arange(y.shape[1], device=x.device)
    source = torch.where(at < lengths, lengths - 1 - at, at)
    source = source.reshape(*source.shape, *[1] * (y.ndim - 2)).expand(y.shape)
    return y.gather(1, source).movedim((0, 1), (rows, steps))


# Arrays created from numbers.


def _sequence_mask(lengths: Any, maxlen: Any = None, dtype: str = "bool") -> torch.Tensor:
    """tf.sequence_mask: for each length, that many ones, then zeros."""
    given = torch.as_tensor(lengths)
    most = int(given.max()) if maxlen is None else _integers(maxlen)[0]
    if not 0 <= most * max(given.numel(), 1) <= _MOST and not given.is_meta:
        raise DataError(f"maxlen is {most}, expected from 0 to {_MOST} for all lengths together")
    return (torch.arange(most, device=given.device) < given.unsqueeze(-1)).to(torch_dtype(dtype))


def _one_hot(
    indices: torch.Tensor,
    depth: Any,
    on_value: Any = None,
    off_value: Any = None,
    axis: int | None = None,
    dtype: str | None = None,
) -> torch.Tensor:
    """tf.one_hot."""
    classes = torch.arange(_integers(depth)[0], device=indices.device)
    on, off = 1 if on_value is None else on_value, 0 if off_value is None else off_value
    given = [torch.as_tensor(v) for v in (on_value, off_value) if v is not None]
    explicit = None if dtype is None else torch_dtype(dtype)
    kind = explicit or (torch.float32 if not given else given[0].dtype)
    kind = torch.int32 if kind is torch.int64 and explicit is None and not isinstance(on_value, torch.Tensor) else kind
    on, off = (torch.as_tensor(v, device=indices.device).to(kind) for v in (on, off))
    y = torch.where(indices.unsqueeze(-1) == classes, on, off)
    return y.movedim(-1, -1 if axis is None else axis)


def _filled(value: float) -> Callable[..., torch.Tensor]:
    """tf.zeros and tf.ones of a shape that may contain tensors."""

    def filled(shape: Any, dtype: str = "float32") -> torch.Tensor:
        return torch.full((), value, dtype=torch_dtype(dtype)).expand(_integers(shape))

    return filled


class Eye(Operation):
    """Ones on the diagonal (tf.eye). Raises GraphError for a matrix that is too large."""

    keras_module = "layergraph.ops"
    reads_values = True
    computes_values = True
    variadic = True

    def forward(
        self,
        context: CallContext,
        w: Weights,
        num_rows: Any,
        num_columns: Any = None,
        batch_shape: Any = None,
        dtype: str = "float32",
    ) -> torch.Tensor:
        rows = _integers(num_rows)[0]
        columns = rows if num_columns is None else _integers(num_columns)[0]
        is_large = rows * columns > _MOST
        # While shapes are inferred, a length that comes from a shape is longer than that of real data.
        if is_large and (context.symbolic_dims is None or not isinstance(num_rows, torch.Tensor)):
            raise GraphError(f"got a matrix of {rows} x {columns}, expected at most {_MOST} elements")
        kind = torch_dtype(dtype)
        made = (
            torch.empty(rows, columns, dtype=kind, device="meta") if is_large else torch.eye(rows, columns, dtype=kind)
        )
        return made.expand(*_integers(batch_shape or []), rows, columns)


def _linspace(start: Any, stop: Any, num: Any, axis: int = 0) -> torch.Tensor:
    """tf.linspace."""
    first, last = torch.as_tensor(start), torch.as_tensor(stop)
    count = _integers(num)[0]
    if not 0 < count * max(first.numel(), 1) <= _MOST and not first.is_meta:
        raise GraphError(f"got {count} numbers per range, expected from 1 to {_MOST} in total")
    steps = torch.arange(count, device=first.device, dtype=torch.float32).reshape(-1, *[1] * first.ndim)
    y = first + (last - first) * steps / max(count - 1, 1)
    return y.movedim(0, axis)


def _repeated(x: torch.Tensor, repeats: Any, axis: int | None = None) -> torch.Tensor:
    """tf.repeat: repeats each element, by one number for all or one for each."""
    x, along = (x.reshape(-1), 0) if axis is None else (x, axis)
    counts = _integers(repeats)
    if min(counts) < 0 or sum(counts) > _MOST:
        raise GraphError(f"repeats are {counts[:5]}, expected from 0 to {_MOST}")
    if len(counts) == 1:
        return x.repeat_interleave(counts[0], along)
    order = [place for place, count in enumerate(counts) for _ in range(count)]
    return x.index_select(along, torch.tensor(order, dtype=torch.int64, device=x.device))


def _space_to_batch(x: torch.Tensor, block_shape: Any, paddings: Any) -> torch.Tensor:
    """tf.space_to_batch: moves the pixels of a block to separate rows."""
    blocks = _integers(block_shape)
    pads = [[int(n) for n in pair] for pair in (paddings.tolist() if isinstance(paddings, torch.Tensor) else paddings)]
    rest = x.ndim - 1 - len(blocks)
    flat = [n for pair in reversed([*pads, *[[0, 0]] * rest]) for n in pair]
    x = torch.nn.functional.pad(x, flat)
    split = [part for n, block in zip(x.shape[1:], blocks, strict=False) for part in (n // block, block)]
    y = x.reshape(x.shape[0], *split, *x.shape[1 + len(blocks) :])
    count = len(blocks)
    inner = [2 + 2 * k for k in range(count)]
    outer = [1 + 2 * k for k in range(count)]
    y = y.permute(*inner, 0, *outer, *range(1 + 2 * count, y.ndim))
    return y.reshape(-1, *y.shape[count + 1 :])


def _batch_to_space(x: torch.Tensor, block_shape: Any, crops: Any) -> torch.Tensor:
    """tf.batch_to_space: the inverse."""
    blocks = _integers(block_shape)
    count = len(blocks)
    rows = x.shape[0] // math.prod(blocks)
    y = x.reshape(*blocks, rows, *x.shape[1:])
    order = [count, *[axis for k in range(count) for axis in (count + 1 + k, k)], *range(2 * count + 1, y.ndim)]
    y = y.permute(order)
    y = y.reshape(rows, *[n * block for n, block in zip(x.shape[1:], blocks, strict=False)], *x.shape[1 + count :])
    for axis, (before, after) in enumerate(crops, start=1):
        y = y.narrow(axis, int(before), y.shape[axis] - int(before) - int(after))
    return y


def _shape(x: torch.Tensor, out_type: str = "int32") -> torch.Tensor:
    """tf.shape, on the CPU, since other shapes are computed from it."""
    return torch.tensor(list(x.shape), dtype=torch_dtype(out_type))


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "BatchFlatten": lambda x: x.flatten(1),
    "BatchToSpace": _batch_to_space,
    "Gather": _gathered,
    "GatherNd": _gathered_nd,
    "IdentityN": lambda xs: list(xs) if isinstance(xs, (list, tuple)) else xs,
    "OneHot": _one_hot,
    "ReverseSequence": _reversed_sequence,
    "ScatterAdd": _scattered("add"),
    "ScatterMax": _scattered("amax"),
    "ScatterMin": _scattered("amin"),
    "ScatterNd": _scatter_nd,
    "ScatterSub": _scattered("sub"),
    "ScatterUpdate": _scattered("update"),
    "SpaceToBatch": _space_to_batch,
}
#: Functions that need values derived from shapes as arguments, and of those the ones whose results are such values.
_OF_SHAPES: Mapping[str, Callable[..., Any]] = {"Repeat": _repeated, "SequenceMask": _sequence_mask}
_OF_VALUES: Mapping[str, Callable[..., Any]] = {
    "Linspace": _linspace,
    "Ones": _filled(1),
    "Zeros": _filled(0),
}

OPERATIONS: dict[str, type[Operation]] = {
    **{
        f"tf>{name}": function_node(name, function, computes_values=name in ("Gather", "IdentityN"))
        for name, function in _FUNCTIONS.items()
    },
    **{f"tf>{name}": function_node(name, function, reads_values=True) for name, function in _OF_SHAPES.items()},
    **{
        f"tf>{name}": function_node(name, function, reads_values=True, computes_values=True)
        for name, function in _OF_VALUES.items()
    },
    "tf>BooleanMask": BooleanMask,
    "tf>Eye": Eye,
    "tf>Slice": Slice,
    "tf>Shape": function_node("Shape", _shape),
    "tf>StridedSlice": StridedSlice,
    "tf>Unique": Unique,
    "tf>Where": Where,
}
