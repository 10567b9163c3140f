"""Batches of sequences with different lengths: padded at the end, computed together, and cut to length again.

Which inputs may be padded, and with which values, is determined by `padding_check`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"


@dataclass(frozen=True)
class SequencePadding:
    """How a model's sequences (axis 1 of some inputs) can be padded without changing any result.

    fills          padding value of each input that has sequences: a value that masks hide
    lengths        for each output that has sequences, the input that determines their length
    equal_lengths  whether all inputs of one request must have sequences of equal length
    unmasked       inputs that must have no masked timestep (one that holds only the padding value): attention, for
                   one, gives masked timesteps the mean of all timesteps, which padding changes
    """

    fills: Mapping[str, float | int]
    lengths: Mapping[str, str]
    equal_lengths: bool
    unmasked: frozenset[str]

    def group(self, arrays: Mapping[str, Array]) -> tuple[int, ...] | None:
        """A key for requests that can be padded together: sequence lengths rounded up to powers of two.

        So padding is less than half of a batch, and no short sequence takes as long as a very long one. Returns None
        for a request that can't be padded.
        """
        lengths = [arrays[name].shape[1] for name in self.fills]
        if not all(lengths) or (self.equal_lengths and len(set(lengths)) > 1):
            return None
        if any(_has_masked_step(arrays[name], self.fills[name]) for name in self.unmasked):
            return None
        return tuple((length - 1).bit_length() for length in lengths)

    def join(self, parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
        """Concatenates the rows of all parts, by input, with each sequence padded to the longest."""
        return {name: self._join(name, [part[name] for part in parts]) for name in parts[0]}

    def _join(self, name: str, arrays: Sequence[Array]) -> Array:
        if name not in self.fills or len({array.shape[1] for array in arrays}) == 1:
            return np.concatenate(arrays)
        longest = max(array.shape[1] for array in arrays)
        shape = (sum(map(len, arrays)), longest, *arrays[0].shape[2:])
        joined = np.full(shape, self.fills[name], arrays[0].dtype)
        start = 0
        for array in arrays:
            joined[start : start + len(array), : array.shape[1]] = array
            start += len(array)
        return joined

    def cut(self, results: Mapping[str, Array], part: Mapping[str, Array]) -> dict[str, Array]:
        """The results for the rows of one part, without the padded timesteps."""
        return {
            name: result[:, : part[self.lengths[name]].shape[1]] if name in self.lengths else result
            for name, result in results.items()
        }


def _has_masked_step(array: Array, fill: float | int) -> bool:
    filled = array == fill
    return bool((filled.all(axis=tuple(range(2, array.ndim))) if array.ndim > 2 else filled).any())
