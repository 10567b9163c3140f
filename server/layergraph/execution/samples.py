"""Random inputs that a plan takes, to try engines on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from layergraph.errors import LayerGraphError
from layergraph.functional.strings import Strings

if TYPE_CHECKING:
    from layergraph.functional.tensor import TensorSpec

Array: TypeAlias = "np.ndarray[Any, Any]"

#: Two lengths for axes that a model leaves open, the first that it takes.
_LENGTHS = ((64, 48), (256, 224), (16, 12), (1024, 900), (12_000, 11_000))
#: What integers, and floats that words come as, stay below: the largest that the model takes.
_BOUNDS = (1000, 100, 10, 3, 2, 1)
#: Numbers that one row of an input may have at the most: trying must not take a server's memory.
_MOST_NUMBERS = 1 << 20


class NoSamplesError(Exception):
    """No random inputs were found that a plan takes."""


class Sampler:
    """Makes random inputs by row count, once it is known what the plan takes.

    `run` carries the plan out, and raises LayerGraphError for inputs that don't fit. Raises NoSamplesError if there are
    none, or the model takes text.

    open_axes   whether the model leaves lengths open besides the number of rows
    """

    def __init__(self, specs: Sequence[TensorSpec], run: Callable[[list[Array]], Any]) -> None:
        if any(spec.dtype in (Strings.dtype, "bfloat16") for spec in specs):
            raise NoSamplesError("an input has no type that engines share")
        self._specs = specs
        self.open_axes = any(None in spec.shape[1:] for spec in specs)
        whole = any(not spec.dtype.startswith("float") for spec in specs)
        for whole_floats in (False, True):
            for lengths in filter(self._small, _LENGTHS) if self.open_axes else _LENGTHS[:1]:
                for bound in _BOUNDS if whole or whole_floats else _BOUNDS[:1]:
                    self._lengths, self._bound, self._whole_floats = lengths, bound, whole_floats
                    try:
                        for other in (False, True) if self.open_axes else (False,):
                            run(self._largest(self.rows(2, other=other)))
                    except LayerGraphError:
                        continue
                    return
        raise NoSamplesError("no random inputs were found that it takes")

    def _small(self, lengths: tuple[int, int]) -> bool:
        """Whether inputs of such lengths take little memory."""
        rows = (
            math.prod(lengths[0] if size is None else size for size in spec.shape[1:] if size != 0)
            for spec in self._specs
            if None in spec.shape[1:]
        )
        return max(rows, default=0) <= _MOST_NUMBERS

    def _is_drawn_whole(self, spec: TensorSpec) -> bool:
        return self._whole_floats or not spec.dtype.startswith("float")

    def _largest(self, arrays: list[Array]) -> list[Array]:
        """With the largest whole number that may be drawn: what is refused shows at once then, not some time later."""
        for spec, array in zip(self._specs, arrays, strict=True):
            if array.size and self._is_drawn_whole(spec) and spec.dtype != "bool":
                array.reshape(-1)[-1] = np.asarray(self._bound - 1).astype(array.dtype)
        return arrays

    def rows(self, count: int, *, other: bool = False, seed: int = 0) -> list[Array]:
        """Random inputs; with `other`, of other lengths on the axes that the model leaves open."""
        rng = np.random.default_rng((seed, count, other))
        arrays = []
        for spec in self._specs:
            lengths = (count, *[self._lengths[other]] * len(spec.shape[1:]))
            shape = [length if size is None else size for size, length in zip(spec.shape, lengths, strict=False)]
            if self._is_drawn_whole(spec):
                arrays.append(rng.integers(0, 2 if spec.dtype == "bool" else self._bound, shape).astype(spec.dtype))
            else:
                arrays.append(rng.standard_normal(shape).astype(spec.dtype))
        return arrays
