"""The calls of a plan as a function of inputs and weights, which is what exporters record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from layergraph.errors import ExportError, LayerGraphError
from layergraph.execution.liveness import masks_needed, with_frees
from layergraph.execution.program import Program
from layergraph.execution.step import Step
from layergraph.execution.tracing import CannotTraceError
from layergraph.exporting.simpler import FOR_ONNX, SimplerOperations
from layergraph.functional.binding import Binder
from layergraph.functional.strings import Strings
from layergraph.functional.weight import Weight

if TYPE_CHECKING:
    from layergraph.execution.plan import Plan


#: Errors whose text is enough.
_PLAIN = (LayerGraphError, CannotTraceError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Calls:
    """Steps over numbered slots. `inputs` and `outputs` are slots."""

    steps: Sequence[Step]
    inputs: Sequence[int]
    outputs: Sequence[int]
    slot_count: int

    @classmethod
    def of(cls, plan: Plan) -> Calls:
        """The calls of a plan, as they are in the model: other software fuses them in its own way."""
        inputs, outputs = plan.slots
        return cls(plan.steps, inputs, outputs, plan.slot_count)

    @cached_property
    def weights(self) -> Mapping[str, Weight]:
        """The weights by unique name, `layer/kernel`; of layers with the same name, numbered."""
        layers = dict.fromkeys(layer for step in self.steps for layer in step.call.layer.walk_layers())
        counts: Counter[str] = Counter()
        named: dict[str, Weight] = {}
        for layer in layers:
            for weight in layer.own_weights:
                name = f"{layer.name}/{weight.name}"
                counts[name] += 1
                named[name if counts[name] == 1 else f"{name}_{counts[name] - 1}"] = weight
        return named

    def program(self, tensor_of: Callable[[Weight], torch.Tensor]) -> Program:
        """The calls with their weights."""
        bind = Binder(tensor_of)
        weights = [bind(step.call.layer) for step in self.steps]
        needs = masks_needed(self.steps, [])
        return Program(self.steps, needs, weights, self.inputs, self.outputs, self.slot_count)

    def prefix(self, count: int) -> Calls:
        """The first `count` steps. Their outputs are all values that none of them reads."""
        steps = self.steps[:count]
        read = {slot for step in steps for slot in step.sources}
        outputs = [slot for step in steps for slot in step.targets if slot not in read]
        return replace(self, steps=with_frees(steps, outputs), outputs=outputs)


class WithWeights:
    """The calls as a function of the inputs and then all weights (see tracing.Traceable), for ONNX.

    types   of the inputs in the model; they may be given in wider ones. Outputs of bfloat16, which NumPy and so most
            users of ONNX lack, become float32
    """

    def __init__(self, calls: Calls, types: Sequence[torch.dtype], empty: list[str] | None = None) -> None:
        self.steps = calls.steps
        self._calls = calls
        self._types = types
        self._empty = empty

    def __call__(self, tensors: Sequence[Any]) -> list[Any]:
        """Returns the outputs."""
        count = len(self._calls.inputs)
        values = dict(zip(map(id, self._calls.weights.values()), tensors[count:], strict=True))
        program = self._calls.program(lambda weight: values[id(weight)])
        if self._empty is not None:
            program = program.recording_empty(self._empty)
        with SimplerOperations(FOR_ONNX):
            given = [
                tensor if tensor.dtype == dtype else tensor.to(dtype)
                for tensor, dtype in zip(tensors[:count], self._types, strict=True)
            ]
            return [output.float() if output.dtype == torch.bfloat16 else output for output in program(given)]

    def recording_empty(self, empty: list[str]) -> WithWeights:
        """The same, which appends the shapes of empty tensors among the steps' outputs to `empty`."""
        return WithWeights(self._calls, self._types, empty)


def check_exportable(plan: Plan) -> None:
    """Raises ExportError, with the layer, for calls that no other format has: with text, or in training mode."""
    for spec in plan.input_specs:
        if spec.dtype == Strings.dtype and not any(True for _ in _text_steps(plan)):
            raise ExportError(f"input '{spec.name}' takes text, which this format doesn't support")
    for step in _text_steps(plan):
        raise ExportError(f"{described(step)} takes or returns text, which this format doesn't support")
    for step in plan.steps:
        if getattr(step.call, "training", None):
            raise ExportError(f"{described(step)} is called with training=True, expected a call for inference")


def _text_steps(plan: Plan) -> Iterator[Step]:
    slots, _ = plan.slots
    text = {slot for slot, spec in zip(slots, plan.input_specs, strict=True) if spec.dtype == Strings.dtype}
    for step in plan.steps:
        text.update(s for s, made in zip(step.targets, step.made, strict=False) if made.dtype == Strings.dtype)
        if text.intersection(step.sources) or text.intersection(step.targets):
            yield step


def described(step: Step) -> str:
    """The layer that a step calls, by name and class."""
    layer = step.call.layer
    return f"layer '{layer.name}' ({layer.keras_class_name})"


def blamed(calls: Calls, export: Callable[[Calls], object]) -> tuple[Step, Exception] | None:
    """The first step that `export` can't export, with its error; None if it exports all of them.

    The steps before it can be exported, so it takes the logarithm of the number of steps to find it.
    """
    fine, failing, error = 0, len(calls.steps) + 1, None
    while failing - fine > 1:
        middle = (fine + failing) // 2
        try:
            if calls.prefix(middle).outputs:
                export(calls.prefix(middle))
            fine = middle
        except Exception as wrong:
            failing, error = middle, wrong
    return None if error is None else (calls.steps[failing - 1], error)


def reason_of(error: Exception) -> str:
    """The first line of an error's text, cut off, or the error's class."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines and isinstance(error, _PLAIN) else _named(error)


def _named(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text[:200]}" if text else type(error).__name__
