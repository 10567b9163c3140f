"""The graph of a step: the model's calls on any number of timesteps, with states as inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from layergraph.errors import GraphError, LayerGraphError, NotSteppableError
from layergraph.execution.step import Step
from layergraph.functional.input import Input
from layergraph.functional.layer import Layer
from layergraph.functional.nest import flatten
from layergraph.functional.tensor import Tensor, TensorSpec
from layergraph.layers.reshaping import RepeatVector, Reshape
from layergraph.layers.rnn.recurrent import Recurrent
from layergraph.stepping import causal_convolution, recurrent
from layergraph.stepping.calls import Calls
from layergraph.stepping.layer_copies import Names, copy_of
from layergraph.stepping.looking_back import has_timesteps, looks_back
from layergraph.stepping.reasons import reason_of
from layergraph.stepping.state import StateSpec
from layergraph.stepping.state_tensors import StateTensors
from layergraph.stepping.time_axis import Parts, divided


class Extent(Enum):
    """What a tensor is of: each timestep of the step, the timesteps up to the last one, or no timestep."""

    EACH = "each timestep"
    LAST = "the last timestep"
    NONE = "no timestep"


@dataclass(frozen=True)
class StepGraph:
    """What a step model is made of.

    inputs       the model's inputs that each step takes
    outputs      the model's outputs, by name
    before       states before the step, in the order of `specs`
    after        states after the step
    begin        inputs and outputs of a graph that computes first states from `first` inputs: those of the states with
                 `computed`, in their order. None if there are none
    first        names of the inputs that only the first step reads
    extents      extent of each tensor of the graph
    causes       layers of the graph without states -> path and class of the model's layer
    owners       layers of the graph with states -> the same
    """

    inputs: Sequence[Tensor]
    outputs: Mapping[str, Tensor]
    specs: Sequence[StateSpec]
    before: Sequence[Tensor]
    after: Sequence[Tensor]
    begin: tuple[Sequence[Tensor], Mapping[str, Tensor]] | None
    first: Sequence[str]
    extents: Mapping[int, Extent]
    causes: Mapping[Layer, tuple[str, str]]
    owners: Mapping[Layer, tuple[str, str]]

    def cause(self, layer: Layer) -> tuple[str, str]:
        """Path and class of the model's layer that a layer of the graph stands for."""
        own = layer.name, layer.keras_class_name
        return self.causes.get(layer) or self.owners.get(layer, own)


def divisions(calls: Calls, specs: Sequence[TensorSpec]) -> list[Parts]:
    """In which ways the inputs of a model may have timesteps: all of those that may, then as few as possible.

    Raises NotSteppableError, with the layer and the reason.
    """
    found = [step for step in calls.steps if looks_back(step)]
    if not found:
        raise _stateless(calls)
    for step in found:
        layer = step.call.layer
        count = sum(other.call.layer is layer for other in found)
        if isinstance(layer, Recurrent) and layer.stateful and count > 1:
            raise calls.refused(step, f"is called {count} times with stateful=True: in Keras, they share one state")
    both = [divided(calls, specs, every=every) for every in (True, False)]
    return both if both[0] != both[1] else both[:1]


def step_graph(calls: Calls, specs: Sequence[TensorSpec], parts: Parts) -> StepGraph:
    """The graph of a step of a model with these inputs. Raises NotSteppableError, with the layer and the reason."""
    return _Build(calls, specs, parts).graph()


def _stateless(calls: Calls) -> NotSteppableError:
    """The error that no layer has a state, or could have one."""
    for step in calls.steps:
        for layer in step.call.layer.walk_layers():
            if isinstance(layer, Recurrent):
                return calls.refused(step, reason_of(step.call.layer))
    return NotSteppableError("no layer keeps a state between timesteps")


