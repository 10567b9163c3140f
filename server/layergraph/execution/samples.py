"""Random inputs that a plan accepts, on which engines are tried."""

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

#: Pairs of lengths for axes that a model leaves open; the first pair that the model accepts is used.
_LENGTHS = ((64, 48), (256, 224), (16, 12), (1024, 900), (12_000, 11_000))
#: Only sequences of floats are longer than this: attention to a sequence of 12,000 ids takes gigabytes, and the layers
#: that need more timesteps crop or convolve.
_MOST_STEPS = 1024
#: Exclusive upper bounds of random integers, and of floats that hold token ids; the largest that the model accepts is
#: used.
_BOUNDS = (1000, 100, 10, 3, 2, 1)
#: Maximum number of elements in one row of an input, to limit the memory that sampling takes on a server.
_MOST_NUMBERS = 1 << 20


#: Dtypes of inputs that no engine but torch computes.
TORCH_ONLY = (Strings.dtype, "bfloat16")


class NoSamplesError(Exception):
    """No random inputs that a plan accepts were found."""


class Sampler:
    """Generates random inputs for any number of rows, after finding lengths and bounds that the plan accepts.

    `run` executes the plan and raises LayerGraphError for inputs that don't fit. Raises NoSamplesError if no random
    inputs are accepted, or if an input's dtype is string or bfloat16.

    open_axes   whether the model leaves axes other than the rows open
    """

    def __init__(self, specs: Sequence[TensorSpec], run: Callable[[list[Array]], Any]) -> None:
        if any(spec.dtype in TORCH_ONLY for spec in specs):
            raise NoSamplesError("an input has a dtype that engines don't support (string or bfloat16)")
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
        raise NoSamplesError("no random inputs were found that the model accepts")

    def _small(self, lengths: tuple[int, int]) -> bool:
        """Whether inputs of such lengths take little memory, also between the layers."""
        if lengths[0] > _MOST_STEPS and not all(_is_signal(spec) for spec in self._specs if None in spec.shape[1:]):
            return False
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
        lengths = [self._lengths[other]] * max((len(spec.shape) for spec in self._specs), default=0)
        return self.of([_shape(spec, count, lengths) for spec in self._specs], (seed, count, other))

    def of(self, shapes: Sequence[Sequence[int]], seed: Sequence[int]) -> list[Array]:
        """Random inputs of these shapes."""
        rng = np.random.default_rng(seed)
        arrays = []
        for spec, shape in zip(self._specs, shapes, strict=True):
            if self._is_drawn_whole(spec):
                arrays.append(rng.integers(0, 2 if spec.dtype == "bool" else self._bound, shape).astype(spec.dtype))
            else:
                arrays.append(rng.standard_normal(shape).astype(spec.dtype))
        return arrays


def _is_signal(spec: TensorSpec) -> bool:
    """Whether an input is a sequence of numbers, such as a waveform, rather than of ids or images."""
    return spec.dtype.startswith("float") and None not in spec.shape[2:]


def _shape(spec: TensorSpec, rows: int, lengths: Sequence[int]) -> list[int]:
    given = (rows, *lengths)
    return [length if size is None else size for size, length in zip(spec.shape, given, strict=False)]
