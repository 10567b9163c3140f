"""Which steps and masks are needed, and after which step a value can be freed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from layergraph.execution.step import Step
from layergraph.functional.layer import Layer


def needed(steps: Sequence[Step], outputs: Sequence[int]) -> list[Step]:
    """The steps that `outputs` depend on."""
    wanted = set(outputs)
    kept = []
    for step in reversed(steps):
        if any(slot in wanted for slot in step.targets):
            wanted.update(step.sources)
            kept.append(step)
    return kept[::-1]


def marking(steps: Sequence[Step]) -> list[int]:
    """Outputs of the steps with side effects: activity penalties, statistics, states."""
    return [step.targets[0] for step in steps if any(map(_leaves_marks, step.call.layer.walk_layers()))]


def _leaves_marks(layer: Layer) -> bool:
    penalised = getattr(layer, "activity_regularizer", None) is not None
    return penalised or layer.keeps_statistics or getattr(layer, "stateful", False)


def with_frees(steps: Sequence[Step], outputs: Sequence[int]) -> list[Step]:
    """The steps, each with the slots that no later step reads, so that memory is freed as early as possible."""
    alive = set(outputs)
    freeing = []
    for step in reversed(steps):
        freeing.append(replace(step, frees=tuple({*step.sources, *step.targets} - alive)))
        alive.update(step.sources)
    return freeing[::-1]


def masks_needed(steps: Sequence[Step], outputs: Iterable[int]) -> list[bool]:
    """For each step, whether the masks of its outputs are needed; `outputs` are the slots whose masks are returned."""
    return _masks(steps, outputs)[0]


def masks_read(steps: Sequence[Step], outputs: Iterable[int]) -> set[int]:
    """The slots whose masks the steps read, or are returned as those of `outputs`."""
    return _masks(steps, outputs)[1]


def _masks(steps: Sequence[Step], outputs: Iterable[int]) -> tuple[list[bool], set[int]]:
    wanted = set(outputs)
    flags = []
    for step in reversed(steps):
        want = any(slot in wanted for slot in step.targets)
        if want or step.call.takes_masks:
            wanted.update(step.sources)
        flags.append(want)
    return flags[::-1], wanted
