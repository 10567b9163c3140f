"""Layers that merge several tensors into one (keras.layers.merging), and the lower-case functions for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch

from layergraph.config.options import Expected, boolean, integer, one_of, option
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights

#: The mask of each input, or None if no input has one.
Masks: TypeAlias = "Sequence[torch.Tensor | None] | None"


class _Merge(Layer):
    """A layer called on a list of tensors.

    mask_rule   how masks are combined: as in `keras3`, as in `keras2`, or `none`, as Keras 3.0 to 3.3, which dropped
                them. Set from the file's version and never saved
    """

    mask_rule: str = option(one_of("keras3", "keras2", "none"), default="keras3", kw_only=True, saved=False)

    supports_masking = True
    masks_in_calls = False

    def forward(self, context: CallContext, w: Weights, inputs: Any, mask: Any = None) -> torch.Tensor:
        """Merges the tensors. Raises GraphError unless `inputs` is a list of tensors with compatible shapes."""
        tensors = self.checked(inputs)
        return self.merge(tensors, mask if self.mask_rule == "keras3" else None)

    def checked(self, inputs: Any) -> list[torch.Tensor]:
        """Returns the inputs as a list. Raises GraphError if they aren't one."""
        if not isinstance(inputs, (list, tuple)) or not inputs:
            raise GraphError(f"a {type(self).__name__} layer must be called on a list of tensors, got a single one")
        return list(inputs)

    def merge(self, tensors: list[torch.Tensor], masks: Masks) -> torch.Tensor:
        """Merges the tensors; `masks` is for layers that leave out masked elements."""
        raise NotImplementedError

    def compute_mask(self, context: CallContext, inputs: Any, mask: Any) -> Any:
        """Combines the masks. Keras 3: a timestep is kept if any input keeps it; no mask if an input has none. Keras 2:
        a timestep is kept if all inputs with a mask keep it.
        """
        masks = mask if isinstance(mask, (list, tuple)) else [mask]
        given = [known for known in masks if known is not None]
        if not given or self.mask_rule == "none" or (self.mask_rule == "keras3" and len(given) < len(masks)):
            return None
        combine = torch.logical_or if self.mask_rule == "keras3" else torch.logical_and
        result = given[0]
        for known in given[1:]:
            result = combine(result, known)
        return result


class _Elementwise(_Merge):
    """Combines inputs element by element, with broadcasting. Inputs of lower rank get axes of length 1 after the batch
    axis.
    """

    def forward(self, context: CallContext, w: Weights, inputs: Any, mask: Any = None) -> torch.Tensor:
        """Merges the tensors. Raises GraphError unless `inputs` is a list of tensors."""
        tensors = self.checked(inputs)
        rank = max(tensor.ndim for tensor in tensors)
        expanded = [_with_rank(tensor, rank) for tensor in tensors]
        if context.symbolic_dims is not None:
            for axis in range(1, rank):
                expanded = _with_unknown(expanded, axis, context.symbolic_dims.length)
        masks = None
        if self.mask_rule == "keras3" and mask is not None:
            # In Keras an input that is expanded loses its mask.
            masks = [m if t.ndim == rank else None for m, t in zip(mask, tensors, strict=True)]
        return self.merge(expanded, masks)


class Add(_Elementwise):
    """Sum of the inputs (keras.layers.Add)."""

    def merge(self, tensors: list[torch.Tensor], masks: Masks) -> torch.Tensor:
        """Computes the sum."""
        return _reduced(torch.add, tensors)


class Subtract(_Elementwise):
    """First input minus the second (keras.layers.Subtract)."""

    def checked(self, inputs: Any) -> list[torch.Tensor]:
        """Returns the inputs as a list. Raises GraphError unless there are two."""
        return _two(self, super().checked(inputs))

    def merge(self, tensors: list[torch.Tensor], masks: Masks) -> torch.Tensor:
        """Computes the difference."""
        return tensors[0] - tensors[1]


