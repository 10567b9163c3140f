"""The options of optimizers with a formula, and their state: in memory, and in the orders of Keras's files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from layergraph.config.options import boolean, fraction, option, optional, positive_int
from layergraph.config.training_rules import KERAS3_RULES, TrainingRules
from layergraph.errors import ConfigError, DataError
from layergraph.training.optimizers import schedules
from layergraph.training.optimizers.base_optimizer import BaseOptimizer
from layergraph.training.optimizers.schedules import Schedule
from layergraph.training.optimizers.state import ABSENT, Slots, Tensor, Trainable, Variable, misfit
from layergraph.training.options import nonnegative, number


class StatefulOptimizer(BaseOptimizer):
    """Options and state of an optimizer with a formula. `Optimizer` adds the steps.

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

    def slot_groups(self) -> list[tuple[str, ...]]:
        """Names of the slots in Keras's order; slots in one group alternate by weight."""
        return []

    @property
    def _scheduled(self) -> bool:
        """Whether the learning rate is a schedule in Keras 3's form."""
        return bool(self.rate_decay) or isinstance(self.learning_rate, Schedule)

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
