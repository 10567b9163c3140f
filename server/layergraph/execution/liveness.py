"""Which steps and masks are needed, and until when values are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from layergraph.execution.step import Step
from layergraph.functional.layer import Layer


def needed(steps: Sequence[Step], outputs: Sequence[int]) -> list[Step]:
    """The steps that the outputs need."""
    wanted = set(outputs)
    kept = []
    for step in reversed(steps):
        if any(slot in wanted for slot in step.targets):
            wanted.update(step.sources)
            kept.append(step)
    return kept[::-1]


def marking(steps: Sequence[Step]) -> list[int]:
    """Outputs of the steps that leave something behind beside them: penalties of outputs, statistics, states."""
    return [step.targets[0] for step in steps if any(map(_leaves_marks, step.call.layer.walk_layers()))]


def _leaves_marks(layer: Layer) -> bool:
    penalised = getattr(layer, "activity_regularizer", None) is not None
    return penalised or layer.keeps_statistics or getattr(layer, "stateful", False)


def with_frees(steps: Sequence[Step], outputs: Sequence[int]) -> list[Step]:
    """The steps, each with the slots that nothing after it reads: their memory is given back at once."""
    alive = set(outputs)
    freeing = []
    for step in reversed(steps):
        freeing.append(replace(step, frees=tuple({*step.sources, *step.targets} - alive)))
        alive.update(step.sources)
    return freeing[::-1]


def mask_wants(steps: Sequence[Step], outputs: Sequence[int]) -> list[bool]:
    """Whether somebody after it needs the masks of a step's outputs; `outputs` are those whose masks are asked for."""
    wanted = set(outputs)
    wants = []
    for step in reversed(steps):
        want = any(slot in wanted for slot in step.targets)
        if want or step.call.takes_masks:
            wanted.update(step.sources)
        wants.append(want)
    return wants[::-1]
