"""What all optimizers do alike: clipping, weight decay, averages, accumulation, constraints and their state.

A step goes as in Keras 3: gradients are averaged over accumulated steps, clipped, weights decay, the formula of the
optimizer updates them, averages follow, constraints project, the counter moves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from typing_extensions import Self

from layergraph.config.options import (
    Configurable,
    boolean,
    fraction,
    nonnegative,
    number,
    option,
    optional,
    positive_int,
    serialized,
    text,
)
from layergraph.errors import ConfigError, DataError
from layergraph.functional.naming import snake_case
from layergraph.training import schedules
from layergraph.training.schedules import InverseTimeDecay, Schedule

Tensor = torch.Tensor
Tensors = list[Tensor]


class Trainable(Protocol):
    """A weight as optimizers see it: `value` is always the same tensor, updated in place."""

    @property
    def value(self) -> Tensor: ...

    @property
    def path(self) -> str: ...

    @property
    def constraint(self) -> Any: ...


@dataclass(frozen=True, slots=True)
class Variable:
    """One array of an optimizer's state, named as Keras names it (`iteration`, `dense_kernel_momentum`)."""

    name: str
    value: np.ndarray[Any, Any] | Tensor

    def numpy(self) -> np.ndarray[Any, Any]:
        """A copy as Keras saves it."""
        value = self.value.detach().cpu() if isinstance(self.value, Tensor) else self.value
        return np.array(value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value)


@dataclass(slots=True)
class Slots:
    """What is kept for a list of weights: the weights' tensors and, by name, one tensor for each of them."""

    weights: Tensors
    by_name: dict[str, Tensors]

    def chosen(self, indices: Sequence[int]) -> Slots:
        """The same for some of the weights."""
        return Slots(
            [self.weights[i] for i in indices],
            {name: [tensors[i] for i in indices] for name, tensors in self.by_name.items()},
        )