class Multiply(_Elementwise):
    """Product of the inputs (keras.layers.Multiply). Masked elements count as 1; 0 where all are masked."""

    def merge(self, tensors: list[torch.Tensor], masks: Masks) -> torch.Tensor:
        """Computes the product."""
        if masks is None or all(mask is None for mask in masks):
            return _reduced(torch.mul, tensors)
        factors = [t if m is None else torch.where(m[..., None], t, 1) for t, m in zip(tensors, masks, strict=True)]
        product = _reduced(torch.mul, factors)
        known = [m[..., None].expand(t.shape) for t, m in zip(tensors, masks, strict=True) if m is not None]
        return torch.where(_reduced(torch.logical_or, known), product, 0) if len(known) == len(tensors) else product


class Average(_Elementwise):
    """Mean of the inputs (keras.layers.Average)."""

    def merge(self, tensors: list[torch.Tensor], masks: Masks) -> torch.Tensor:
        """Computes the mean."""
        return _reduced(torch.add, tensors) / len(tensors)


class _Extreme(_Elementwise):
    """Maximum or minimum of the elements that aren't masked."""

    pick: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def merge(self, tensors: list[torch.Tensor], masks: Masks) -> torch.Tensor:
        """Computes the extreme pairwise, as Keras does."""
        pick = type(self).pick
        if masks is None or all(mask is None for mask in masks):
            return _reduced(pick, tensors)
        output = tensors[0]
        known = None if masks[0] is None else masks[0][..., None].expand(output.shape)
        for tensor, mask in zip(tensors[1:], masks[1:], strict=True):
            wide = None if mask is None else mask[..., None].expand(tensor.shape)
            if wide is not None:
                tensor = torch.where(wide, tensor, output)
            if known is not None:
                output = torch.where(known, output, tensor)
            known = torch.logical_or(known, wide) if known is not None and wide is not None else None
            output = pick(output, tensor)
        return output


class Maximum(_Extreme):
    """Element-wise maximum of the inputs (keras.layers.Maximum)."""

    pick = torch.maximum


class Minimum(_Extreme):
    """Element-wise minimum of the inputs (keras.layers.Minimum)."""

    pick = torch.minimum


class Concatenate(_Merge):
    """Concatenates the inputs along `axis` (keras.layers.Concatenate)."""

    axis: int = option(integer, default=-1)

    def forward(self, context: CallContext, w: Weights, inputs: Any, mask: Any = None) -> torch.Tensor:
        tensors = self.checked(inputs)
        if context.symbolic_dims is not None:
            tensors = [
                tensors[0],
                *(self._fitted(tensor, tensors[0], context.symbolic_dims.length) for tensor in tensors[1:]),
            ]
        return self.merge(tensors, mask)

    def _fitted(self, tensor: torch.Tensor, first: torch.Tensor, unknown: int) -> torch.Tensor:
        """Resizes a `meta` tensor to the first one's lengths where either is unknown, as Keras infers shapes."""
        for axis in range(1, min(tensor.ndim, first.ndim)):
            if axis != self.axis % first.ndim and unknown in (tensor.shape[axis], first.shape[axis]):
                tensor = _resized(tensor, axis, first.shape[axis])
        return tensor

    def merge(self, tensors: list[torch.Tensor], masks: Masks) -> torch.Tensor:
        """Concatenates the inputs. Raises GraphError if ranks differ or `axis` doesn't exist."""
        shapes = [tuple(tensor.shape) for tensor in tensors]
        rank = len(shapes[0])
        if any(len(shape) != rank for shape in shapes) or not -rank <= self.axis < rank:
            raise GraphError(f"got shapes {shapes}, expected equal ranks and an axis {self.axis} to concatenate along")
        return torch.cat(tensors, self.axis)

    def compute_mask(self, context: CallContext, inputs: Any, mask: Any) -> Any:
        """Concatenates the masks; an input without one counts as all True. A timestep is kept if any of its features
        is (Keras 3), or if all are (Keras 2).
        """
        masks = mask if isinstance(mask, (list, tuple)) else [mask]
        if self.mask_rule == "none" or all(known is None for known in masks):
            return None
        wide = []
        for tensor, known in zip(inputs, masks, strict=True):
            if known is None:
                known = torch.ones(tensor.shape, dtype=torch.bool, device=tensor.device)
            elif known.ndim < tensor.ndim:
                known = known[..., None].expand(tensor.shape)
            wide.append(known)
        joined = torch.cat(wide, self.axis)
        return joined.any(-1) if self.mask_rule == "keras3" else joined.all(-1)


