"""Optimizers, by Keras's names and formulas, which are not torch's. All work on whole lists of weights at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from layergraph.config.options import boolean, fraction, nonnegative, number, option, resolve
from layergraph.errors import ConfigError
from layergraph.training import schedules
from layergraph.training.optimizer import Optimizer, Slots, Tensor, Tensors
from layergraph.training.schedules import Schedule


class SGD(Optimizer):
    """m = momentum m - lr g; w += m, or momentum m - lr g once more with nesterov (keras.optimizers.SGD).

    The rate is inside the buffer, so that a changing rate gives other numbers than torch's SGD.
    """

    learning_rate: float | Schedule = option(schedules.learning_rate, default=0.01)
    momentum: float = option(fraction, default=0.0)
    nesterov: bool = option(boolean, default=False)

    def slot_groups(self) -> list[tuple[str, ...]]:
        return [("momentum",)] if self.momentum else []

    def update(self, slots: Slots, gradients: Tensors, rate: float, step: int) -> None:
        if not self.momentum:
            torch._foreach_add_(slots.weights, gradients, alpha=-rate)
            return
        momenta = slots.by_name["momentum"]
        torch._foreach_mul_(momenta, self.momentum)
        torch._foreach_add_(momenta, gradients, alpha=-rate)
        if self.nesterov:
            torch._foreach_add_(slots.weights, momenta, alpha=self.momentum)
            torch._foreach_add_(slots.weights, gradients, alpha=-rate)
        else:
            torch._foreach_add_(slots.weights, momenta)


class RMSprop(Optimizer):
    """v = rho v + (1 - rho) g^2; w -= lr g / sqrt(v + epsilon) (keras.optimizers.RMSprop).

    centered: v - (mean g)^2 in place of v. momentum: w -= m with m = momentum m + lr g / sqrt(...).
    """

    learning_rate: float | Schedule = option(schedules.learning_rate, default=0.001)
    rho: float = option(fraction, default=0.9)
    momentum: float = option(fraction, default=0.0)
    epsilon: float = option(nonnegative, default=1e-7)
    centered: bool = option(boolean, default=False)

    def slot_groups(self) -> list[tuple[str, ...]]:
        momentum = [("momentum",)] if self.momentum > 0 else []
        average = [("average_gradient",)] if self.centered else []
        return [("velocity",), *momentum, *average]

    def update(self, slots: Slots, gradients: Tensors, rate: float, step: int) -> None:
        velocities = slots.by_name["velocity"]
        torch._foreach_mul_(velocities, self.rho)
        torch._foreach_addcmul_(velocities, gradients, gradients, value=1 - self.rho)
        # Unlike in torch, epsilon is inside the root.
        roots = list(torch._foreach_add(velocities, self.epsilon))
        if self.centered:
            averages = slots.by_name["average_gradient"]
            torch._foreach_mul_(averages, self.rho)
            torch._foreach_add_(averages, gradients, alpha=1 - self.rho)
            torch._foreach_addcmul_(roots, averages, averages, value=-1)
        torch._foreach_sqrt_(roots)
        if self.momentum > 0:
            momenta = slots.by_name["momentum"]
            torch._foreach_mul_(momenta, self.momentum)
            torch._foreach_addcdiv_(momenta, gradients, roots, value=rate)
            torch._foreach_sub_(slots.weights, momenta)
        else:
            torch._foreach_addcdiv_(slots.weights, gradients, roots, value=-rate)


def _power(base: float, exponent: int) -> float:
    """base^exponent in float32, as Keras has it: 1 - 0.999 differs in the fifth digit."""
    return float(np.float32(base) ** np.float32(exponent))


class Adam(Optimizer):
    """w -= lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + epsilon) (keras.optimizers.Adam; Kingma & Ba, 2014).

    Epsilon is added to the uncorrected root; torch adds it to the corrected one. amsgrad: the largest v so far.
    """

    learning_rate: float | Schedule = option(schedules.learning_rate, default=0.001)
    beta_1: float = option(fraction, default=0.9)
    beta_2: float = option(fraction, default=0.999)
    epsilon: float = option(nonnegative, default=1e-7)
    amsgrad: bool = option(boolean, default=False)

    def slot_groups(self) -> list[tuple[str, ...]]:
        return [("momentum", "velocity"), *([("velocity_hat",)] if self.amsgrad else [])]

    def update(self, slots: Slots, gradients: Tensors, rate: float, step: int) -> None:
        momenta, velocities = slots.by_name["momentum"], slots.by_name["velocity"]
        torch._foreach_lerp_(momenta, gradients, 1 - self.beta_1)
        torch._foreach_mul_(velocities, self.beta_2)
        torch._foreach_addcmul_(velocities, gradients, gradients, value=1 - self.beta_2)
        if self.amsgrad:
            torch._foreach_maximum_(slots.by_name["velocity_hat"], velocities)
            velocities = slots.by_name["velocity_hat"]
        alpha = rate * math.sqrt(1 - _power(self.beta_2, step)) / (1 - _power(self.beta_1, step))
        roots = torch._foreach_sqrt(velocities)
        torch._foreach_add_(roots, self.epsilon)
        torch._foreach_addcdiv_(slots.weights, momenta, roots, value=-alpha)


class AdamW(Adam):
    """Adam with decay of the weights, 0.004 by default (keras.optimizers.AdamW; Loshchilov & Hutter, 2017)."""

    learning_rate: float | Schedule = option(schedules.learning_rate, default=0.001)
    weight_decay: float | None = option(nonnegative, default=0.004)
    beta_1: float = option(fraction, default=0.9)
    beta_2: float = option(fraction, default=0.999)
    epsilon: float = option(nonnegative, default=1e-7)
    amsgrad: bool = option(boolean, default=False)


class Adamax(Optimizer):
    """m as Adam's; u = max(b2 u, |g|); w -= lr m / ((1 - b1^t) (u + epsilon)) (keras.optimizers.Adamax)."""

    learning_rate: float | Schedule = option(schedules.learning_rate, default=0.001)
    beta_1: float = option(fraction, default=0.9)
    beta_2: float = option(fraction, default=0.999)
    epsilon: float = option(nonnegative, default=1e-7)

    def slot_groups(self) -> list[tuple[str, ...]]:
        return [("momentum", "norm")]

    def update(self, slots: Slots, gradients: Tensors, rate: float, step: int) -> None:
        momenta, norms = slots.by_name["momentum"], slots.by_name["norm"]
        torch._foreach_lerp_(momenta, gradients, 1 - self.beta_1)
        torch._foreach_mul_(norms, self.beta_2)
        torch._foreach_maximum_(norms, torch._foreach_abs(gradients))
        divisors = torch._foreach_add(norms, self.epsilon)
        torch._foreach_addcdiv_(slots.weights, momenta, divisors, value=-rate / (1 - _power(self.beta_1, step)))


