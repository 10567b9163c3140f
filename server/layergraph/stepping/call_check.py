"""Whether each call without a state computes a timestep from that timestep alone: tried on parts of a sequence.

The calls of the step model run once on a random sequence. Then each of them runs on parts of what it got: outputs with
timesteps must be the parts of the whole, and others what the last timestep alone gives.
"""

from __future__ import annotations

from typing import Any

import torch

from layergraph.errors import NotSteppableError
from layergraph.execution.plan import Plan
from layergraph.execution.step import Step
from layergraph.functional.binding import Binder
from layergraph.functional.call_context import CallContext
from layergraph.functional.invocation import Mask
from layergraph.functional.row_independence import close
from layergraph.functional.weight import Weight
from layergraph.stepping.reasons import reason_of
from layergraph.stepping.step_graph import Extent, StepGraph

#: Parts of the sequence on which calls are tried: its timesteps in two ways, and ends of it.
_PARTS = (slice(0, 1), slice(1, None), slice(0, 3), slice(3, None))
_ENDS = (slice(-1, None), slice(-3, None))
#: Largest difference, relative to 1 + |expected|. Calls that look at other timesteps differ by more.
_TOLERANCE, _HALF_TOLERANCE = 1e-4, 2e-2


def check_calls(
    plan: Plan,
    tensors: list[Any],
    graph: StepGraph,
) -> None:
    """Tries the calls of layers without states on parts of the sequences in `tensors`, the inputs of the plan.

    Raises NotSteppableError, with the layer and the reason, for a call that looks at other timesteps.
    """
    extents = graph.extents
    values: dict[int, Any] = dict(zip(plan.slots[0], tensors, strict=True))
    masks: dict[int, Mask] = {}
    with torch.inference_mode(False), torch.no_grad():
        binder = Binder(_unlike_zero)
        for step in plan.steps:
            weights = binder(step.call.layer)
            given = [values[slot] for slot in step.sources]
            given_masks = [masks.get(slot) for slot in step.sources]
            try:
                made, made_masks = step.call(CallContext(losses=None), weights, given, given_masks, want_masks=True)
            except Exception as wrong:
                reason = f"fails on another number of timesteps: {str(wrong).partition(chr(10))[0]}"
                raise NotSteppableError(reason, *graph.cause(step.call.layer)) from wrong
            values.update(zip(step.targets, made, strict=True))
            masks.update(zip(step.targets, made_masks, strict=True))
            of_sequence = [extents.get(id(tensor)) is Extent.EACH for tensor in step.call.tensors]
            if step.call.layer in graph.causes and any(of_sequence):
                _Call(step, weights, given, given_masks, of_sequence).check(
                    made, made_masks, [extents[id(tensor)] for tensor in step.made], graph.cause(step.call.layer)
                )


def _unlike_zero(weight: Weight) -> torch.Tensor:
    """The weight, or one with different values if all are equal: of zeros, a layer that is new shows nothing."""
    value = weight.value
    if not value.is_floating_point() or value.numel() < 2 or bool((value != value.reshape(-1)[0]).any()):
        return value
    generator = torch.Generator().manual_seed(0)
    return value + torch.rand(value.shape, generator=generator).to(value) * 0.5


class _Call:
    """One call, with what it got of a whole sequence."""

    def __init__(self, step: Step, weights: Any, values: list[Any], masks: list[Mask], of_sequence: list[bool]) -> None:
        self._step = step
        self._weights = weights
        self._values = values
        self._masks = masks
        self._of_sequence = of_sequence

    def check(self, made: list[Any], masks: list[Mask], kinds: list[Extent], cause: tuple[str, str]) -> None:
        """Compares the outputs with those for parts. Raises NotSteppableError if they differ."""
        refused = NotSteppableError(reason_of(self._step.call.layer), *cause)
        each = Extent.EACH in kinds
        for part in _PARTS if each else _ENDS:
            try:
                outputs, part_masks = self._run(part)
            except Exception as wrong:
                raise refused from wrong
            for whole, mask, output, part_mask, kind in zip(made, masks, outputs, part_masks, kinds, strict=True):
                cut = part if kind is Extent.EACH else slice(None)
                if kind is not Extent.EACH and each and part.stop is not None:
                    continue
                if not _equal(output, whole, cut) or not _equal(part_mask, mask, cut):
                    raise refused

    def _run(self, part: slice) -> tuple[list[Any], list[Mask]]:
        values = [v[:, part] if own else v for v, own in zip(self._values, self._of_sequence, strict=True)]
        masks = [
            m if m is None or not own else m[:, part] for m, own in zip(self._masks, self._of_sequence, strict=True)
        ]
        made: tuple[list[Any], list[Mask]] = self._step.call(
            CallContext(losses=None), self._weights, values, masks, want_masks=True
        )
        return made


def _equal(got: Any, whole: Any, part: slice) -> bool:
    """Whether an output, or a mask, for a part is that part of the whole."""
    if got is None or whole is None:
        return got is whole
    if part != slice(None):
        if whole.ndim < 2:
            return False
        whole = whole[:, part]
    if not isinstance(got, torch.Tensor):
        return bool((got.values == whole.values).all())
    half = got.is_floating_point() and got.dtype.itemsize < 4
    return close(got, whole, _HALF_TOLERANCE if half else _TOLERANCE)
