"""Python's operators on symbolic tensors: each adds an operation's node, as in Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from layergraph.functional.layer import Layer


Table: TypeAlias = Mapping[str, Callable[[], "Layer"]]

_installed: list[Callable[[], Table]] = []


def install(operations: Callable[[], Table]) -> None:
    """Sets the function that returns the operations behind the operators, by Keras's class names.

    Operations are layers, and layers import tensors: the package's `__init__` passes them in to avoid a cycle.
    """
    _installed[:] = [operations]


def _operate(name: str, *operands: Any) -> Any:
    (operations,) = _installed
    return operations()[name]()(*operands)


class Operators:
    """Arithmetic, comparisons (except `==`, which compares identity) and subscripts of symbolic tensors."""

    __slots__ = ()

    #: NumPy arrays on the left defer to the tensor's operator.
    __array_ufunc__ = None

    def __add__(self, other: Any) -> Any:
        return _operate("Add", self, other)

    def __radd__(self, other: Any) -> Any:
        return _operate("Add", other, self)

    def __sub__(self, other: Any) -> Any:
        return _operate("Subtract", self, other)

    def __rsub__(self, other: Any) -> Any:
        return _operate("Subtract", other, self)

    def __mul__(self, other: Any) -> Any:
        return _operate("Multiply", self, other)

    def __rmul__(self, other: Any) -> Any:
        return _operate("Multiply", other, self)

    def __matmul__(self, other: Any) -> Any:
        return _operate("Matmul", self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return _operate("Matmul", other, self)

    def __truediv__(self, other: Any) -> Any:
        return _operate("TrueDivide", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _operate("TrueDivide", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return _operate("FloorDivide", self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _operate("FloorDivide", other, self)

    def __mod__(self, other: Any) -> Any:
        return _operate("Mod", self, other)

    def __rmod__(self, other: Any) -> Any:
        return _operate("Mod", other, self)

    def __pow__(self, other: Any) -> Any:
        return _operate("Power", self, other)

    def __rpow__(self, other: Any) -> Any:
        return _operate("Power", other, self)

    def __neg__(self) -> Any:
        return _operate("Negative", self)

    def __abs__(self) -> Any:
        return _operate("Absolute", self)

    def __lt__(self, other: Any) -> Any:
        return _operate("Less", self, other)

    def __le__(self, other: Any) -> Any:
        return _operate("LessEqual", self, other)

    def __gt__(self, other: Any) -> Any:
        return _operate("Greater", self, other)

    def __ge__(self, other: Any) -> Any:
        return _operate("GreaterEqual", self, other)

    def __and__(self, other: Any) -> Any:
        return _operate("LogicalAnd", self, other)

    def __rand__(self, other: Any) -> Any:
        return _operate("LogicalAnd", other, self)

    def __or__(self, other: Any) -> Any:
        return _operate("LogicalOr", self, other)

    def __ror__(self, other: Any) -> Any:
        return _operate("LogicalOr", other, self)

    def __xor__(self, other: Any) -> Any:
        return _operate("LogicalXor", self, other)

    def __rxor__(self, other: Any) -> Any:
        return _operate("LogicalXor", other, self)

    def __invert__(self) -> Any:
        return _operate("LogicalNot", self)

    def __getitem__(self, key: Any) -> Any:
        return _operate("GetItem", self, key)
