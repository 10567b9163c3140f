"""Calls of a shared layer or model that don't wait for one another, as one call on all their rows.

Two tweets through one LSTM are one batch of twice the rows. What follows them both is joined as well, so that rows are
put together once, at the start, and taken apart where the calls part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from layergraph.execution.liveness import needed
from layergraph.execution.step import Step
from layergraph.functional.call_context import CallContext
from layergraph.functional.invocation import Invocation, Mask
from layergraph.functional.layer import Layer
from layergraph.functional.strings import Strings


def join_calls(steps: Sequence[Step], outputs: Sequence[int], slot_count: int) -> tuple[list[Step], int]:
    """The steps with joined calls, and how many slots they use. Only for rows that stay apart."""
    levels = _levels(steps)
    masked = _masked(steps)
    groups: dict[Any, list[Step]] = {}
    # Calls on one level can't wait for one another, so joining them makes no circle.
    for number, step in sorted(enumerate(steps), key=lambda pair: levels[pair[0]]):
        kind = _kind(step, levels[number])
        groups.setdefault(number if kind is None else (*kind, masked[number]), []).append(step)
    joiner = _Joiner(slot_count)
    for group in groups.values():
        joiner.add(group)
    joiner.take_apart(outputs)
    return needed(joiner.steps, outputs), joiner.slot_count


def joins(steps: Sequence[Step]) -> bool:
    """Whether any of them are joined calls."""
    return any(isinstance(step.call, Together) for step in steps)


def _levels(steps: Sequence[Step]) -> list[int]:
    """How many steps at least must come before each."""
    of_slot: dict[int, int] = {}
    levels = []
    for step in steps:
        level = max((of_slot.get(slot, 0) for slot in step.sources), default=0)
        of_slot.update(dict.fromkeys(step.targets, level + 1))
        levels.append(level)
    return levels


def _masked(steps: Sequence[Step]) -> list[tuple[bool, ...]]:
    """For each step, with which of its inputs a mask may come.

    What a model's calls say of their tensors doesn't tell: it holds for the model by itself, without masks.
    """
    slots: set[int] = set()
    of_steps = []
    for step in steps:
        comes = tuple(slot in slots for slot in step.sources)
        of_steps.append(comes)
        stays_outside = isinstance(step.call, Invocation) and step.call.unmasked
        passes = any(comes) and not stays_outside
        if step.call.layer.supports_masking and (passes or any(t.mask_shape is not None for t in step.made)):
            slots.update(step.targets)
    return of_steps


def _kind(step: Step, level: int) -> tuple[Any, ...] | None:
    """What calls must have in common to be joined; None for a call that can't be."""
    call = step.call
    if not isinstance(call, Invocation) or not call.tensors or not step.made:
        return None
    tensors = [*call.tensors, *step.made]
    if any(not t.shape or t.shape[0] is not None or t.dtype == Strings.dtype for t in tensors):
        return None
    if call.is_single:
        first = call.tensors[0]
        alike: Any = (first.shape, first.dtype, first.mask_shape is None)
    else:
        # One call of the graph, in several calls of the model around it: others may differ in their arguments.
        alike = tuple(id(tensor) for tensor in tensors)
    return (level, id(call.layer), call.training, alike)


class _Joiner:
    """Writes steps down, and knows which slots are parts of a joined one."""

    def __init__(self, slot_count: int) -> None:
        self.steps: list[Step] = []
        self.slot_count = slot_count
        self._joined: dict[tuple[int, ...], int] = {}
        self._parts: dict[int, tuple[int, int, int]] = {}

    def add(self, group: list[Step]) -> None:
        """Writes calls of one kind down, as one."""
        first = group[0]
        if len(group) == 1:
            self.take_apart(first.sources)
            self.steps.append(first)
            return
        sources = [self._together(slots) for slots in zip(*(step.sources for step in group), strict=True)]
        targets = []
        for slots in zip(*(step.targets for step in group), strict=True):
            whole = self._new_slot()
            self._joined[slots] = whole
            self._parts.update({slot: (whole, index, len(group)) for index, slot in enumerate(slots)})
            targets.append(whole)
        self.steps.append(Step(first.call, tuple(sources), tuple(targets), made=first.made))

    def take_apart(self, slots: Iterable[int]) -> None:
        """Makes sure that these slots are filled."""
        for slot in slots:
            part = self._parts.pop(slot, None)
            if part is not None:
                whole, index, count = part
                self.steps.append(Step(Part(index, count), (whole,), (slot,)))

    def _together(self, slots: tuple[int, ...]) -> int:
        """The slot in which the values of all of these lie one after the other."""
        if slots not in self._joined:
            self.take_apart(slots)
            self._joined[slots] = self._new_slot()
            self.steps.append(Step(Together(), slots, (self._joined[slots],)))
        return self._joined[slots]

    def _new_slot(self) -> int:
        self.slot_count += 1
        return self.slot_count - 1


class Together:
    """Puts rows one after the other, in the place of a step's `Invocation`."""

    layer = Layer(name="together")
    takes_masks = True

    def __call__(
        self, context: CallContext, w: Any, values: list[torch.Tensor], masks: list[Mask], *, want_masks: bool
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """All rows, and their masks, if all have one."""
        known = [mask for mask in masks if mask is not None]
        return [torch.cat(values)], [torch.cat(known) if known and len(known) == len(masks) else None]


class Part:
    """Takes the rows of one call, the `index`-th of `count`, out of joined ones."""

    layer = Layer(name="part")
    takes_masks = True

    def __init__(self, index: int, count: int) -> None:
        self._index = index
        self._count = count

    def __call__(
        self, context: CallContext, w: Any, values: list[torch.Tensor], masks: list[Mask], *, want_masks: bool
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """The rows and their mask."""
        return [self._of(values[0])], [None if masks[0] is None else self._of(masks[0])]

    def _of(self, whole: torch.Tensor) -> torch.Tensor:
        rows = whole.shape[0] // self._count
        return whole[self._index * rows : (self._index + 1) * rows]