def _axes(value: Any) -> int | tuple[int, int]:
    if isinstance(value, (list, tuple)):
        if len(value) != 2:
            raise Expected("an integer or two of them")
        return integer(value[0]), integer(value[1])
    return integer(value)


class Dot(_Merge):
    """Batched dot product of two inputs along an axis of each (keras.layers.Dot).

    axes        the axis of both inputs, or one for each; not the batch axis, 0
    normalize   scales inputs to unit length along the axes first, which gives the cosine similarity

    (rows, a..., d) and (rows, d, b...) give (rows, a..., b...); two inputs of rank 2 give (rows, 1).
    """

    axes: int | tuple[int, int] = option(_axes)
    normalize: bool = option(boolean, default=False)

    def checked(self, inputs: Any) -> list[torch.Tensor]:
        """Returns the inputs as a list. Raises GraphError unless there are two."""
        return _two(self, super().checked(inputs))

    def forward(self, context: CallContext, w: Weights, inputs: Any, mask: Any = None) -> torch.Tensor:
        """Computes the dot products. Raises GraphError if an axis doesn't exist or lengths differ."""
        tensors = self.checked(inputs)
        if context.symbolic_dims is not None:
            axes = self._summed_axes(tensors)
            # An unknown length is compatible with any other.
            if context.symbolic_dims.length in {t.shape[axis] for t, axis in zip(tensors, axes, strict=True)}:
                pairs = zip(tensors, axes, strict=True)
                tensors = [_resized(tensor, axis, context.symbolic_dims.length) for tensor, axis in pairs]
        return self.merge(tensors, mask)

    def _summed_axes(self, tensors: list[torch.Tensor]) -> list[int]:
        """Returns the axis of each input. Raises GraphError if an input lacks it."""
        axes = (self.axes, self.axes) if isinstance(self.axes, int) else self.axes
        return [self._axis(axis, tuple(tensor.shape)) for axis, tensor in zip(axes, tensors, strict=True)]

    def merge(self, tensors: list[torch.Tensor], masks: Masks) -> torch.Tensor:
        """Computes the dot products. Raises GraphError if an axis doesn't exist or lengths differ."""
        shapes = [tuple(tensor.shape) for tensor in tensors]
        a, b = self._summed_axes(tensors)
        first, second = tensors
        if first.shape[a] != second.shape[b]:
            raise GraphError(f"got shapes {shapes}, expected equal lengths along axes {[a, b]}")
        if self.normalize:
            first, second = _unit_length(first, a), _unit_length(second, b)
        kept = [n for i, n in enumerate(first.shape) if i != a] + [
            n for i, n in enumerate(second.shape) if i not in (0, b)
        ]
        left = first.movedim(a, -1).flatten(1, -2) if first.ndim > 2 else first[:, None]
        right = second.movedim(b, 1).flatten(2) if second.ndim > 2 else second[:, :, None]
        if left.dtype != right.dtype:
            wider = torch.promote_types(left.dtype, right.dtype)
            left, right = left.to(wider), right.to(wider)
        return torch.matmul(left, right).reshape(kept if len(kept) > 1 else [*kept, 1])

    def _axis(self, axis: int, shape: tuple[int, ...]) -> int:
        if len(shape) < 2 or not -len(shape) < axis < len(shape) or axis == 0:
            raise GraphError(f"axes is {self.axes}, expected axes of shape {shape} other than the batch axis")
        return axis % len(shape)

    def compute_mask(self, context: CallContext, inputs: Any, mask: Any) -> Any:
        """None: the output's timesteps aren't those of the inputs."""
        return None