class Adagrad(Optimizer):
    """a = a + g^2, from 0.1 on; w -= lr g / sqrt(a + epsilon) (keras.optimizers.Adagrad)."""

    learning_rate: float | Schedule = option(schedules.learning_rate, default=0.001)
    initial_accumulator_value: float = option(nonnegative, default=0.1)
    epsilon: float = option(nonnegative, default=1e-7)

    def slot_groups(self) -> list[tuple[str, ...]]:
        return [("accumulator",)]

    def first_value(self, slot: str, weight: Tensor) -> Tensor:
        if slot == "accumulator":
            return torch.full_like(weight, self.initial_accumulator_value, requires_grad=False)
        return super().first_value(slot, weight)

    def update(self, slots: Slots, gradients: Tensors, rate: float, step: int) -> None:
        sums = slots.by_name["accumulator"]
        torch._foreach_addcmul_(sums, gradients, gradients)
        roots = torch._foreach_add(sums, self.epsilon)
        torch._foreach_sqrt_(roots)
        torch._foreach_addcdiv_(slots.weights, gradients, roots, value=-rate)


class Adadelta(Optimizer):
    """w -= lr d with d = g rms(earlier d) / rms(g) (keras.optimizers.Adadelta; Zeiler, 2012)."""

    learning_rate: float | Schedule = option(schedules.learning_rate, default=0.001)
    rho: float = option(fraction, default=0.95)
    epsilon: float = option(nonnegative, default=1e-7)

    def slot_groups(self) -> list[tuple[str, ...]]:
        return [("accumulated_grad", "accumulated_delta_var")]

    def update(self, slots: Slots, gradients: Tensors, rate: float, step: int) -> None:
        squares, deltas = slots.by_name["accumulated_grad"], slots.by_name["accumulated_delta_var"]
        torch._foreach_mul_(squares, self.rho)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - self.rho)
        change = torch._foreach_add(deltas, self.epsilon)
        torch._foreach_div_(change, torch._foreach_add(squares, self.epsilon))
        torch._foreach_sqrt_(change)
        torch._foreach_mul_(change, gradients)
        torch._foreach_mul_(deltas, self.rho)
        torch._foreach_addcmul_(deltas, change, change, value=1 - self.rho)
        torch._foreach_add_(slots.weights, change, alpha=-rate)