class _Build:
    def __init__(self, calls: Calls, specs: Sequence[TensorSpec], parts: Parts) -> None:
        self._calls = calls
        self._parts = parts
        self._names = Names()
        self._states = StateTensors(self._names)
        self._values: dict[int, Tensor] = {}
        self._extents: dict[int, Extent] = {}
        self._tensors: list[Tensor] = []
        self._copies: dict[Layer, Layer] = {}
        self._causes: dict[Layer, tuple[str, str]] = {}
        self._specs = {spec.name: spec for spec in specs}
        self._inputs = [self._input(name) for name in self._specs if name not in parts.first]

    def graph(self) -> StepGraph:
        """Repeats the calls."""
        calls, parts = self._calls, self._parts
        for slot in sorted(parts.kept):
            self._keep(slot)
        for at, step in enumerate(calls.steps):
            if at not in parts.begun:
                self._repeat(step)
        if not self._states.specs:
            raise _stateless(calls)
        return StepGraph(
            self._inputs,
            {name: self._values[slot] for name, slot in calls.outputs.items()},
            self._states.specs,
            self._states.before,
            self._states.after,
            self._begin(),
            [name for name in self._specs if name in parts.first],
            self._extents,
            self._causes,
            self._states.owners,
        )

    def _input(self, name: str) -> Tensor:
        spec = self._specs[name]
        timed = name in self._parts.timed
        lengths = (None, *spec.shape[2:]) if timed else spec.shape[1:]
        made = Input(batch_shape=(None, *lengths), dtype=spec.dtype, name=self._names.free(name))
        self._set(self._calls.inputs[name], made, Extent.EACH if timed else Extent.NONE)
        return made

    def _set(self, slot: int, tensor: Tensor, extent: Extent) -> None:
        self._values[slot] = tensor
        self._extents[id(tensor)] = extent

    def _extent(self, slot: int) -> Extent:
        return self._extents[id(self._values[slot])]

    def _keep(self, slot: int) -> None:
        """Adds a state that stays what the first step has made it."""
        maker = self._calls.makers.get(slot)
        name = next((name for name, own in self._calls.inputs.items() if own == slot), "")
        if maker is None:
            shape, dtype = self._specs[name].shape, self._specs[name].dtype
        else:
            step = self._calls.steps[maker]
            made = step.made[step.targets.index(slot)]
            name, shape, dtype = self._calls.path(step), made.shape, made.dtype
            if made.mask_shape is not None or None in shape[1:]:
                raise self._calls.refused(step, "makes what every step needs from all of an input of the first step")
        kept = self._states.add(f"{name}/kept", name, shape[1:], dtype, computed_by=slot)
        self._states.finish([kept])
        self._set(slot, kept, Extent.NONE)

    def _repeat(self, step: Step) -> None:
        extents = [self._extent(slot) for slot in step.sources if slot in self._values]
        if looks_back(step):
            made = self._next(step)
            kinds = [Extent.EACH if has_timesteps(step) else Extent.LAST, *[Extent.LAST] * len(made[1:])]
        else:
            made = self._again(step, timed=Extent.EACH in extents)
            if Extent.EACH in extents:
                self._check_repeated(step)
                kinds = [Extent.EACH if tensor.shape[1:2] == (None,) else Extent.LAST for tensor in made]
            else:
                kinds = [Extent.LAST if Extent.LAST in extents else Extent.NONE] * len(made)
        if Extent.EACH in kinds and Extent.LAST in extents:
            raise self._calls.refused(step, "joins each timestep with a result of the whole sequence")
        for slot, tensor, kind in zip(step.targets, made, kinds, strict=True):
            self._set(slot, tensor, kind)

    def _check_repeated(self, step: Step) -> None:
        """Raises NotSteppableError if one of the inputs was repeated as often as the model has timesteps."""
        makers = self._calls.makers
        for slot in step.sources:
            maker = self._calls.steps[makers[slot]] if slot in makers else None
            if maker is not None and isinstance(maker.call.layer, RepeatVector) and maker.call.layer.n > 1:
                raise self._calls.refused(maker, reason_of(maker.call.layer))

    def _next(self, step: Step) -> list[Tensor]:
        """A call that goes on from a state."""
        layer, refused = step.call.layer, self._calls.refused
        given = set(step.call.positions("initial_state"))
        own = [slot for at, slot in enumerate(step.sources) if at not in given]
        if any(self._extent(slot) is not Extent.EACH for slot in own):
            maker = self._calls.makers.get(own[0])
            cause = step if maker is None else self._calls.steps[maker]
            raise refused(cause, reason_of(cause.call.layer, makes_timesteps=True))
        kind = recurrent if isinstance(layer, Recurrent) else causal_convolution
        if reason := kind.refusal(step):
            raise refused(step, reason)
        tensors = [self._values.get(slot, step.call.tensors[at]) for at, slot in enumerate(step.sources)]
        try:
            made: list[Tensor] = kind.next_call(step, tensors, self._calls.path(step), self._states)
        except NotSteppableError as wrong:
            raise refused(step, wrong.reason) from wrong
        except LayerGraphError as wrong:
            raise refused(step, f"can't go on from a state: {wrong}") from wrong
        return made

    def _again(self, step: Step, *, timed: bool) -> list[Tensor]:
        """An equal call of a copy of the layer."""
        layer = step.call.layer
        copy = self._copies.get(layer)
        if copy is None or (timed and isinstance(layer, Reshape)):
            changes = _any_number_of_timesteps(step) if timed else {}
            copy = copy_of(layer, self._names.free(self._calls.path(step)), **changes)
            self._copies.setdefault(layer, copy)
            self._causes[copy] = (self._calls.path(step), layer.keras_class_name)
        args, kwargs = step.call.arguments([self._values[slot] for slot in step.sources])
        try:
            made: list[Tensor] = flatten(copy(*args, **kwargs))
        except GraphError as wrong:
            if not timed:
                raise
            raise self._calls.refused(step, reason_of(layer)) from wrong
        return made

    def _begin(self) -> tuple[Sequence[Tensor], Mapping[str, Tensor]] | None:
        """The graph that computes first states."""
        computed = [
            (s.name, slot) for s, slot in zip(self._states.specs, self._states.sources, strict=True) if slot is not None
        ]
        if not computed:
            return None
        names = Names()
        values: dict[int, Tensor] = {}
        inputs = []
        for name in self._specs:
            if name in self._parts.first:
                spec = self._specs[name]
                made = Input(batch_shape=(None, *spec.shape[1:]), dtype=spec.dtype, name=names.free(name))
                values[self._calls.inputs[name]] = made
                inputs.append(made)
        copies: dict[Layer, Layer] = {}
        for at, step in enumerate(self._calls.steps):
            if at in self._parts.begun:
                layer = step.call.layer
                if layer not in copies:
                    copies[layer] = copy_of(layer, names.free(self._calls.path(step)))
                args, kwargs = step.call.arguments([values[slot] for slot in step.sources])
                outputs = flatten(copies[layer](*args, **kwargs))
                values.update(zip(step.targets, outputs, strict=True))
        return inputs, {name: values[slot] for name, slot in computed}


def _any_number_of_timesteps(step: Step) -> dict[str, Any]:
    """Options of the call's layer with which the number of timesteps is open."""
    lengths = step.made[0].shape[2:] if isinstance(step.call.layer, Reshape) else (None,)
    return {} if None in lengths else {"target_shape": (-1, *lengths)}
