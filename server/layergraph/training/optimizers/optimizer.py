"""Base class of the optimizers with a formula: clipping, weight decay, averages, accumulation, constraints and state.

The order of a step is Keras 3's: average accumulated gradients, clip, decay weights, apply the optimizer's formula,
update the averages, apply constraints, increment the iterations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import Self

from layergraph.config.options import (
    Expected,
    boolean,
    brief,
    fraction,
    option,
    optional,
    positive_int,
)
from layergraph.config.training_rules import KERAS3_RULES, TrainingRules
from layergraph.errors import ConfigError, DataError
from layergraph.training.optimizers import schedules
from layergraph.training.optimizers.base_optimizer import BaseOptimizer
from layergraph.training.optimizers.schedules import Decayed, InverseTimeDecay, Schedule
from layergraph.training.optimizers.state import ABSENT, Slots, Tensor, Tensors, Trainable, Variable, misfit
from layergraph.training.options import nonnegative, number


class Optimizer(BaseOptimizer):
    """Base of optimizers with an update formula (keras.optimizers.Optimizer).

    weight_decay                   each step multiplies weights by 1 - weight_decay x learning rate; None for none
    clipnorm                       maximum norm of each gradient
    global_clipnorm                maximum norm of all gradients together
    clipvalue                      maximum absolute value of a gradient's elements
    use_ema, ema_momentum,         exponential moving averages of the weights, which replace the weights every
    ema_overwrite_frequency        that many steps (None: only at the end of training)
    loss_scale_factor              the loss is multiplied, and the gradients divided, by this
    gradient_accumulation_steps    update every n-th step with the mean of n gradients
    """

    learning_rate: float | Schedule = option(schedules.learning_rate, default=0.001)
    weight_decay: float | None = option(optional(nonnegative), default=None, kw_only=True)
    clipnorm: float | None = option(optional(nonnegative), default=None, kw_only=True)
    clipvalue: float | None = option(optional(nonnegative), default=None, kw_only=True)
    global_clipnorm: float | None = option(optional(nonnegative), default=None, kw_only=True)
    use_ema: bool = option(boolean, default=False, kw_only=True)
    ema_momentum: float = option(fraction, default=0.99, kw_only=True)
    ema_overwrite_frequency: int | None = option(optional(positive_int), default=None, kw_only=True)
    loss_scale_factor: float | None = option(optional(number), default=None, kw_only=True)
    gradient_accumulation_steps: int | None = option(optional(positive_int), default=None, kw_only=True)

    #: Whether slots alternate by weight in states of the legacy optimizer, too.
    legacy_alternates: ClassVar[bool] = False
    #: Options of Keras 2 that have no effect here.
    ignored: ClassVar[tuple[str, ...]] = ("jit_compile", "is_legacy_optimizer")

    def setup(self) -> None:
        super().setup()
        clips = [name for name in ("clipnorm", "clipvalue", "global_clipnorm") if getattr(self, name) is not None]
        if len(clips) > 1:
            raise ConfigError(f"{type(self).__name__}: got {' and '.join(clips)}, expected at most one of them")
        if self.gradient_accumulation_steps == 1:
            raise ConfigError(f"{type(self).__name__}: gradient_accumulation_steps is 1, expected 2 or more")
        self.iterations = 0
        #: Whether the config was written by a legacy optimizer of Keras 2, whose state has another order.
        self.legacy = False
        #: Keras 2's `decay`: the learning rate is divided by 1 + decay x iterations.
        self.rate_decay = 0.0
        self.weights: tuple[Trainable, ...] = ()
        self._slots = Slots([], {})
        self._not_decayed: set[int] = set()
        self._active: tuple[tuple[int, ...], Slots] | None = None
        self._rules = KERAS3_RULES

    def follow(self, rules: TrainingRules) -> None:
        self._rules = rules

    # Defined by each optimizer.

    def slot_groups(self) -> list[tuple[str, ...]]:
        """Names of the slots in Keras's order; slots in one group alternate by weight."""
        return []

    def update(self, slots: Slots, gradients: Tensors, rate: float, step: int) -> None:
        """Updates `slots.weights` in place; `step` counts updates from 1."""
        raise NotImplementedError

    @property
    def takes_rows(self) -> bool:
        idle = (self.weight_decay, self.clipnorm, self.clipvalue, self.global_clipnorm, self.loss_scale_factor)
        return self.leaves_rows() and not any(idle) and not self.use_ema and not self.gradient_accumulation_steps

    @property
    def reads_lookups(self) -> bool:
        clips = self.clipnorm or self.clipvalue or self.global_clipnorm
        # The mean of accumulated gradients is clipped, which Keras 2 doesn't have.
        by_lookup = self._rules.clips_lookups and not self.gradient_accumulation_steps
        return self.leaves_others or bool(by_lookup and clips)

    def leaves_rows(self) -> bool:
        """Whether the formula leaves rows with a zero gradient unchanged, and `update_rows` is defined."""
        return False

    def update_rows(self, slots: Slots, rows: Tensor, gradients: Tensor, rate: float) -> None:
        """Like `update`, for one weight whose gradient is `gradients` in the distinct `rows` and 0 elsewhere."""
        raise NotImplementedError

    def decay(self, slots: Slots, rate: float) -> None:
        """Applies weight decay to `slots.weights`, before the update."""
        if self.weight_decay is not None:
            torch._foreach_mul_(self.decayed(slots.weights), 1 - self.weight_decay * rate)

    def decayed(self, weights: Tensors) -> Tensors:
        """The weights that weight decay applies to."""
        if not self._not_decayed:
            return weights
        return [weight for weight in weights if id(weight) not in self._not_decayed]

    # State.

    @property
    def built(self) -> bool:
        """Whether the state has been created."""
        return bool(self.weights)

    def build(self, weights: Iterable[Trainable]) -> None:
        weights = tuple(weights)
        if self.built and [id(w.value) for w in weights] == [id(tensor) for tensor in self._slots.weights]:
            return
        before, known = self._slots, {id(tensor): place for place, tensor in enumerate(self._slots.weights)}
        self.weights = weights
        self._active = None

        def kept_or_first(slot: str, weight: Trainable) -> Tensor:
            place = known.get(id(weight.value))
            if place is not None:
                return before.by_name[slot][place]
            if slot == "average" and self.iterations:
                # An average of zeros would replace the weight: only the first step of all sets it.
                return weight.value.detach().clone()
            return self.first_value(slot, weight)

        slots = {slot: [kept_or_first(slot, w) for w in weights] for group in self._groups() for slot in group}
        self._slots = Slots([weight.value for weight in weights], slots)

    def first_value(self, slot: str, weight: Trainable) -> Tensor:
        """Initial value of a slot; ABSENT if the weight has no such slot."""
        if slot == "average" and self._rules.averages_first:
            return weight.value.detach().clone()
        return torch.zeros_like(weight.value, requires_grad=False)

    def slot_name(self, slot: str, weight: Trainable) -> str:
        """The name of a slot in `variables`."""
        return f"{weight.path.replace('/', '_')}_{slot}"

    def scalars(self) -> list[str]:
        """Names of attributes that are state shared by all weights; they come last in Keras's order."""
        return []

    def _groups(self) -> list[tuple[str, ...]]:
        averages = [("average",)] if self.use_ema else []
        sums = [("gradient_accumulator",)] if self.gradient_accumulation_steps else []
        return [*averages, *sums, *self.slot_groups()]

    @property
    def variables(self) -> list[Variable]:
        """The state in Keras 3's order: iteration, learning rate (unless it is a schedule), slots, scalars."""
        state = [Variable("iteration", np.array(self.iterations, np.int32))]
        if not self._scheduled:
            state.append(Variable("learning_rate", np.array(self.learning_rate, np.float32)))
        if not self.built:
            return state
        scalars = [Variable(name, np.array(getattr(self, name), np.float32)) for name in self.scalars()]
        return [*state, *self._slot_variables(self._groups()), *scalars]

    def load(self, arrays: Sequence[np.ndarray[Any, Any] | Tensor]) -> None:
        """Loads the state from a file of Keras 3 or 2.

        States of Keras 2.15 lack the learning rate and the scalars; legacy ones have another order. Keras saves an
        optimizer without steps without slots, which then keep their values.

        Raises DataError if the number or shapes of arrays differ; the state is unchanged then.
        """
        state = self.variables
        unbuilt = state[: 1 if self._scheduled else 2]
        if len(arrays) <= len(unbuilt) and not any(array.shape for array in arrays):
            self._take(unbuilt[: len(arrays)], arrays)
            return
        keras2, inner = self.keras2_variables(), self.inner_variables()
        for others, possible in ((keras2, self.legacy or len(keras2) < len(state)), (inner, len(inner) < len(state))):
            if possible and len(arrays) == len(others):
                self._take(others, arrays)
                self.complete_scalars([variable.name for variable in others])
                return
        alternating = self._alternating_variables()
        self._take(state if misfit(state, arrays) is None or misfit(alternating, arrays) else alternating, arrays)

    def state(self) -> dict[str, Any]:
        scheduled = isinstance(self.learning_rate, Schedule)
        names = ["iterations", *self.scalars(), *([] if scheduled else ["learning_rate"])]
        slots = [variable.value for variable in self._slot_variables(self._groups())]
        return {"numbers": {name: getattr(self, name) for name in names}, "slots": slots}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._take(self._slot_variables(self._groups()), state["slots"])
        for name, value in state["numbers"].items():
            setattr(self, name, value)

    def _take(self, state: Sequence[Variable], arrays: Sequence[np.ndarray[Any, Any] | Tensor]) -> None:
        if wrong := misfit(state, arrays):
            raise DataError(f"optimizer '{self.name}': {wrong}")
        for variable, array in zip(state, arrays, strict=True):
            if isinstance(variable.value, Tensor):
                source = array if isinstance(array, Tensor) else torch.from_numpy(np.array(array))
                variable.value.copy_(source)
            elif variable.name == "iteration":
                self.iterations = int(array)
            else:
                setattr(self, variable.name, float(array))

    def keras2_variables(self, *, legacy: bool | None = None) -> list[Variable]:
        """The state in Keras 2.15's order: without learning rate and scalars; most legacy ones slot by slot.

        `legacy` is whether the order is a legacy optimizer's; None for `self.legacy`.
        """
        split = (self.legacy if legacy is None else legacy) and not self.legacy_alternates
        groups = [(slot,) for group in self._groups() for slot in group] if split else self._groups()
        return [self.variables[0], *self._slot_variables(groups)]

    def keras2_idle(self) -> list[Variable]:
        """Unused variables that Keras 2.15 has after `keras2_variables`; it loads a state only as a whole."""
        return []

    def _alternating_variables(self) -> list[Variable]:
        """The state in the order before Keras 3.10: average and accumulator alternate by weight."""
        if not (self.built and self.use_ema and self.gradient_accumulation_steps):
            return self.variables
        slots = self._slot_variables([("average", "gradient_accumulator")])
        first = 1 if self._scheduled else 2
        state = self.variables
        return [*state[:first], *slots, *state[first + len(slots) :]]

    def inner_variables(self) -> list[Variable]:
        """The state inside of a LossScaleOptimizer in Keras 3: without the scalars, which aren't tracked there."""
        scalars = self.scalars() if self.built else []
        return self.variables[: -len(scalars)] if scalars else self.variables

    def complete_scalars(self, known: Sequence[str]) -> None:
        """Computes the scalars that a loaded state lacked from the iterations."""

    def _slot_variables(self, groups: Iterable[tuple[str, ...]]) -> list[Variable]:
        found = []
        for group in groups:
            for index, weight in enumerate(self.weights):
                kept = {slot: self._slots.by_name[slot][index] for slot in group}
                found += [Variable(self.slot_name(s, weight), v) for s, v in kept.items() if v is not ABSENT]
        return found

    # Steps.

    def rate(self) -> float:
        rate = self._decayed_rate()
        return rate(self.iterations) if isinstance(rate, Schedule) else rate

    def _decayed_rate(self) -> float | Schedule:
        rate = self.learning_rate
        if not self.rate_decay:
            return rate
        # Keras 3 has a schedule for this; here callbacks may still set the learning rate.
        if isinstance(rate, Schedule):
            return Decayed(rate, self.rate_decay)
        return InverseTimeDecay(rate, 1, self.rate_decay)

    @property
    def _scheduled(self) -> bool:
        """Whether the learning rate is a schedule in Keras 3's form."""
        return bool(self.rate_decay) or isinstance(self.learning_rate, Schedule)

    def scaled(self, loss: Tensor) -> Tensor:
        return loss if self.loss_scale_factor is None else loss * self.loss_scale_factor

    def exclude_from_weight_decay(self, var_list: Iterable[Trainable] = (), var_names: Iterable[str] = ()) -> None:
        """Excludes weights from decay: the given ones, and those whose name one of the regular expressions matches."""
        spared = {id(weight.value) for weight in var_list}
        patterns = [re.compile(pattern) for pattern in var_names]
        for weight in self.weights:
            if any(pattern.search(weight.path.rsplit("/", 1)[-1]) for pattern in patterns):
                spared.add(id(weight.value))
        self._not_decayed = spared

    @torch.no_grad()
    def apply(self, gradients: Sequence[Tensor | None]) -> None:
        if all(gradient is None for gradient in gradients):
            raise ConfigError("the loss depends on no trainable weight")
        by_lookups = self.reads_lookups or self.loss_scale_factor is not None
        if by_lookups and any(gradient is not None and gradient.is_sparse for gradient in gradients):
            self._step_by_lookups(gradients)
        else:
            self._step(gradients)

    def _step(self, gradients: Sequence[Tensor | None]) -> None:
        if self.takes_rows:
            gradients = self._apply_rows(gradients)
        indices = tuple(i for i, gradient in enumerate(gradients) if gradient is not None)
        if self._active is None or self._active[0] != indices:
            slots = self._slots if len(indices) == len(self.weights) else self._slots.chosen(indices)
            self._active = (indices, slots)
        given: Tensors = [gradient for gradient in gradients if gradient is not None]
        if given:
            if self.loss_scale_factor is not None:
                given = list(torch._foreach_div(given, self.loss_scale_factor))
            self._accumulate_or_update(self._active[1], given)
        if self.use_ema:
            self._average()
        for index in indices:
            constraint = self.weights[index].constraint
            if constraint is not None:
                self._slots.weights[index].copy_(constraint(self._slots.weights[index]))
        self.iterations += 1

    def _step_by_lookups(self, gradients: Sequence[Tensor | None]) -> None:
        """Applies a step with sparse gradients, whose lookups are clipped before those of a row are added."""
        if (scale := self.loss_scale_factor) is not None:
            # Divided before clipping. The factor is set if the file has a fixed scale around the optimizer.
            gradients = [None if g is None else g / scale for g in gradients]
        limits = self.clipnorm, self.clipvalue, self.global_clipnorm
        given = [g for g in gradients if g is not None]
        amounts = iter(self._clipped([g._values() if g.is_sparse else g for g in given]))
        clipped = [None if g is None else _with_values(g, next(amounts)) for g in gradients]
        self.clipnorm = self.clipvalue = self.global_clipnorm = self.loss_scale_factor = None
        try:
            by_rows = self.takes_rows
            pairs = zip(clipped, self.weights, strict=True)
            self._step([_summed(g) if w.constraint is not None or not by_rows else g for g, w in pairs])
        finally:
            self.clipnorm, self.clipvalue, self.global_clipnorm = limits
            self.loss_scale_factor = scale

    def _apply_rows(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Updates the weights with sparse gradients; returns the gradients with None in their place."""
        left = list(gradients)
        for index, gradient in enumerate(gradients):
            if gradient is not None and gradient.is_sparse:
                summed = gradient.coalesce()
                self.update_rows(self._slots.chosen([index]), summed.indices()[0], summed.values(), self.rate())
                left[index] = None
        return left

    def _accumulate_or_update(self, slots: Slots, gradients: Tensors) -> None:
        every = self.gradient_accumulation_steps
        if every:
            sums = slots.by_name["gradient_accumulator"]
            torch._foreach_add_(sums, gradients)
            if (self.iterations + 1) % every:
                return
            gradients = list(torch._foreach_div(sums, float(every)))
            # Resets all sums, including those of weights without a gradient in this step.
            torch._foreach_zero_(self._slots.by_name["gradient_accumulator"])
        rate = self.rate()
        gradients = self._clipped(gradients)
        self.decay(slots, rate)
        self.update(slots, gradients, rate, self._updates() + 1)

    def _updates(self) -> int:
        return self.iterations // (self.gradient_accumulation_steps or 1)

    def _clipped(self, gradients: Tensors) -> Tensors:
        # Unlike torch's clip_grad_norm_, Keras adds no epsilon to the norm.
        if self.clipnorm and not self._rules.clips_together:
            norms = list(torch._foreach_norm(gradients))
            torch._foreach_clamp_min_(norms, self.clipnorm)
            return list(torch._foreach_div(torch._foreach_mul(gradients, self.clipnorm), norms))
        if limit := self.clipnorm or self.global_clipnorm:
            norm = torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(gradients))))
            scale = limit * torch.minimum(1.0 / norm, torch.full_like(norm, 1.0 / limit))
            # A norm that isn't finite makes all gradients NaN instead of being hidden.
            return list(torch._foreach_mul(gradients, scale + (norm - norm)))
        if self.clipvalue:
            clipped = torch._foreach_clamp_min(gradients, -self.clipvalue)
            return list(torch._foreach_clamp_max(clipped, self.clipvalue))
        return gradients

    def _average(self) -> None:
        averages = self._slots.by_name["average"]
        # In Keras 3 the average starts with the weights after the first update.
        momentum = self.ema_momentum if self._updates() or self._rules.averages_first else 0.0
        torch._foreach_mul_(averages, momentum)
        torch._foreach_add_(averages, self._slots.weights, alpha=1 - momentum)
        if self.ema_overwrite_frequency and (self._updates() + 1) % self.ema_overwrite_frequency == 0:
            self.finalize()

    @torch.no_grad()
    def finalize(self) -> None:
        """Replaces the weights by their averages, as Keras does at the end of fit. No-op without averages."""
        if self.use_ema and self.built:
            torch._foreach_copy_(self._slots.weights, self._slots.by_name["average"])

    @property
    def averaging(self) -> list[Optimizer]:
        return [self] if self.use_ema else []

    @torch.no_grad()
    def exchange_averages(self) -> None:
        """Swaps the weights and their averages."""
        averages = self._slots.by_name["average"]
        weights = [weight.clone() for weight in self._slots.weights]
        torch._foreach_copy_(self._slots.weights, averages)
        torch._foreach_copy_(averages, weights)

    @torch.no_grad()
    def average_anew(self) -> None:
        """Sets the averages to the current weights."""
        torch._foreach_copy_(self._slots.by_name["average"], self._slots.weights)

    # Config.

    @property
    def legacy_decay(self) -> float:
        """The `decay` of Keras 2's legacy optimizer."""
        return self.rate_decay

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        rate = self._decayed_rate()
        if isinstance(rate, Schedule):
            config["learning_rate"] = schedules.keras_form(rate)
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Creates an optimizer from a config of Keras 3 or 2, including `lr`, `decay` and Keras 2's ignored options."""
        options = {name: value for name, value in config.items() if name not in cls.ignored}
        if "lr" in options:
            options.setdefault("learning_rate", options.pop("lr"))
        decay = options.pop("decay", None)
        made = cls(**options)
        made.legacy = is_legacy(config)
        try:
            made.rate_decay = number(decay or 0.0)
        except Expected as wanted:
            raise ConfigError(f"{cls.__name__}: option 'decay' is {brief(decay)}, expected {wanted}") from None
        return made


def _with_values(gradient: Tensor, values: Tensor) -> Tensor:
    if not gradient.is_sparse:
        return values
    return torch.sparse_coo_tensor(gradient._indices(), values, gradient.shape, check_invariants=False)


def _summed(gradient: Tensor | None) -> Tensor | None:
    """The gradient as a dense one."""
    return gradient.to_dense() if gradient is not None and gradient.is_sparse else gradient


def is_legacy(config: Mapping[str, Any]) -> bool:
    """Whether a config is of Keras 2's legacy optimizers, the only ones with `decay` (and formerly `lr`).

    For Nadam it was `schedule_decay`.
    """
    own = "decay" in config or "lr" in config or "schedule_decay" in config
    return own and config.get("is_legacy_optimizer") is not False


def power(base: float, exponent: float) -> float:
    """base^exponent in float32, as in Keras: 1 - 0.999 differs in the fifth digit."""
    return float(np.float32(base) ** np.float32(exponent))


def quotient(part: float, whole: float) -> float:
    """part / whole; infinite or NaN if `whole` is 0, as in Keras's tensors, where Python raises an error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.float64(part) / np.float64(whole))
