"""Programs: steps with their weights, ready to be carried out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from layergraph.execution.liveness import mask_wants, with_frees
from layergraph.execution.passes.fold_embedding import project_embeddings
from layergraph.execution.passes.fusion import fuse
from layergraph.execution.passes.merge_shared_calls import join_calls
from layergraph.execution.step import Step
from layergraph.functional.binding import Binder
from layergraph.functional.call_context import CallContext
from layergraph.functional.invocation import Mask


@dataclass(frozen=True)
class Program:
    """Steps over numbered slots.

    wants     whether somebody needs the masks of each step's outputs
    weights   each step's, bound
    inputs, outputs   the slots in which values come and go
    """

    steps: Sequence[Step]
    wants: Sequence[bool]
    weights: Sequence[Any]
    inputs: Sequence[int]
    outputs: Sequence[int]
    slot_count: int

    def carry_out(self, context: CallContext, values: list[Any], masks: list[Mask]) -> None:
        """Fills the slots of all outputs, and empties those that nobody reads any more."""
        for step, want, w in zip(self.steps, self.wants, self.weights, strict=True):
            outputs, made = step.call(
                context, w, [values[s] for s in step.sources], [masks[s] for s in step.sources], want_masks=want
            )
            for slot, value, mask in zip(step.targets, outputs, made, strict=True):
                values[slot] = value
                masks[slot] = mask
            for slot in step.frees:
                values[slot] = masks[slot] = None

    def __call__(self, tensors: Sequence[Any]) -> list[Any]:
        """The outputs in inference, for values of the inputs that come without masks."""
        slots: list[Any] = [None] * self.slot_count
        for slot, value in zip(self.inputs, tensors, strict=True):
            slots[slot] = value
        self.carry_out(CallContext(losses=None), slots, [None] * self.slot_count)
        return [slots[slot] for slot in self.outputs]

    def watched(self, empty: list[str]) -> Program:
        """The same, and the shapes of tensors without a number that its steps give are added to `empty`."""
        return replace(self, steps=[replace(step, call=partial(_watch, step.call, empty)) for step in self.steps])


def _watch(call: Any, empty: list[str], *arguments: Any, **options: Any) -> Any:
    outputs, masks = call(*arguments, **options)
    empty.extend(str(tuple(v.shape)) for v in outputs if isinstance(v, torch.Tensor) and not v.numel())
    return outputs, masks


def inference_program(
    steps: Sequence[Step], inputs: Sequence[int], outputs: Sequence[int], slot_count: int, *, packed: bool, joined: bool
) -> Program:
    """Fewer and larger steps, for inference on rows without masks.

    packed   kernels lie as the processor's convolutions want them, which only torch itself understands; else weights
             are those of now, and embeddings multiplied beforehand where that saves work
    joined   calls of a shared layer that don't wait for one another are one call; for rows that stay apart
    """
    with torch.inference_mode(False), torch.no_grad():
        if joined:
            steps, slot_count = join_calls(steps, outputs, slot_count)
        steps = with_frees(fuse(steps, outputs, packed=packed), outputs)
        bind = Binder(lambda weight: weight.value)
        weights = [bind(step.call.layer) for step in steps]
        if not packed:
            weights = project_embeddings(steps, outputs, weights)
    return Program(steps, mask_wants(steps, []), weights, inputs, outputs, slot_count)