class Optimizer(Configurable):
    """Base of all optimizers (keras.optimizers.Optimizer).

    weight_decay                   share of a weight x learning rate that each step takes off; None for none
    clipnorm                       largest norm of one gradient
    global_clipnorm                largest norm of all gradients together
    clipvalue                      largest amount of an element of a gradient
    use_ema, ema_momentum,         running averages of the weights, which replace the weights each
    ema_overwrite_frequency        so many steps (None: only when training ends)
    loss_scale_factor              the loss is multiplied, the gradients divided by it
    gradient_accumulation_steps    update only each n-th step, with the mean of n gradients
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
    name: str | None = option(optional(text), default=None, kw_only=True)

    #: Options of Keras 2 that change nothing here.
    ignored: ClassVar[tuple[str, ...]] = ("jit_compile", "is_legacy_optimizer")

    def setup(self) -> None:
        clips = [name for name in ("clipnorm", "clipvalue", "global_clipnorm") if getattr(self, name) is not None]
        if len(clips) > 1:
            raise ConfigError(f"{type(self).__name__}: got {' and '.join(clips)}, expected at most one of them")
        if self.gradient_accumulation_steps == 1:
            raise ConfigError(f"{type(self).__name__}: gradient_accumulation_steps is 1, expected 2 or more")
        if self.name is None:
            self.name = snake_case(type(self).__name__)
        #: Steps done so far, with those that only accumulated.
        self.iterations = 0
        self.weights: tuple[Trainable, ...] = ()
        self._slots = Slots([], {})
        self._not_decayed: set[int] = set()
        self._active: tuple[tuple[int, ...], Slots] | None = None

    # --- what each optimizer defines ----------------------------------------------------------------------------------

    def slot_groups(self) -> list[tuple[str, ...]]:
        """Names of what is kept for each weight, in Keras's order; names in one group alternate weight by weight."""
        return []

    def update(self, slots: Slots, gradients: Tensors, rate: float, step: int) -> None:
        """Changes `slots.weights` in place; `step` counts updates from 1."""
        raise NotImplementedError

    # --- state --------------------------------------------------------------------------------------------------------

    @property
    def built(self) -> bool:
        """Whether the state has been made."""
        return bool(self.weights)

    def build(self, weights: Iterable[Trainable]) -> None:
        """Makes the state for the trainable weights of a model. A second call for the same weights does nothing."""
        weights = tuple(weights)
        if self.built and [id(w.value) for w in weights] == [id(tensor) for tensor in self._slots.weights]:
            return
        self.weights = weights
        self._active = None
        tensors = [weight.value for weight in weights]
        names = [name for group in self._groups() for name in group]
        self._slots = Slots(tensors, {name: [self.first_value(name, value) for value in tensors] for name in names})

    def first_value(self, slot: str, weight: Tensor) -> Tensor:
        """What a slot holds before the first step."""
        return torch.zeros_like(weight, requires_grad=False)

    def _groups(self) -> list[tuple[str, ...]]:
        averages = [("average",)] if self.use_ema else []
        sums = [("gradient_accumulator",)] if self.gradient_accumulation_steps else []
        return [*averages, *sums, *self.slot_groups()]

    @property
    def variables(self) -> list[Variable]:
        """The state in Keras 3's order: iteration, learning rate (unless it is a schedule), then the slots."""
        state = [Variable("iteration", np.array(self.iterations, np.int32))]
        if not isinstance(self.learning_rate, Schedule):
            state.append(Variable("learning_rate", np.array(self.learning_rate, np.float32)))
        for group in self._groups() if self.built else []:
            for index, weight in enumerate(self.weights):
                prefix = weight.path.replace("/", "_")
                state += [Variable(f"{prefix}_{slot}", self._slots.by_name[slot][index]) for slot in group]
        return state

    def load(self, arrays: Sequence[np.ndarray[Any, Any] | Tensor]) -> None:
        """Takes a state in the order of `variables`; Keras 2.15's, which lacks the learning rate, as well.

        Keras saves an optimizer that has not stepped without slots; they stay as they are then.

        Raises DataError where number or shapes differ; the state then stays as it was.
        """
        state = self.variables
        unbuilt = 1 if isinstance(self.learning_rate, Schedule) else 2
        if len(arrays) == unbuilt and not any(array.shape for array in arrays):
            state = state[:unbuilt]
        elif len(arrays) == len(state) - 1 and not isinstance(self.learning_rate, Schedule):
            state = [state[0], *state[2:]]
        if len(arrays) != len(state):
            raise DataError(f"optimizer '{self.name}': got {len(arrays)} arrays of state, expected {len(state)}")
        for variable, array in zip(state, arrays, strict=True):
            if tuple(array.shape) != tuple(variable.value.shape):
                raise DataError(
                    f"optimizer '{self.name}': {variable.name} has shape {tuple(array.shape)}, "
                    f"expected {tuple(variable.value.shape)}"
                )
        for variable, array in zip(state, arrays, strict=True):
            if isinstance(variable.value, Tensor):
                source = array if isinstance(array, Tensor) else torch.from_numpy(np.array(array))
                variable.value.copy_(source)
            elif variable.name == "iteration":
                self.iterations = int(array)
            else:
                self.learning_rate = float(array)

    # --- steps --------------------------------------------------------------------------------------------------------

    def rate(self) -> float:
        """The learning rate of the next step. A schedule is asked with all steps, accumulating ones too."""
        rate = self.learning_rate
        return rate(self.iterations) if isinstance(rate, Schedule) else rate

    def exclude_from_weight_decay(self, var_list: Iterable[Trainable] = (), var_names: Iterable[str] = ()) -> None:
        """Spares weights from decay: those given, and those in whose name one of the regular expressions is found."""
        spared = {id(weight.value) for weight in var_list}
        patterns = [re.compile(pattern) for pattern in var_names]
        for weight in self.weights:
            if any(pattern.search(weight.path.rsplit("/", 1)[-1]) for pattern in patterns):
                spared.add(id(weight.value))
        self._not_decayed = spared

    @torch.no_grad()
    def apply(self, gradients: Sequence[Tensor | None]) -> None:
        """One step. `gradients` go with the weights it was built for; None leaves a weight as it is."""
        indices = tuple(i for i, gradient in enumerate(gradients) if gradient is not None)
        if not indices:
            raise ConfigError("the loss depends on no trainable weight")
        if self._active is None or self._active[0] != indices:
            slots = self._slots if len(indices) == len(self.weights) else self._slots.chosen(indices)
            self._active = (indices, slots)
        slots = self._active[1]
        given: Tensors = [gradient for gradient in gradients if gradient is not None]
        if self.loss_scale_factor is not None:
            given = list(torch._foreach_div(given, self.loss_scale_factor))
        self._accumulate_or_update(slots, given)
        if self.use_ema:
            self._average()
        for index in indices:
            constraint = self.weights[index].constraint
            if constraint is not None:
                self._slots.weights[index].copy_(constraint(self._slots.weights[index]))
        self.iterations += 1

    def _accumulate_or_update(self, slots: Slots, gradients: Tensors) -> None:
        every = self.gradient_accumulation_steps
        if every:
            sums = slots.by_name["gradient_accumulator"]
            torch._foreach_add_(sums, gradients)
            if (self.iterations + 1) % every:
                return
            gradients = list(torch._foreach_div(sums, float(every)))
            # All sums start anew, also of weights without a gradient in this step.
            torch._foreach_zero_(self._slots.by_name["gradient_accumulator"])
        rate = self.rate()
        gradients = self._clipped(gradients)
        if self.weight_decay is not None:
            decayed = [weight for weight in slots.weights if id(weight) not in self._not_decayed]
            torch._foreach_mul_(decayed, 1 - self.weight_decay * rate)
        self.update(slots, gradients, rate, self._updates() + 1)

    def _updates(self) -> int:
        return self.iterations // (self.gradient_accumulation_steps or 1)

    def _clipped(self, gradients: Tensors) -> Tensors:
        # Unlike torch's clip_grad_norm_, Keras adds no epsilon to the norm.
        if self.clipnorm:
            norms = list(torch._foreach_norm(gradients))
            torch._foreach_clamp_min_(norms, self.clipnorm)
            return list(torch._foreach_div(torch._foreach_mul(gradients, self.clipnorm), norms))
        if self.global_clipnorm:
            norm = torch.linalg.vector_norm(torch.stack(list(torch._foreach_norm(gradients))))
            scale = self.global_clipnorm * torch.minimum(1.0 / norm, torch.full_like(norm, 1.0 / self.global_clipnorm))
            # A norm that isn't finite makes everything NaN instead of hiding it.
            return list(torch._foreach_mul(gradients, scale + (norm - norm)))
        if self.clipvalue:
            clipped = torch._foreach_clamp_min(gradients, -self.clipvalue)
            return list(torch._foreach_clamp_max(clipped, self.clipvalue))
        return gradients

    def _average(self) -> None:
        averages = self._slots.by_name["average"]
        # The first update's weights are the first average.
        momentum = self.ema_momentum if self._updates() else 0.0
        torch._foreach_mul_(averages, momentum)
        torch._foreach_add_(averages, self._slots.weights, alpha=1 - momentum)
        if self.ema_overwrite_frequency and (self._updates() + 1) % self.ema_overwrite_frequency == 0:
            self.finalize()

    @torch.no_grad()
    def finalize(self) -> None:
        """Replaces the weights by their averages, as Keras does at the end of fit. Without averages nothing happens."""
        if self.use_ema and self.built:
            torch._foreach_copy_(self._slots.weights, self._slots.by_name["average"])

    # --- config -------------------------------------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if isinstance(self.learning_rate, Schedule):
            config["learning_rate"] = schedules.keras_form(self.learning_rate)
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """From Keras 3's config or Keras 2's: `lr`, `decay` and options of its backend are understood."""
        options = {name: value for name, value in config.items() if name not in cls.ignored}
        if "lr" in options:
            options.setdefault("learning_rate", options.pop("lr"))
        decay = options.pop("decay", None)
        made = cls(**options)
        if decay and not isinstance(made.learning_rate, Schedule):
            # Keras 2's legacy optimizers: rate / (1 + decay x iterations).
            made.learning_rate = InverseTimeDecay(made.learning_rate, 1, decay)
        return made


def keras_form(value: Optimizer) -> dict[str, Any]:
    """The optimizer as Keras 3 writes it into a file."""
    return {"module": "keras.optimizers", **serialized(value), "registered_name": None}
