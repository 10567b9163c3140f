"""Optimizers' states in files of Keras 1 and 2 whose arrays have another layout, or another order, than the model's.

A slot has the layout of the weights that it belongs to: what converts a weight converts its slots.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from layergraph.archive import StoredArray
from layergraph.functional.weight import Weight
from layergraph.saving.old_layouts import Derived, Origin

#: Numbers of slots that alternate by weight: Keras 2.11 and later create Adam's two of each weight together.
_TOGETHER = (1, 2)

#: Makes the slot of one of the model's weights from a slot's arrays in the file.
_Maker: TypeAlias = Callable[[Sequence[StoredArray]], StoredArray]


@dataclass(frozen=True, slots=True)
class StateLayout:
    """How a slot is stored: the shapes of its arrays, and what makes those of the model's trainable weights of them."""

    shapes: tuple[tuple[int, ...], ...]
    makers: tuple[_Maker, ...]

    def converted(self, state: Sequence[StoredArray]) -> list[StoredArray]:
        """The state in the model's layout; slots of other shapes are unchanged."""
        numbers = list(itertools.takewhile(lambda array: not array.shape, state))
        found, start = list(numbers), len(numbers)
        while start < len(state):
            slots = self._slots_at(state, start)
            end = start + max(1, len(slots)) * len(self.shapes)
            converted = [[make(slot) for make in self.makers] for slot in slots]
            found += itertools.chain(*zip(*converted, strict=True)) if slots else state[start:end]
            start = end
        return found

    def _slots_at(self, state: Sequence[StoredArray], start: int) -> list[Sequence[StoredArray]]:
        """The slots that begin at `start`: one of all weights, or several that alternate by weight; none if their
        shapes don't fit.
        """
        for together in _TOGETHER:
            run = state[start : start + together * len(self.shapes)]
            slots = [run[first::together] for first in range(together)]
            if all(tuple(array.shape for array in slot) == self.shapes for slot in slots):
                return slots
        return []


def state_layout(
    trainable: Iterable[Weight], stored: Mapping[Weight, tuple[str, StoredArray]], origin: Origin
) -> StateLayout | None:
    """The layout of the state for a model's trainable weights; None if it is the model's own.

    `stored` has the name of the layer's group and the array of each weight.
    """
    held = [stored[weight] for weight in trainable if weight in stored]
    leaves = [(group, leaf) for group, array in held for leaf in _leaves(array)]
    derived = any(isinstance(array, Derived) for _, array in held)
    if not leaves or not (derived or origin.sorts_state) or any(_loses_values(array) for _, array in held):
        return None
    if origin.sorts_state:
        leaves.sort(key=lambda leaf: leaf[1].name.partition(f"/{leaf[0]}/")[2])
    places = {leaf.name: place for place, (_, leaf) in enumerate(leaves)}
    return StateLayout(tuple(leaf.shape for _, leaf in leaves), tuple(_maker(array, places) for _, array in held))


def _leaves(array: StoredArray) -> Iterator[StoredArray]:
    if isinstance(array, Derived):
        for part in array.parts:
            yield from _leaves(part)
    else:
        yield array


def _loses_values(array: StoredArray) -> bool:
    """Whether a weight is made of others such that its slots don't follow from theirs."""
    if isinstance(array, Derived) and array.slot is not None:
        return False
    return math.prod(array.shape) != sum(math.prod(leaf.shape) for leaf in _leaves(array))


def _maker(array: StoredArray, places: Mapping[str, int]) -> _Maker:
    if not isinstance(array, Derived):
        place = places[array.name]
        return lambda slot: slot[place]
    makers, shape = [_maker(part, places) for part in array.parts], array.shape
    compute = array.slot or array.compute
    return lambda slot: Derived(tuple(make(slot) for make in makers), shape, compute)
