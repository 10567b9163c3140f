"""Which inputs of a model have timesteps, and which are read in the first step only.

Timesteps are axis 1 of what recurrent layers and causal convolutions take. From there, they are followed through calls
whose output has as many of them as an input.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from layergraph.errors import LayerGraphError
from layergraph.execution.step import Step
from layergraph.functional.invocation import Invocation
from layergraph.functional.nest import flatten
from layergraph.functional.tensor import Tensor, TensorSpec
from layergraph.layers.reshaping import Reshape
from layergraph.stepping.calls import Calls
from layergraph.stepping.looking_back import has_timesteps, initial_states_of, looks_back, sequence_of

#: Lengths that no layer has by chance, for inputs that an output is as long as, and for others.
_LENGTHS = (1009, 1511)


@dataclass(frozen=True)
class Parts:
    """How the calls of a model are divided.

    begun      positions of the calls that only initial states need: they are made in the first step
    first      inputs that these calls read
    kept       slots of what they make, or read, that later calls need, too
    timed      inputs with timesteps
    """

    begun: Collection[int]
    first: Collection[str]
    kept: Collection[int]
    timed: Collection[str]


def divided(calls: Calls, specs: Sequence[TensorSpec], *, every: bool) -> Parts:
    """Divides the calls of a model with these inputs.

    every   whether all inputs that may have timesteps have them: those with as many as an input that has them

    Raises NotSteppableError if initial states depend on inputs that have timesteps.
    """
    states = [slot for step in calls.steps if looks_back(step) for slot in initial_states_of(step)]
    begun, seen = calls.behind(states)
    first = {name: slot for name, slot in calls.inputs.items() if slot in seen}
    later = [step for at, step in enumerate(calls.steps) if at not in begun]
    needed = {slot for step in later for slot in step.sources if slot not in initial_states_of(step)}
    made = {target for at in begun for target in calls.steps[at].targets}
    kept = (needed | set(calls.outputs.values())) & (made | set(first.values()))
    groups = _timed(later)
    for step in later:
        if looks_back(step) and groups.get(sequence_of(step)) in {groups.get(slot, slot) for slot in kept}:
            raise calls.refused(step, "begins with states that depend on all timesteps of the model's inputs")
    with_time = {groups[sequence_of(step)] for step in later if looks_back(step)}
    timed = {name for name, slot in calls.inputs.items() if groups.get(slot) in with_time}
    if every:
        lengths = {spec.shape[1] for spec in specs if spec.name in timed}
        timed |= {spec.name for spec in specs if spec.name not in first and _may_have_timesteps(spec, lengths)}
    return Parts(begun, set(first), kept, timed)


def _may_have_timesteps(spec: TensorSpec, lengths: Collection[int | None]) -> bool:
    rank = len(spec.shape)
    return rank > 1 and spec.shape[1] in lengths and (rank > 2 or spec.shape[1] is None or not _is_float(spec))


def _is_float(spec: TensorSpec) -> bool:
    return spec.dtype.startswith(("float", "bfloat"))


def _timed(steps: list[Step]) -> dict[int, int]:
    """Groups of slots with the same timesteps: slot -> a number of the group."""
    neighbours: dict[int, set[int]] = defaultdict(set)
    for step in steps:
        if looks_back(step):
            joined = [sequence_of(step), *step.targets[: has_timesteps(step)]]
            joined += [step.sources[at] for at in step.call.positions("mask")]
        else:
            joined = _as_long(step)
        for slot in joined:
            neighbours[slot].update(joined)
    groups: dict[int, int] = {}
    for start in neighbours:
        waiting = [start]
        while waiting:
            slot = waiting.pop()
            if slot not in groups:
                groups[slot] = start
                waiting += neighbours[slot]
    return groups


def _as_long(step: Step) -> list[int]:
    """Slots of the inputs and outputs of a call that have the same axis 1, however long it is."""
    sources = list(zip(step.sources, step.call.tensors, strict=True))
    for target, made in zip(step.targets, step.made, strict=True):
        if len(made.shape) < 2:
            continue
        alike = [(slot, t) for slot, t in sources if len(t.shape) >= 2 and t.shape[1] == made.shape[1]]
        slots = {slot for slot, _ in alike}
        if len(slots) == 1 and (made.shape[1] is None or isinstance(step.call.layer, Reshape)):
            return [target, *slots]
        for chosen in (*({slot} for slot in slots if len(slots) > 1), slots):
            if chosen and _follows(step, chosen, slots):
                return [target, *chosen]
    return []


def _follows(step: Step, chosen: Collection[int], alike: Collection[int]) -> bool:
    """Whether an output is as long as the inputs in `chosen`, if the others in `alike` have another length."""
    call: Invocation = step.call
    tensors = [
        tensor if slot not in alike else _of_length(tensor, _LENGTHS[slot not in chosen])
        for slot, tensor in zip(step.sources, call.tensors, strict=True)
    ]
    args, kwargs = call.arguments(tensors)
    training = kwargs.pop("training", None)
    try:
        outputs = flatten(call.layer.infer(Invocation(call.layer, args, kwargs, training)))
    except LayerGraphError:
        return False
    return any(output.shape[1:2] == _LENGTHS[:1] for output in outputs)


def _of_length(tensor: Tensor, length: int) -> Tensor:
    """The tensor with another number of timesteps."""
    mask = tensor.mask_shape
    return Tensor(
        (tensor.shape[0], length, *tensor.shape[2:]),
        tensor.dtype,
        tensor.history,
        name=tensor.name,
        mask_shape=None if mask is None else (mask[0], length, *mask[2:]),
    )