class Lion(Optimizer):
    """w -= lr sign(b1 m + (1 - b1) g); m = b2 m + (1 - b2) g (keras.optimizers.Lion; Chen et al., 2023)."""

    learning_rate: float | Schedule = option(schedules.learning_rate, default=0.001)
    beta_1: float = option(fraction, default=0.9)
    beta_2: float = option(fraction, default=0.99)

    def setup(self) -> None:
        super().setup()
        if self.beta_1 == 0:
            raise ConfigError("Lion: option 'beta_1' is 0, expected a number above 0; 0 would be SignSGD")

    def slot_groups(self) -> list[tuple[str, ...]]:
        return [("momentum",)]

    def update(self, slots: Slots, gradients: Tensors, rate: float, step: int) -> None:
        momenta = slots.by_name["momentum"]
        change = torch._foreach_mul(momenta, self.beta_1)
        torch._foreach_add_(change, gradients, alpha=1 - self.beta_1)
        torch._foreach_sign_(change)
        torch._foreach_add_(slots.weights, change, alpha=-rate)
        torch._foreach_lerp_(momenta, gradients, 1 - self.beta_2)


class Ftrl(Optimizer):
    """Follow the regularized leader (keras.optimizers.Ftrl; McMahan et al., 2013).

    The first weights are not in the linear term, so that the first step jumps, as in Keras.
    """

    learning_rate: float | Schedule = option(schedules.learning_rate, default=0.001)
    learning_rate_power: float = option(number, default=-0.5)
    initial_accumulator_value: float = option(nonnegative, default=0.1)
    l1_regularization_strength: float = option(nonnegative, default=0.0)
    l2_regularization_strength: float = option(nonnegative, default=0.0)
    l2_shrinkage_regularization_strength: float = option(nonnegative, default=0.0)
    beta: float = option(number, default=0.0)

    def setup(self) -> None:
        super().setup()
        if self.learning_rate_power > 0:
            raise ConfigError(f"Ftrl: option 'learning_rate_power' is {self.learning_rate_power}, expected at most 0")

    def slot_groups(self) -> list[tuple[str, ...]]:
        return [("accumulator", "linear")]

    def first_value(self, slot: str, weight: Tensor) -> Tensor:
        if slot == "accumulator":
            return torch.full_like(weight, self.initial_accumulator_value, requires_grad=False)
        return super().first_value(slot, weight)

    def update(self, slots: Slots, gradients: Tensors, rate: float, step: int) -> None:
        power, l1 = -self.learning_rate_power, self.l1_regularization_strength
        l2 = 2 * (self.l2_regularization_strength + self.beta / (2 * rate))
        each = zip(slots.weights, gradients, slots.by_name["accumulator"], slots.by_name["linear"], strict=True)
        for w, g, total, linear in each:
            shrunk = g + 2 * self.l2_shrinkage_regularization_strength * w
            new_total = total + g.square()
            linear.add_(shrunk - (new_total.pow(power) - total.pow(power)) / rate * w)
            w.copy_((linear.clamp(-l1, l1) - linear) / (new_total.pow(power) / rate + l2))
            total.copy_(new_total)


OPTIMIZERS: Mapping[str, type[Optimizer]] = {
    known.__name__: known for known in (SGD, RMSprop, Adam, AdamW, Adamax, Adagrad, Adadelta, Lion, Ftrl)
}

#: Keras looks for a name in lower case; Keras 2.15 writes "Custom>Adam" into H5 files.
ALIASES: Mapping[str, str] = {
    **{name.lower(): name for name in OPTIMIZERS},
    **{f"Custom>{name}": name for name in OPTIMIZERS},
}


def optimizer(value: Any) -> Optimizer:
    """What keras.optimizers.get takes: a name in any case, an optimizer, or a serialised form. Raises ConfigError."""
    if isinstance(value, str) and value.lower() in ALIASES:
        value = ALIASES[value.lower()]
    return resolve("optimizer", value, OPTIMIZERS, ALIASES)
