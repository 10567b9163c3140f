"""An output as a function of some tensors of the graph, which take other values than the graph gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from layergraph.errors import DataError, ExplanationError
from layergraph.execution.arrays import as_tensor, check_fit
from layergraph.execution.batch_independence import is_batch_independent
from layergraph.execution.eager_plan import EagerPlan
from layergraph.execution.liveness import masks_needed, masks_read, needed, with_frees
from layergraph.execution.program import Program
from layergraph.execution.step import Step
from layergraph.functional.binding import Binder
from layergraph.functional.call_context import CallContext
from layergraph.functional.functional import Functional
from layergraph.functional.invocation import Mask
from layergraph.functional.strings import Strings
from layergraph.functional.tensor import TensorSpec

FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class Held:
    """What the output is computed from besides the varied tensors: values and masks by slot."""

    values: Mapping[int, Any]
    masks: Mapping[int, Mask]


class VariedPlan:
    """The calls between some tensors of a model, by name, and one of its outputs. They execute as in training.

    input_specs   the inputs that the output and the tensors depend on
    output_spec   the output
    varied_specs  the tensors
    origin_specs  the inputs that the tensors depend on
    by_row        whether any number of rows can be computed together; otherwise the signature fixes their number

    Raises UnknownTensorError for a name that isn't in the graph, and ExplanationError for a tensor that has no floats,
    or that the output doesn't depend on.
    """

    def __init__(self, model: Functional, output: str, varied: Sequence[str]) -> None:
        # An output may have the name of an input, which is meant by a varied tensor of this name.
        inner = [name for name in varied if name not in model.input_names]
        plan = EagerPlan(model, [output, *inner])
        self.input_specs = plan.input_specs
        self.output_spec: TensorSpec = plan.output_specs[0]
        specs = {spec.name: spec for spec in (*plan.output_specs[1:], *model.input_specs)}
        self.varied_specs = [specs[name] for name in varied]
        for spec in self.varied_specs:
            _check_floats(spec, is_input=spec.name not in inner)
        if not is_batch_independent(plan.steps):
            raise ExplanationError(f"output '{output}': its rows depend on one another, expected independent rows")
        self.by_row = plan.batched and all(spec.shape[:1] == (None,) for spec in self.varied_specs)
        inputs, (target, *inner_slots) = plan.slots
        slots = dict(zip(inner, inner_slots, strict=True))
        slots |= {spec.name: slot for spec, slot in zip(plan.input_specs, inputs, strict=True)}
        # Calls read the varied tensors from slots of their own, which what makes these tensors doesn't write.
        own = {slots[name]: plan.slot_count + at for at, name in enumerate(varied) if name in slots}
        self._sources = own
        self._target = own.get(target, target)
        self._slot_count = plan.slot_count + len(varied)
        steps = [replace(step, sources=tuple(own.get(slot, slot) for slot in step.sources)) for step in plan.steps]
        head = _dependent(steps, own.values(), self._target)
        read = {slot for step in head for slot in step.sources} | {self._target}
        for at, name in enumerate(varied):
            slot = own.get(slots.get(name, -1))
            if slot is not None and slot != plan.slot_count + at:
                raise ExplanationError(f"tensor '{name}': got it under another name, too, expected each tensor once")
            if slot not in read:
                others = ", but for the other tensors" if len(varied) > 1 else ""
                raise ExplanationError(f"tensor '{name}': output '{output}' doesn't depend on it{others}")
        self._held = sorted(read.difference(own.values(), *(step.targets for step in head)))
        self._masked = masks_read(head, ()).intersection({*self._held, *own.values()})
        back = {mine: slot for slot, mine in own.items()}
        #: The slots whose masks are held, and where the model's own calls write them.
        self._mask_sources = {slot: back.get(slot, slot) for slot in self._masked}
        kept = [*own, *self._held]
        trunk, origins = (with_frees(needed(plan.steps, slots), slots) for slots in (kept, [*own]))
        read = {slot for step in origins for slot in step.sources}.union(own)
        self.origin_specs = tuple(s for s, slot in zip(plan.input_specs, inputs, strict=True) if slot in read)
        origin_slots = [slot for slot in inputs if slot in read]
        with torch.no_grad():
            bind = Binder(lambda weight: weight.value)
            self._trunk = _program(trunk, inputs, kept, [*self._mask_sources.values()], self._slot_count, bind)
            self._origins = _program(origins, origin_slots, [*own], (), self._slot_count, bind)
            self._head = _program(head, [*own.values()], [self._target], (), self._slot_count, bind)
        #: Held slots with a row for each row of the inputs. Masks of varied tensors have these, too.
        self._row_slots = {
            *(slot for spec, slot in zip(plan.input_specs, inputs, strict=True) if spec.shape[:1] == (None,)),
            *(s for step in steps for s, t in zip(step.targets, step.made, strict=True) if t.shape[:1] == (None,)),
            *own.values(),
        }
        self._device = next((weight.value.device for weight in model.weights), torch.device("cpu"))

    def given(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> tuple[list[torch.Tensor], Held]:
        """Computes the varied tensors for arrays by input name, and what else the output is computed from.

        Raises DataError for arrays that don't fit.
        """
        made, masks = self._computed(self._trunk, self.input_specs, arrays)
        held = Held(
            {slot: made[slot] for slot in self._held},
            {slot: masks[source] for slot, source in self._mask_sources.items()},
        )
        return [made[slot] for slot in self._sources], held

    def varied(self, arrays: Mapping[str, np.ndarray[Any, Any]]) -> list[torch.Tensor]:
        """Computes the varied tensors alone, for arrays by name of `origin_specs`. Raises as `given` does."""
        made, _ = self._computed(self._origins, self.origin_specs, arrays)
        return [made[slot] for slot in self._sources]

    def rows(self, held: Held, rows: slice, times: int) -> Held:
        """Returns what is held of some rows, one copy after the other. Without `by_row`, of all rows and once."""

        def repeated(slot: int, value: Any) -> Any:
            if value is None or not self.by_row or slot not in self._row_slots:
                return value
            if isinstance(value, Strings):
                return Strings.of(np.concatenate([value.values[rows]] * times))
            return torch.cat([value[rows]] * times)

        values = {slot: repeated(slot, value) for slot, value in held.values.items()}
        return Held(values, {slot: repeated(slot, mask) for slot, mask in held.masks.items()})

    def output(self, varied: Sequence[torch.Tensor], held: Held) -> torch.Tensor:
        """Computes the output for values of the varied tensors, in their order. Differentiable."""
        values = {**held.values, **dict(zip(self._sources.values(), varied, strict=True))}
        made, _ = self._execute(self._head, values, held.masks)
        found: torch.Tensor = made[self._target]
        return found

    def _computed(
        self, program: Program, specs: Sequence[TensorSpec], arrays: Mapping[str, np.ndarray[Any, Any]]
    ) -> tuple[list[Any], list[Mask]]:
        values: dict[int, Any] = {}
        for spec, slot in zip(specs, program.inputs, strict=True):
            if spec.name not in arrays:
                raise DataError(f"input '{spec.name}' is missing; got {sorted(arrays)}")
            check_fit(f"input '{spec.name}'", arrays[spec.name].shape, spec.shape)
            tensor = as_tensor(arrays[spec.name], spec)
            values[slot] = tensor if isinstance(tensor, Strings) else tensor.to(self._device)
        with torch.no_grad():
            return self._execute(program, values, {})

    def _execute(
        self, program: Program, given: Mapping[int, Any], given_masks: Mapping[int, Mask]
    ) -> tuple[list[Any], list[Mask]]:
        values = [given.get(slot) for slot in range(self._slot_count)]
        masks = [given_masks.get(slot) for slot in range(self._slot_count)]
        program.execute(CallContext(losses=None), values, masks)
        return values, masks


def _check_floats(spec: TensorSpec, *, is_input: bool) -> None:
    if spec.dtype in FLOATS:
        return
    hint = "; name the tensor that an Embedding makes of it, or another one inside of the graph" if is_input else ""
    raise ExplanationError(
        f"{'input' if is_input else 'tensor'} '{spec.name}': got {spec.dtype}, expected floats, which have "
        f"gradients{hint}"
    )


def _dependent(steps: Sequence[Step], varied: Sequence[int] | Any, target: int) -> list[Step]:
    """Returns the steps between varied slots and the target."""
    reached, found = set(varied), []
    for step in steps:
        if not reached.isdisjoint(step.sources):
            found.append(step)
            reached.update(step.targets)
    return with_frees(needed(found, [target]), [target])


def _program(
    steps: Sequence[Step],
    inputs: Sequence[int],
    outputs: Sequence[int],
    masked: Sequence[int],
    slot_count: int,
    bind: Binder,
) -> Program:
    weights = [bind(step.call.layer) for step in steps]
    return Program(steps, masks_needed(steps, masked), weights, inputs, outputs, slot_count)
