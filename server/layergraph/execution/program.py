"""Programs: steps bound to their weights, ready to execute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from layergraph.errors import LayerGraphError, OutOfMemoryError
from layergraph.execution.liveness import masks_needed, with_frees
from layergraph.execution.passes.fold_embedding import project_embeddings
from layergraph.execution.passes.fusion import fuse
from layergraph.execution.passes.merge_shared_calls import join_calls
from layergraph.execution.step import Step
from layergraph.functional.binding import Binder
from layergraph.functional.call_context import CallContext
from layergraph.functional.invocation import Mask
from layergraph.functional.torch_errors import is_out_of_memory


@dataclass(frozen=True)
class Program:
    """Steps over numbered slots, which hold the values and masks of one run.

    needs_masks       for each step, whether the masks of its outputs are needed
    weights           bound weights of each step
    inputs, outputs   slots of the program's inputs and outputs
    """

    steps: Sequence[Step]
    needs_masks: Sequence[bool]
    weights: Sequence[Any]
    inputs: Sequence[int]
    outputs: Sequence[int]
    slot_count: int

    def execute(self, context: CallContext, values: list[Any], masks: list[Mask]) -> None:
        """Fills the slots of all outputs, and clears slots that no later step reads. Raises OutOfMemoryError."""
        for step, want, w in zip(self.steps, self.needs_masks, self.weights, strict=True):
            try:
                outputs, made = step.call(
                    context, w, [values[s] for s in step.sources], [masks[s] for s in step.sources], want_masks=want
                )
            except (RuntimeError, MemoryError) as wrong:
                if isinstance(wrong, LayerGraphError) or not is_out_of_memory(wrong):
                    raise
                raise _too_large(step, [values[s] for s in step.sources]) from wrong
            for slot, value, mask in zip(step.targets, outputs, made, strict=True):
                values[slot] = value
                masks[slot] = mask
            for slot in step.frees:
                values[slot] = masks[slot] = None

    def __call__(self, tensors: Sequence[Any]) -> list[Any]:
        """Returns the outputs in inference mode for input values without masks."""
        slots: list[Any] = [None] * self.slot_count
        for slot, value in zip(self.inputs, tensors, strict=True):
            slots[slot] = value
        self.execute(CallContext(losses=None), slots, [None] * self.slot_count)
        return [slots[slot] for slot in self.outputs]

    def recording_empty(self, empty: list[str]) -> Program:
        """A copy of this program that appends the shapes of empty tensors among its steps' outputs to `empty`."""
        return replace(self, steps=[replace(s, call=partial(_record_empty, s.call, empty)) for s in self.steps])


def _too_large(step: Step, given: Sequence[Any]) -> OutOfMemoryError:
    """The error of a step that needs more memory than there is."""
    # A recorded call is a function of the call.
    call = step.call.args[0] if isinstance(step.call, partial) else step.call
    layer, shapes = call.layer, [tuple(value.shape) for value in given]
    return OutOfMemoryError(
        f"layer '{layer.name}' ({type(layer).__name__}): needs more memory than there is for inputs of shapes {shapes}"
    )


def _record_empty(call: Any, empty: list[str], *arguments: Any, **options: Any) -> Any:
    outputs, masks = call(*arguments, **options)
    empty.extend(str(tuple(v.shape)) for v in outputs if isinstance(v, torch.Tensor) and not v.numel())
    return outputs, masks


def inference_program(
    steps: Sequence[Step], inputs: Sequence[int], outputs: Sequence[int], slot_count: int, *, packed: bool, joined: bool
) -> Program:
    """Optimises steps into fewer and larger ones, for inference on inputs without masks.

    packed   lay kernels out for oneDNN's convolutions, a format only torch understands. Otherwise the current weights
             are used, and embedding tables are multiplied in advance where that saves work
    joined   merge independent calls of a shared layer into one; only for programs whose rows are independent
    """
    with torch.inference_mode(False), torch.no_grad():
        if joined:
            steps, slot_count = join_calls(steps, outputs, slot_count)
        steps = with_frees(fuse(steps, outputs, packed=packed), outputs)
        bind = Binder(lambda weight: weight.value)
        weights = [bind(step.call.layer) for step in steps]
        if not packed:
            weights = project_embeddings(steps, outputs, weights)
    return Program(steps, masks_needed(steps, []), weights, inputs, outputs, slot_count)
