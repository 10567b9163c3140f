"""The calls of a model as a list: those of nested models are among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from layergraph.errors import NotSteppableError
from layergraph.execution.plan import Plan
from layergraph.execution.step import Step
from layergraph.functional.functional import Functional
from layergraph.functional.layer import Layer


@dataclass(frozen=True)
class Calls:
    """The calls that a model's outputs need, in order.

    steps     with slots of what they take and make
    inputs    slot of each input of the model
    outputs   slot of each output of the model
    paths     layer -> its path, `outer/inner` within nested models
    """

    steps: Sequence[Step]
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    paths: Mapping[Layer, str]

    def path(self, step: Step) -> str:
        """The path of a call's layer."""
        layer: Layer = step.call.layer
        return self.paths.get(layer, layer.name)

    def refused(self, step: Step, reason: str) -> NotSteppableError:
        """The error that a call makes the model impossible to step."""
        return NotSteppableError(reason, self.path(step), step.call.layer.keras_class_name)

    def makers(self) -> dict[int, int]:
        """Slot -> position of the call that makes it."""
        return {target: at for at, step in enumerate(self.steps) for target in step.targets}

    def behind(self, slots: Iterable[int]) -> tuple[set[int], set[int]]:
        """Positions of all calls that these slots depend on, and the slots on which they do, with themselves."""
        makers, steps, seen = self.makers(), set(), set()
        waiting = list(slots)
        while waiting:
            slot = waiting.pop()
            if slot in seen:
                continue
            seen.add(slot)
            if slot in makers:
                steps.add(makers[slot])
                waiting += self.steps[makers[slot]].sources
        return steps, seen


def calls_of(model: Functional, plan: Plan) -> Calls:
    """The calls of a model, of which `plan` computes all outputs."""
    inputs, outputs = plan.slots
    paths: dict[Layer, str] = {}
    _add_paths(model, "", paths)
    return Calls(
        plan.steps,
        {spec.name: slot for spec, slot in zip(plan.input_specs, inputs, strict=True)},
        {spec.name: slot for spec, slot in zip(plan.output_specs, outputs, strict=True)},
        paths,
    )


def _add_paths(model: Functional, prefix: str, paths: dict[Layer, str]) -> None:
    for layer in model.graph.layers:
        if layer in paths:
            continue
        paths[layer] = prefix + layer.name
        if layer.inner_model is not None:
            _add_paths(layer.inner_model, f"{prefix}{layer.name}/", paths)
