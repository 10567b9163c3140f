"""Random functional graphs of operations with random static arguments: axes, slices, scalars, constants, element types.

`OperationMaker(api, seed)` grows one graph by the functions of `api`: an object with `Input`, `Model`, and a list of
`steps`, each of which takes the maker and makes a tensor, or raises where the tensors that it drew don't fit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

#: A random call: takes the maker, gives a tensor or several.
Step = Callable[["OperationMaker"], Any]
ROWS, STEPS = 7, 5


class OperationMaker:
    """The tensors of one graph so far, and random choices among them."""

    def __init__(self, seed: int, shape_of: Callable[[Any], Any], dtype_of: Callable[[Any], str]) -> None:
        self.rng = np.random.default_rng(seed)
        self.tensors: list[Any] = []
        self.shape_of = shape_of
        self.dtype_of = dtype_of

    def pick(self, choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]

    def flag(self, probability: float = 0.5) -> bool:
        return bool(self.rng.random() < probability)

    def shape(self, tensor: Any) -> tuple[int | None, ...]:
        return tuple(self.shape_of(tensor))

    def dtype(self, tensor: Any) -> str:
        return self.dtype_of(tensor)

    # Tensors.

    def any(self) -> Any:
        """Any tensor; of the later ones more often."""
        if self.flag(0.4):
            return self.tensors[-1]
        return self.pick(self.tensors)

    def of(self, *kinds: str) -> Any:
        """A tensor whose element type starts so."""
        found = [t for t in self.tensors if self.dtype(t).startswith(kinds)]
        return self.pick(found)

    def float(self) -> Any:
        return self.of("float")

    def rank(self, least: int, *kinds: str) -> Any:
        """A tensor of at least so many axes."""
        found = [t for t in self.tensors if len(self.shape(t)) >= least]
        if kinds:
            found = [t for t in found if self.dtype(t).startswith(kinds)]
        return self.pick(found)

    def alike(self, tensor: Any) -> Any:
        """Another tensor of the same known shape, or one that broadcasts, or the tensor itself."""
        shape = self.shape(tensor)
        found = [t for t in self.tensors if self.shape(t) == shape]
        return self.pick(found)

    # Arguments.

    def axis(self, tensor: Any, *, rows: bool = True) -> int:
        """An axis of a tensor, from the start or from the end."""
        rank = len(self.shape(tensor))
        first = 0 if rows else 1
        axis = int(self.rng.integers(first, rank))
        return axis if self.flag() else axis - rank

    def axes(self, tensor: Any) -> Any:
        """One axis, several, or none."""
        rank = len(self.shape(tensor))
        kind = self.rng.random()
        if kind < 0.2:
            return None
        if kind < 0.7 or rank < 2:
            return self.axis(tensor)
        count = int(self.rng.integers(1, rank + 1))
        return tuple(int(a) for a in self.rng.permutation(rank)[:count])

    def scalar(self) -> Any:
        return self.pick([0.5, 2.0, -1.5, 2, 3, -1, 1, 0.1])

    def constant(self, tensor: Any) -> Any:
        """A plain number, or an array or list that broadcasts with a tensor."""
        last = self.shape(tensor)[-1] if self.shape(tensor) else None
        kind = self.rng.random()
        if kind < 0.6 or last is None:
            return self.scalar()
        values = self.rng.uniform(0.2, 2, last).astype("float32")
        if kind < 0.8:
            return values
        if kind < 0.9:
            return self.rng.integers(1, 4, last).astype("int32")
        return [float(v) for v in values]

    def key(self, tensor: Any) -> Any:
        """A subscript."""
        keys: list[Any] = []
        for axis, size in enumerate(self.shape(tensor)):
            kind = self.rng.random()
            if axis == 0:
                keys.append(slice(None))
            elif size is None:
                keys.append(self.pick([slice(None), slice(1, None), slice(None, -1), slice(None, None, 2)]))
            elif kind < 0.25:
                keys.append(int(self.rng.integers(-size, size)))
            elif kind < 0.6:
                start, stop = sorted(int(v) for v in self.rng.integers(0, size + 1, 2))
                keys.append(slice(start, stop if stop > start else None, self.pick([None, 1, 2])))
            elif kind < 0.7:
                keys += [None, slice(None)]
            else:
                keys.append(slice(None))
        if self.flag(0.2):
            return (Ellipsis, keys[-1])
        count = int(self.rng.integers(1, len(keys) + 1))
        return tuple(keys[:count])

    # Growth.

    def grow(self, steps: list[Step], count: int) -> None:
        """Makes so many calls; those that the arguments don't fit are tried again with others."""
        made = tries = 0
        while made < count and tries < 20 * count:
            tries += 1
            try:
                result = self.pick(steps)(self)
            except Exception:
                continue
            for tensor in result if isinstance(result, (list, tuple)) else [result]:
                if not hasattr(tensor, "shape"):
                    continue
                shape = self.shape(tensor)
                if len(shape) <= 5 and all(n is None or 0 < n <= 40 for n in shape):
                    self.tensors.append(tensor)
            made += 1


def data(shape: tuple[int | None, ...], dtype: str, rng: np.random.Generator) -> np.ndarray:
    """An array for an input; unknown axes are rows and steps."""
    known = tuple((ROWS if axis == 0 else STEPS) if n is None else n for axis, n in enumerate(shape))
    if dtype.startswith("int"):
        return rng.integers(-3, 4, known).astype(dtype)
    if dtype == "bool":
        return rng.integers(0, 2, known).astype(bool)
    return rng.uniform(-1.5, 1.5, known).astype(dtype)
