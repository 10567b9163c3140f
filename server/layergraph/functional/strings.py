"""String tensors, for which torch has no dtype: they pass through a graph as arrays of bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from layergraph.errors import DataError


class Strings:
    """A tensor of dtype 'string': an object array of `bytes`, or no values during shape inference."""

    __slots__ = ("_values", "shape")

    dtype: Final = "string"

    def __init__(self, shape: tuple[int, ...], values: np.ndarray[Any, Any] | None = None) -> None:
        self.shape = shape
        self._values = values

    @classmethod
    def of(cls, array: np.ndarray[Any, Any], what: str = "input") -> Strings:
        """Converts an array of text or bytes; text is encoded as UTF-8. Raises DataError for other elements."""
        flat = np.empty(array.size, object)
        for i, item in enumerate(array.ravel().tolist()):
            if isinstance(item, str):
                try:
                    flat[i] = item.encode("utf-8")
                except UnicodeEncodeError:
                    raise DataError(f"{what}: got text that can't be encoded as UTF-8") from None
            elif isinstance(item, bytes):
                flat[i] = item
            else:
                raise DataError(f"{what}: got an element of type {type(item).__name__}, expected text or bytes")
        return cls(array.shape, flat.reshape(array.shape))

    @property
    def is_meta(self) -> bool:
        """Whether the tensor has no values."""
        return self._values is None

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def values(self) -> np.ndarray[Any, Any]:
        """The array of `bytes`. Raises DataError if the tensor has no values."""
        if self._values is None:
            raise DataError("a string tensor's values are needed, but only its shape is known")
        return self._values

    def reshape(self, *shape: int) -> Strings:
        """Returns the same elements in another shape; every length must be given."""
        return Strings(shape, None if self._values is None else self._values.reshape(shape))

    def numbers(self, number: Callable[[bytes], int]) -> np.ndarray[Any, Any]:
        """Maps each element to an integer: int64 of the same shape."""
        made = np.fromiter((number(item) for item in self.values.ravel()), np.int64, self.values.size)
        return made.reshape(self.shape)

    def __repr__(self) -> str:
        return f"<Strings shape={self.shape}>"
