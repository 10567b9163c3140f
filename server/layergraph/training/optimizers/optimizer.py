"""Base class of the optimizers with a formula: clipping, weight decay, averages, accumulation and constraints.

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

from layergraph.config.options import Expected, short_repr
from layergraph.errors import ConfigError
from layergraph.training.optimizers import schedules
from layergraph.training.optimizers.schedules import Decayed, InverseTimeDecay, Schedule
from layergraph.training.optimizers.state import Slots, Tensor, Tensors, Trainable
from layergraph.training.optimizers.stateful_optimizer import StatefulOptimizer
from layergraph.training.options import number


class Optimizer(StatefulOptimizer):
    """Base of optimizers with an update formula (keras.optimizers.Optimizer): its steps. For options see its base."""

    #: Options of Keras 2 that have no effect here.
    ignored: ClassVar[tuple[str, ...]] = ("jit_compile", "is_legacy_optimizer")

    # Defined by each optimizer.

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
            raise ConfigError(f"{cls.__name__}: option 'decay' is {short_repr(decay)}, expected {wanted}") from None
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
