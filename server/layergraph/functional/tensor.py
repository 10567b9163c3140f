"""Symbolic tensors, which layers take and return while a model is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from layergraph.functional.operators import Operators

if TYPE_CHECKING:
    from layergraph.functional.layer import Layer
    from layergraph.functional.symbolic_dims import KnownValues

#: Length of each axis; None if it is known only in execution.
Shape: TypeAlias = "tuple[int | None, ...]"


class History(NamedTuple):
    """Origin of a tensor: the `tensor_index`-th output of the `node_index`-th call of `layer`."""

    layer: Layer
    node_index: int
    tensor_index: int


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, shape and dtype of an input or output."""

    name: str
    shape: Shape
    dtype: str


class Tensor(Operators):
    """A tensor without values (keras.KerasTensor).

    `mask_shape` is the shape of the tensor's boolean mask, or None. `values` are set if they depend on shapes alone, as
    for a tensor that is a shape.
    """

    __slots__ = ("__weakref__", "dtype", "history", "mask_shape", "name", "shape", "values")

    def __init__(
        self,
        shape: Shape,
        dtype: str,
        history: History,
        *,
        name: str = "",
        mask_shape: Shape | None = None,
        values: KnownValues | None = None,
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.history = history
        self.name = name
        self.mask_shape = mask_shape
        self.values = values

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __repr__(self) -> str:
        return f"<Tensor shape={self.shape}, dtype={self.dtype}, name={self.name}>"

    def __iter__(self) -> None:
        raise TypeError(f"{self!r} has no values yet; it can't be iterated over")

    def __bool__(self) -> bool:
        raise TypeError(f"{self!r} has no values yet; it can't be used as a truth value")
