"""Merges independent calls of a shared layer or model into one call on all their rows.

Two texts through one LSTM are one batch of twice the rows. Common calls after it are merged, too, so that rows are
concatenated once, at the start, and split where the calls diverge.
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
    """Returns the steps with merged calls, and the number of slots. Only for programs whose rows are independent."""
    levels = _levels(steps)
    masked = _masked(steps)
    groups: dict[Any, list[Step]] = {}
    # Calls on one level don't depend on one another, so merging them can't create a cycle.
    for number, step in sorted(enumerate(steps), key=lambda pair: levels[pair[0]]):
        kind = _kind(step, levels[number])
        groups.setdefault(number if kind is None else (*kind, masked[number]), []).append(step)
    joiner = _Joiner(slot_count)
    for group in groups.values():
        joiner.add(group)
    joiner.take_apart(outputs)
    return needed(joiner.steps, outputs), joiner.slot_count


def joins(steps: Sequence[Step]) -> bool:
    """Whether any of the steps are merged calls."""
    return any(isinstance(step.call, Together) for step in steps)


def _levels(steps: Sequence[Step]) -> list[int]:
    """The length of the longest chain of steps before each step."""
    of_slot: dict[int, int] = {}
    levels = []
    for step in steps:
        level = max((of_slot.get(slot, 0) for slot in step.sources), default=0)
        of_slot.update(dict.fromkeys(step.targets, level + 1))
        levels.append(level)
    return levels


def _masked(steps: Sequence[Step]) -> list[tuple[bool, ...]]:
    """For each step, which of its inputs may have a mask.

    The masks recorded in a model's graph don't suffice: they hold for calls of the model without masks.
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
    """A key that is equal for calls that can be merged; None for a call that can't be."""
    call = step.call
    if not isinstance(call, Invocation) or not call.tensors or not step.made:
        return None
    tensors = [*call.tensors, *step.made]
    if any(not t.shape or t.shape[0] is not None or t.dtype == Strings.dtype for t in tensors):
        return None
    if call.is_single:
        first = call.tensors[0]
        common: Any = (first.shape, first.dtype, first.mask_shape is None)
    else:
        # The same node in several calls of the nested model around it: other nodes may differ in their arguments.
        common = tuple(id(tensor) for tensor in tensors)
    return (level, id(call.layer), call.training, call.untaken, common)


class _Joiner:
    """Collects steps, and keeps track of which slots are parts of a merged one."""

    def __init__(self, slot_count: int) -> None:
        self.steps: list[Step] = []
        self.slot_count = slot_count
        self._joined: dict[tuple[int, ...], int] = {}
        self._parts: dict[int, tuple[int, int, int]] = {}

    def add(self, group: list[Step]) -> None:
        """Adds calls of equal kind as one step."""
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
        """Adds steps that fill these slots, if they are parts of merged ones."""
        for slot in slots:
            part = self._parts.pop(slot, None)
            if part is not None:
                whole, index, count = part
                self.steps.append(Step(Part(index, count), (whole,), (slot,)))

    def _together(self, slots: tuple[int, ...]) -> int:
        """The slot that holds the values of all these slots, concatenated."""
        if slots not in self._joined:
            self.take_apart(slots)
            self._joined[slots] = self._new_slot()
            self.steps.append(Step(Together(), slots, (self._joined[slots],)))
        return self._joined[slots]

    def _new_slot(self) -> int:
        self.slot_count += 1
        return self.slot_count - 1


class Together:
    """Concatenates rows; substitutes a step's `Invocation`."""

    layer = Layer(name="together")
    takes_masks = True

    def __call__(
        self, context: CallContext, w: Any, values: list[torch.Tensor], masks: list[Mask], *, want_masks: bool
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """All rows, and their masks if all have one."""
        known = [mask for mask in masks if mask is not None]
        return [torch.cat(values)], [torch.cat(known) if known and len(known) == len(masks) else None]


class Part:
    """Takes the rows of the `index`-th of `count` calls out of merged ones."""

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
        # Without its length: torch's own fusion takes that of a sum for that of the first summand, such as a bias.
        return whole.chunk(self._count)[self._index]
