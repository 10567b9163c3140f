"""The frozen trunk of a plan: the calls whose outputs for a row are the same in every step of training.

They depend on no weight that is trained, draw no random numbers, update no statistics or states, add nothing to the
loss, and compute each row by itself. What they give to the other calls can be computed once for each row, and kept.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from layergraph.config.training_rules import TrainingRules
from layergraph.execution.batch_independence import is_batch_independent
from layergraph.execution.liveness import masks_needed, masks_read, needed, with_frees
from layergraph.execution.passes.pool_before_relu import pool_first
from layergraph.execution.program import Program
from layergraph.execution.step import Step
from layergraph.functional.binding import Binder
from layergraph.functional.call_context import CallContext
from layergraph.functional.invocation import Mask
from layergraph.functional.layer import Layer
from layergraph.functional.strings import Strings
from layergraph.functional.weight import Weight
from layergraph.layers.core.basic import Embedding

#: Largest difference between a row computed alone and with others, for layers of plugins.
_TOLERANCE = 1e-4
#: Fewest axes of a weight whose call is worth keeping the outputs of.
_MATRIX = 2


@dataclass(frozen=True, slots=True)
class _Trial:
    """One execution of a plan's calls on a few rows: why each can't be kept ("" if it can), and its outputs."""

    obstacles: Sequence[str]
    values: dict[int, Any]


@dataclass(slots=True)
class FrozenSplit:
    """A plan in two parts: the trunk, whose outputs can be kept, and the head, which is computed from them.

    layers      names of the layers that the trunk calls
    obstacles   for each frozen call outside of the trunk: which layer keeps it out, and why
    worthwhile  whether the trunk does more work than looking its outputs up
    """

    layers: Sequence[str]
    obstacles: Sequence[str]
    worthwhile: bool
    _trunk: Program
    _head: Program
    #: Slots of the trunk's outputs, and of the inputs of the plan that the head reads itself.
    _kept: Sequence[int]
    _inputs: Sequence[int]
    #: Slots whose masks the head reads.
    _masked: Sequence[int]
    _mixed: bool
    _weights: dict[bool, Sequence[Any]] = field(default_factory=dict)

    @property
    def inputs(self) -> Sequence[int]:
        """Positions of the plan's inputs that the head reads itself."""
        return [place for place, slot in enumerate(self._trunk.inputs) if slot in set(self._inputs)]

    def trunk(
        self, context: CallContext, tensors: Sequence[torch.Tensor | Strings]
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """Returns what the head needs for tensors in the order of the plan's inputs: values, and masks or None."""
        values, masks = self._run(self._trunk, context, dict(zip(self._trunk.inputs, tensors, strict=True)), {})
        return [values[slot] for slot in self._kept], [masks[slot] for slot in self._masked]

    def forward(
        self, context: CallContext, tensors: Sequence[Any], masks: Sequence[Mask]
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """Returns the plan's outputs and masks for what `trunk` has returned, after the head's own inputs."""
        given = dict(zip([*self._inputs, *self._kept], tensors, strict=True))
        found, made = self._run(self._head, context, given, dict(zip(self._masked, masks, strict=True)))
        return [found[slot] for slot in self._head.outputs], [made[slot] for slot in self._head.outputs]

    def _run(
        self, program: Program, context: CallContext, given: dict[int, Any], given_masks: dict[int, Mask]
    ) -> tuple[list[Any], list[Mask]]:
        values: list[Any] = [None] * program.slot_count
        masks: list[Mask] = [None] * program.slot_count
        for slot, value in given.items():
            values[slot] = value
        for slot, mask in given_masks.items():
            masks[slot] = mask
        Program(
            program.steps,
            program.needs_masks,
            self._bound(program),
            program.inputs,
            program.outputs,
            program.slot_count,
        ).execute(context, values, masks)
        return values, masks

    def _bound(self, program: Program) -> Sequence[Any]:
        """The bound weights of a part's steps; in mixed precision their casts are made anew, as `Plan` does."""
        part = program is self._head
        if self._mixed or part not in self._weights:
            binder = Binder(lambda weight: weight.value)
            self._weights[part] = [binder(step.call.layer) for step in program.steps]
        return self._weights[part]


def frozen_split(
    steps: Sequence[Step],
    inputs: Sequence[int],
    outputs: Sequence[int],
    slot_count: int,
    trained: Collection[Weight],
    tensors: Sequence[torch.Tensor | Strings],
    rules: TrainingRules,
    *,
    mixed: bool,
) -> FrozenSplit:
    """Splits the steps of training by `rules`. `tensors` are a few rows of every input, on which each call is tried."""
    trained = set(trained)
    maker = {slot: place for place, step in enumerate(steps) for slot in step.targets}
    trains = _reaching(steps, maker, [any(w in trained for w in _weights_of(step)) for step in steps])
    trial = _tried(steps, inputs, outputs, trains, tensors, rules)
    blocked = _reaching(steps, maker, [bool(text) or t for text, t in zip(trial.obstacles, trains, strict=True)])
    works = _reaching(steps, maker, [_costs(step) for step in steps])
    kept, head = _cut(steps, maker, outputs, blocked, works, trial)
    trunk = needed([step for step, b in zip(steps, blocked, strict=True) if not b], kept)
    head_steps = with_frees([steps[place] for place in sorted(head)], outputs)
    made_in_head = {slot for step in head_steps for slot in step.targets}
    read = {slot for step in head_steps for slot in step.sources} | set(outputs)
    masked = sorted(slot for slot in masks_read(head_steps, outputs) if slot in set(kept))
    return FrozenSplit(
        list(dict.fromkeys(step.call.layer.name for step in trunk if not step.call.layer.is_operation)),
        _named_obstacles(steps, maker, trains, blocked, trial.obstacles),
        any(_costs(step) for step in trunk),
        _program(trunk, inputs, kept, masked, slot_count),
        _program(head_steps, inputs, outputs, outputs, slot_count),
        kept,
        [slot for slot in inputs if slot in read and slot not in made_in_head],
        masked,
        mixed,
    )


def _program(
    steps: Sequence[Step], inputs: Sequence[int], outputs: Sequence[int], masked: Sequence[int], slot_count: int
) -> Program:
    whole = with_frees(steps, outputs)
    return Program(pool_first(whole, outputs), masks_needed(whole, masked), (), inputs, outputs, slot_count)


def _weights_of(step: Step) -> Iterable[Weight]:
    layer: Layer = step.call.layer
    return (weight for inner in layer.walk_layers() for weight in inner.own_weights)


def _costs(step: Step) -> bool:
    """Whether a call multiplies by a matrix, or reads text."""
    if any(tensor.dtype == Strings.dtype for tensor in step.call.tensors):
        return True
    return not isinstance(step.call.layer, Embedding) and any(len(w.shape) >= _MATRIX for w in _weights_of(step))


def _reaching(steps: Sequence[Step], maker: dict[int, int], own: Sequence[bool]) -> list[bool]:
    """For each step, whether it or one that it depends on is marked in `own`."""
    found: list[bool] = []
    for step, marked in zip(steps, own, strict=True):
        found.append(marked or any(found[maker[slot]] for slot in step.sources if slot in maker))
    return found


def _tried(
    steps: Sequence[Step],
    inputs: Sequence[int],
    outputs: Sequence[int],
    trains: Sequence[bool],
    tensors: Sequence[torch.Tensor | Strings],
    rules: TrainingRules,
) -> _Trial:
    """Executes, as in training, all steps that depend on no trained weight, on copies of their weights."""
    values: dict[int, Any] = dict(zip(inputs, tensors, strict=True))
    masks: dict[int, Mask] = {}
    wants = masks_needed(steps, outputs)
    obstacles = []
    for step, trained, want in zip(steps, trains, wants, strict=True):
        if trained:
            obstacles.append("")
            continue
        given = [values[slot] for slot in step.sources]
        given_masks = [masks.get(slot) for slot in step.sources]
        made, made_masks, obstacle = _try(step, given, given_masks, want, rules)
        obstacles.append(obstacle)
        values.update(zip(step.targets, made, strict=True))
        masks.update(zip(step.targets, made_masks, strict=True))
    return _Trial(obstacles, values)


def _try(
    step: Step, given: list[Any], masks: list[Mask], want: bool, rules: TrainingRules
) -> tuple[list[torch.Tensor], list[Mask], str]:
    """Executes one step. Returns its outputs, their masks, and why the outputs can't be kept."""
    binder = Binder(lambda weight: weight.value.detach().clone())
    weights = binder(step.call.layer)
    copies = list(_tensors_in(weights))
    versions = [copy._version for copy in copies]
    generator = torch.Generator(given[0].device if given and isinstance(given[0], torch.Tensor) else "cpu")
    context = CallContext(training=True, generator=generator, states={}, rules=rules)
    before = _random_state(generator)
    with torch.no_grad():
        outputs, made = step.call(context, weights, list(given), list(masks), want_masks=want)
    if before != _random_state(generator):
        return outputs, made, "is random in training"
    if versions != [copy._version for copy in copies]:
        return outputs, made, "updates statistics in training"
    if context.states:
        return outputs, made, "has a state"
    if context.losses:
        return outputs, made, "adds to the loss"
    if not is_batch_independent([step]) or not _own_rows(step, weights, given, masks, outputs, rules):
        return outputs, made, "computes rows together"
    return outputs, made, ""


def _random_state(generator: torch.Generator) -> tuple[bytes, bytes, Any]:
    """The states of all random generators that a layer may use."""
    return bytes(generator.get_state().numpy()), bytes(torch.get_rng_state().numpy()), random.getstate()


def _tensors_in(weights: Any) -> Iterable[torch.Tensor]:
    """All tensors of a layer's bound weights, of sublayers and inner models, too."""
    waiting = [weights]
    while waiting:
        one = waiting.pop()
        if isinstance(one, torch.Tensor):
            yield one
        elif isinstance(one, (list, tuple)):
            waiting.extend(one)
        elif isinstance(one, dict):
            waiting.extend(one.values())
        elif hasattr(one, "__dict__"):
            waiting.extend(vars(one).values())


def _own_rows(
    step: Step,
    weights: Any,
    given: list[Any],
    masks: list[Mask],
    outputs: list[torch.Tensor],
    rules: TrainingRules,
) -> bool:
    """Whether the first row alone gives the same as with the others; for layers of this package that is known, unless
    frozen ones compute with the batch's statistics.
    """
    layer: Layer = step.call.layer
    known = all(type(inner).__module__.startswith("layergraph.") for inner in layer.walk_layers())
    if known and not rules.frozen_statistics:
        return True
    first = [value[:1] if _has_rows(t) else value for value, t in zip(given, step.call.tensors, strict=True)]
    first_masks = [None if mask is None else mask[:1] for mask in masks]
    context = CallContext(training=True, losses=None, rules=rules)
    with torch.no_grad():
        alone, _ = step.call(context, weights, first, first_masks, want_masks=False)
    return all(
        one.shape[1:] == whole.shape[1:] and torch.allclose(one, whole[:1], _TOLERANCE, _TOLERANCE, equal_nan=True)
        for one, whole in zip(alone, outputs, strict=True)
    )


def _has_rows(tensor: Any) -> bool:
    return bool(tensor.shape) and tensor.shape[0] is None


def _cut(
    steps: Sequence[Step],
    maker: dict[int, int],
    outputs: Sequence[int],
    blocked: Sequence[bool],
    works: Sequence[bool],
    trial: _Trial,
) -> tuple[list[int], set[int]]:
    """Returns the slots to keep, and the positions of the steps that are computed in every step of training.

    Those include calls of the trunk whose outputs can't be kept, take no work, or are larger than what they come from.
    """
    kept: dict[int, None] = {}
    head = {place for place, b in enumerate(blocked) if b}
    waiting = [*outputs, *(slot for place in sorted(head) for slot in steps[place].sources)]
    while waiting:
        slot = waiting.pop()
        place = maker.get(slot)
        if place is None or place in head or slot in kept:
            continue
        if works[place] and _keepable(steps[place], slot, trial.values):
            kept[slot] = None
        else:
            head.add(place)
            waiting += steps[place].sources
    return sorted(kept), head


def _keepable(step: Step, slot: int, values: dict[int, Any]) -> bool:
    value = values[slot]
    if not isinstance(value, torch.Tensor) or not _has_rows(step.made[step.targets.index(slot)]):
        return False
    return _costs(step) or value.nbytes <= sum(values[source].nbytes for source in step.sources)


def _named_obstacles(
    steps: Sequence[Step],
    maker: dict[int, int],
    trains: Sequence[bool],
    blocked: Sequence[bool],
    obstacles: Sequence[str],
) -> list[str]:
    """What keeps calls with frozen weights out of the trunk."""
    found: dict[str, None] = {}
    causes: list[frozenset[int]] = []
    for place, step in enumerate(steps):
        own = {place} if obstacles[place] else set[int]()
        causes.append(frozenset(own.union(*(causes[maker[slot]] for slot in step.sources if slot in maker))))
        if blocked[place] and not trains[place] and _costs(step):
            for cause in sorted(causes[place]):
                layer = steps[cause].call.layer
                found[f"layer '{layer.name}' ({type(layer).__name__}) {obstacles[cause]}"] = None
    return list(found)