def _with_rank(tensor: torch.Tensor, rank: int) -> torch.Tensor:
    while tensor.ndim < rank:
        tensor = tensor.unsqueeze(1)
    return tensor


def _two(layer: Layer, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    if len(tensors) != 2:
        raise GraphError(f"a {type(layer).__name__} layer must be called on 2 tensors, got {len(tensors)}")
    return tensors


def _reduced(
    combine: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], tensors: Sequence[torch.Tensor]
) -> torch.Tensor:
    result = tensors[0]
    for tensor in tensors[1:]:
        result = combine(result, tensor)
    return result


def _unit_length(x: torch.Tensor, axis: int) -> torch.Tensor:
    # Keras's normalize bounds the inverse length by 1 / epsilon = 1e7, which float16 doesn't have.
    return x * torch.rsqrt(x.square().sum(axis, keepdim=True)).clamp_max(min(1e7, torch.finfo(x.dtype).max))


def _with_unknown(tensors: list[torch.Tensor], axis: int, unknown: int) -> list[torch.Tensor]:
    """Makes the lengths of `meta` tensors along `axis` unknown if one of them is; lengths of 1 broadcast.

    Keras infers an unknown length, although the others have to equal the known one.
    """
    lengths = {tensor.shape[axis] for tensor in tensors} - {1}
    if unknown not in lengths or len(lengths) != 2:
        return tensors
    return [t if t.shape[axis] == 1 else _resized(t, axis, unknown) for t in tensors]


def _resized(tensor: torch.Tensor, axis: int, length: int) -> torch.Tensor:
    return tensor.new_empty((*tensor.shape[:axis], length, *tensor.shape[axis + 1 :]))


def add(inputs: Any, **kwargs: Any) -> Any:
    """`Add(**kwargs)(inputs)`."""
    return Add(**kwargs)(inputs)


def subtract(inputs: Any, **kwargs: Any) -> Any:
    """`Subtract(**kwargs)(inputs)`."""
    return Subtract(**kwargs)(inputs)


def multiply(inputs: Any, **kwargs: Any) -> Any:
    """`Multiply(**kwargs)(inputs)`."""
    return Multiply(**kwargs)(inputs)


def average(inputs: Any, **kwargs: Any) -> Any:
    """`Average(**kwargs)(inputs)`."""
    return Average(**kwargs)(inputs)


def maximum(inputs: Any, **kwargs: Any) -> Any:
    """`Maximum(**kwargs)(inputs)`."""
    return Maximum(**kwargs)(inputs)


def minimum(inputs: Any, **kwargs: Any) -> Any:
    """`Minimum(**kwargs)(inputs)`."""
    return Minimum(**kwargs)(inputs)


def concatenate(inputs: Any, axis: int = -1, **kwargs: Any) -> Any:
    """`Concatenate(axis, **kwargs)(inputs)`."""
    return Concatenate(axis=axis, **kwargs)(inputs)


def dot(inputs: Any, axes: Any = -1, **kwargs: Any) -> Any:
    """`Dot(axes, **kwargs)(inputs)`."""
    return Dot(axes=axes, **kwargs)(inputs)


LAYERS: dict[str, type[Layer]] = {
    "Add": Add,
    "Average": Average,
    "Concatenate": Concatenate,
    "Dot": Dot,
    "Maximum": Maximum,
    "Minimum": Minimum,
    "Multiply": Multiply,
    "Subtract": Subtract,
}
