"""Steppers: a model's outputs for a sequence that comes in parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from layergraph.errors import DataError, NotSteppableError
from layergraph.execution.plan import Plan
from layergraph.functional.functional import Functional
from layergraph.functional.nest import Structure
from layergraph.functional.tensor import TensorSpec
from layergraph.stepping.calls import calls_of
from layergraph.stepping.proof import prove
from layergraph.stepping.state import Array, StateSpec
from layergraph.stepping.step_graph import Extent, StepGraph, divisions, step_graph

Arrays: TypeAlias = Mapping[str, Array]


class Stepper:
    """Computes a sequence step by step: each step has any number of timesteps, and goes on from the states before.

    model            the model of a step: inputs and states -> outputs and states after it, with the weights of the
                     whole model. It can be tuned, saved and exported as any model
    state_specs      the states, in order
    input_specs      inputs of each step
    output_specs     outputs of each step
    first_inputs     inputs that only the first step of a sequence reads: first states are computed from them
    timed_inputs     inputs with timesteps (axis 1); the others have the same value in each step, or another one
    timed_outputs    outputs with an entry for each timestep; others are those after the last timestep

    Rows are independent: those of different sequences can be computed together. `step` keeps the states, for one
    caller; `advance` doesn't, and may be called from several threads. Made by `Model.stepper`.
    """

    def __init__(self, whole: Functional, model: Functional, begin: Functional | None, graph: StepGraph) -> None:
        self.model = model
        self.state_specs: tuple[StateSpec, ...] = tuple(graph.specs)
        taken = {spec.name for spec in self.state_specs}
        self.input_specs: tuple[TensorSpec, ...] = tuple(s for s in model.input_specs if s.name not in taken)
        self.output_specs: tuple[TensorSpec, ...] = tuple(
            TensorSpec(name, tensor.shape, tensor.dtype) for name, tensor in graph.outputs.items()
        )
        self.first_inputs: tuple[str, ...] = tuple(graph.first)
        self.timed_inputs = tuple(
            tensor.history.layer.name for tensor in graph.inputs if graph.extents[id(tensor)] is Extent.EACH
        )
        self.timed_outputs = tuple(
            name for name, tensor in graph.outputs.items() if graph.extents[id(tensor)] is Extent.EACH
        )
        #: Computes the step model's outputs; `tune` it for a faster engine.
        self.plan: Plan = model.plan()  # type: ignore[assignment]
        self._whole = whole
        self._begin: Plan | None = None if begin is None else begin.plan()  # type: ignore[assignment]
        self._states: Arrays | None = None

    @property
    def states(self) -> dict[str, Array]:
        """The states after the last step by name, (rows, ...) each; empty before the first step."""
        return dict(self._states or {})

    def reset(self) -> None:
        """Drops the states: the next step is the first of a sequence."""
        self._states = None

    def step(self, inputs: Structure) -> Any:
        """Computes the outputs for the next timesteps, as `predict` would have for the sequence up to them.

        inputs   arrays by name, or nested as the model's inputs: (rows, timesteps, ...), at least one timestep. Inputs
                 in `first_inputs` may be left out (None) after the first step

        Returns arrays nested as the model's outputs. Raises DataError for arrays that don't fit, and for another number
        of rows than in the step before.
        """
        given = self._by_name(inputs)
        rows = self._rows(given)
        if self._states is None:
            self._states = self.initial_states(rows, given)
        kept = len(next(iter(self._states.values())))
        if kept != rows:
            raise DataError(f"step: got {rows} rows, expected {kept} as in the step before; `reset` begins anew")
        outputs, self._states = self.advance(given, self._states)
        return self._whole.output_structure([outputs[spec.name] for spec in self.output_specs])

    def initial_states(self, rows: int, inputs: Arrays | None = None) -> dict[str, Array]:
        """The states before the first step, by name. `inputs` are read if there are `first_inputs`.

        Raises DataError if one of those is missing or doesn't fit.
        """
        states = {spec.name: spec.zeros(rows) for spec in self.state_specs if not spec.computed}
        if self._begin is not None:
            given = inputs or {}
            computed = self._begin.run({name: given[name] for name in self.first_inputs if name in given})
            states |= {spec.name: computed[spec.name] for spec in self.state_specs if spec.computed}
        return {spec.name: states[spec.name] for spec in self.state_specs}

    def advance(self, inputs: Arrays, states: Arrays) -> tuple[dict[str, Array], dict[str, Array]]:
        """Computes outputs, and the states after the step, by name: from inputs and the states before it.

        Raises DataError for arrays that don't fit.
        """
        for name in self.timed_inputs:
            if name in inputs and np.ndim(inputs[name]) > 1 and not np.shape(inputs[name])[1]:
                raise DataError(f"input '{name}': got no timestep, expected at least one")
        made = self.plan.run({**inputs, **states})
        outputs = {spec.name: made[spec.name] for spec in self.output_specs}
        return outputs, {spec.name: made[spec.next_name] for spec in self.state_specs}

    def _by_name(self, inputs: Structure) -> dict[str, Array]:
        names = self._whole.input_names
        if isinstance(inputs, Mapping) and set(inputs) <= set(names):
            given = {name: inputs.get(name) for name in names}
        else:
            given = dict(zip(names, self._whole.flat_inputs(inputs), strict=True))
        return {name: np.asarray(array) for name, array in given.items() if array is not None}

    def _rows(self, given: Arrays) -> int:
        for spec in self.input_specs:
            if spec.name not in given:
                raise DataError(f"input '{spec.name}' is missing; got {sorted(given)}")
        first = given[self.input_specs[0].name]
        if not first.ndim:
            raise DataError(f"input '{self.input_specs[0].name}': got a number, expected (rows, timesteps, ...)")
        return len(first)


def stepper_of(whole: Functional, plan: Plan, make: Callable[[Any, Any, str], Functional]) -> Stepper:
    """The stepper of a model, of which `plan` computes all outputs.

    make   makes a model of inputs, outputs and a name

    Raises NotSteppableError, with the layer and the reason.
    """
    if any(not spec.shape for spec in plan.input_specs):
        raise NotSteppableError("an input has no rows")
    calls, refusal = calls_of(whole, plan), None
    for parts in divisions(calls, plan.input_specs):
        try:
            return _proven(whole, plan, step_graph(calls, plan.input_specs, parts), make)
        except NotSteppableError as reason:
            refusal = reason
    assert refusal is not None
    raise refusal


def _proven(whole: Functional, plan: Plan, graph: StepGraph, make: Callable[[Any, Any, str], Functional]) -> Stepper:
    outputs = {**graph.outputs, **{s.next_name: after for s, after in zip(graph.specs, graph.after, strict=True)}}
    model = make([*graph.inputs, *graph.before], outputs, f"{whole.name}_step")
    begin = None if graph.begin is None else make(list(graph.begin[0]), graph.begin[1], f"{whole.name}_begin")
    stepper = Stepper(whole, model, begin, graph)
    prove(stepper, plan, graph)
    return stepper
