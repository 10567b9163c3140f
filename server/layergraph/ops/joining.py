"""Operations that join and split arrays (keras.ops.numpy)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import (
    integer,
    list_of,
    one_or_list_of,
    option,
    optional,
)
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.weights import Weights
from layergraph.ops.operation import Operation, as_tensors


class Concatenate(Operation):
    """The concatenated tensors, in their widest dtype (keras.ops.concatenate).

    As in shapes, some of them may be lists of numbers.
    """

    computes_values = True

    axis: int | None = option(optional(integer), default=0)

    def forward(self, context: CallContext, w: Weights, xs: Any) -> torch.Tensor:
        xs = [x if isinstance(x, torch.Tensor) else _listed(x, xs) for x in xs]
        if self.axis is None:
            return torch.cat([x.reshape(-1) for x in xs])
        return torch.cat(list(xs), self.axis)


def _listed(numbers: Any, others: Any) -> torch.Tensor:
    """A list of numbers and tensors without axes as a tensor, in the dtype of the first tensor."""
    like = next((x for x in others if isinstance(x, torch.Tensor)), None)
    given = numbers if isinstance(numbers, (list, tuple)) else [numbers]
    like = next((x for x in given if isinstance(x, torch.Tensor)), like)
    if like is None:
        return torch.as_tensor(given)
    if not given:
        return like.new_zeros(0)
    return torch.stack([torch.as_tensor(x, device=like.device).to(like.dtype) for x in given])


class Stack(Operation):
    """The tensors along a new axis (keras.ops.stack)."""

    computes_values = True
    inserts_axis = True

    axis: int = option(integer, default=0)

    def forward(self, context: CallContext, w: Weights, x: Any) -> torch.Tensor:
        # As in shapes, some of them may be numbers.
        like = next((item for item in x if isinstance(item, torch.Tensor)), None)
        return torch.stack(
            [item if isinstance(item, torch.Tensor) or like is None else torch.as_tensor(item).to(like) for item in x],
            self.axis,
        )


class Append(Operation):
    """The second tensor after the first (keras.ops.append)."""

    axis: int | None = option(optional(integer), default=None)

    def forward(self, context: CallContext, w: Weights, x1: Any, x2: Any) -> torch.Tensor:  # type: ignore[override]
        a, b = as_tensors(x1, x2)
        return torch.cat([a.reshape(-1), b.reshape(-1)]) if self.axis is None else torch.cat([a, b], self.axis)


class _Joined(Operation):
    def forward(self, context: CallContext, w: Weights, xs: Any) -> torch.Tensor:
        return self.joined(list(xs))

    def joined(self, xs: list[torch.Tensor]) -> torch.Tensor:
        """Joins the arrays; defined by subclasses."""
        raise NotImplementedError


class Hstack(_Joined):
    """keras.ops.hstack."""

    def joined(self, xs: list[torch.Tensor]) -> torch.Tensor:
        """Along the second axis."""
        return torch.hstack(xs)


class Vstack(_Joined):
    """keras.ops.vstack."""

    def joined(self, xs: list[torch.Tensor]) -> torch.Tensor:
        """Along the first axis."""
        return torch.vstack(xs)


class Dstack(_Joined):
    """keras.ops.dstack."""

    def joined(self, xs: list[torch.Tensor]) -> torch.Tensor:
        """Along the third axis."""
        return torch.dstack(xs)


class AddN(_Joined):
    """tf.add_n."""

    keras_module = "layergraph.ops"

    def joined(self, xs: list[torch.Tensor]) -> torch.Tensor:
        """The sum of the tensors."""
        total = xs[0]
        for x in xs[1:]:
            total = total + x
        return total


class Split(Operation):
    """The parts (keras.ops.split). Raises GraphError if the axis can't be split equally."""

    computes_values = True

    indices_or_sections: Any = option(one_or_list_of(integer))
    axis: int = option(integer, default=0)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> list[torch.Tensor]:
        if isinstance(self.indices_or_sections, int):
            unknown = context.symbolic_dims is not None and context.symbolic_dims.is_unknown(x, self.axis % x.ndim)
            if unknown:
                # Whether an unknown length is divisible is only known at run time.
                part = x.narrow(self.axis, 0, -(-x.shape[self.axis] // self.indices_or_sections))
                return [part] * self.indices_or_sections
            if x.shape[self.axis] % self.indices_or_sections:
                raise GraphError(
                    f"can't split {x.shape[self.axis]} elements into {self.indices_or_sections} equal parts"
                )
            return list(torch.tensor_split(x, self.indices_or_sections, self.axis))
        return list(torch.tensor_split(x, list(self.indices_or_sections), self.axis))


class Unstack(Operation):
    """The slices along an axis (keras.ops.unstack)."""

    computes_values = True
    keras_module = "keras.src.ops.core"

    num: int | None = option(optional(integer), default=None)
    axis: int = option(integer, default=0)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> list[torch.Tensor]:
        return list(x.unbind(self.axis))


class _SplitAlong(Operation):
    indices_or_sections: Any = option(one_or_list_of(integer))
    along = 0

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> list[torch.Tensor]:
        return Split(self.indices_or_sections, self.along).forward(context, w, x)


class Hsplit(_SplitAlong):
    """keras.ops.hsplit."""

    along = 1


class Vsplit(_SplitAlong):
    """keras.ops.vsplit."""


class Dsplit(_SplitAlong):
    """keras.ops.dsplit."""

    along = 2


class ArraySplit(Operation):
    """The parts, whose lengths may differ (keras.ops.array_split)."""

    indices_or_sections: Any = option(one_or_list_of(integer))
    axis: int = option(integer, default=0)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> list[torch.Tensor]:
        given = self.indices_or_sections
        return list(torch.tensor_split(x, given if isinstance(given, int) else list(given), self.axis))


class SplitSizes(Operation):
    """The parts, of given lengths (tf.split). One length may be -1. Raises GraphError if lengths don't add up."""

    keras_module = "layergraph.ops"
    sizes: Any = option(list_of(integer))
    axis: int = option(integer, default=0)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> list[torch.Tensor]:
        rest = x.shape[self.axis] - sum(n for n in self.sizes if n >= 0)
        sizes = [rest if n < 0 else n for n in self.sizes]
        if min(sizes) < 0 or sum(sizes) != x.shape[self.axis]:
            raise GraphError(f"can't split {x.shape[self.axis]} elements into parts of {list(self.sizes)}")
        return list(torch.split(x, sizes, self.axis))


OPERATIONS: dict[str, type[Operation]] = {
    "Append": Append,
    "ArraySplit": ArraySplit,
    "Concatenate": Concatenate,
    "Dsplit": Dsplit,
    "Dstack": Dstack,
    "Hsplit": Hsplit,
    "Hstack": Hstack,
    "Split": Split,
    "Stack": Stack,
    "Unstack": Unstack,
    "Vsplit": Vsplit,
    "Vstack": Vstack,
    "tf>AddN": AddN,
    "tf>SplitSizes": SplitSizes,
}
