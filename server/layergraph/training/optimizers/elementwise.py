"""Optimizers with elementwise formulas, applied to lists of weights by torch's _foreach functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from layergraph.config.options import boolean, fraction, nonnegative_int, option
from layergraph.errors import ConfigError
from layergraph.training.optimizers import schedules
from layergraph.training.optimizers.optimizer import Optimizer, power, quotient
from layergraph.training.optimizers.schedules import Schedule
from layergraph.training.optimizers.state import Slots, Tensor, Tensors, Trainable, Variable
from layergraph.training.options import nonnegative, number


class SGD(Optimizer):
    """m = momentum m - lr g; w += m, or with nesterov momentum m - lr g (keras.optimizers.SGD).

    The learning rate is part of m, so results differ from torch's SGD if it changes.
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

    def load(self, arrays: Sequence[np.ndarray[Any, Any] | Tensor]) -> None:
        shapes = [tuple(weight.shape) for weight in self._slots.weights]
        own = shapes * len(self._groups())
        if not self.momentum and [tuple(array.shape) for array in arrays[1:]] == own + shapes:
            # Keras 2.15 saves momenta even if momentum is 0. (An additional learning rate would have no shape.)
            arrays = arrays[: 1 + len(own)]
        super().load(arrays)

    def keras2_idle(self) -> list[Variable]:
        if self.momentum:
            return []
        return [Variable(self.slot_name("momentum", w), torch.zeros_like(w.value)) for w in self.weights]

    def leaves_rows(self) -> bool:
        return not self.momentum

    def update_rows(self, slots: Slots, rows: Tensor, gradients: Tensor, rate: float) -> None:
        slots.weights[0].index_add_(0, rows, gradients, alpha=-rate)


class RMSprop(Optimizer):
    """v = rho v + (1 - rho) g^2; w -= lr g / sqrt(v + epsilon) (keras.optimizers.RMSprop).

    centered: v - (mean g)^2 instead of v. momentum: w -= m with m = momentum m + lr g / sqrt(...).
    """

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

    def leaves_rows(self) -> bool:
        return not self.momentum and not self.centered

    def update_rows(self, slots: Slots, rows: Tensor, gradients: Tensor, rate: float) -> None:
        velocity = slots.by_name["velocity"][0]
        velocity.mul_(self.rho)
        squares = velocity.index_select(0, rows).addcmul_(gradients, gradients, value=1 - self.rho)
        velocity.index_copy_(0, rows, squares)
        slots.weights[0].index_add_(0, rows, gradients / squares.add_(self.epsilon).sqrt_(), alpha=-rate)


class Adam(Optimizer):
    """w -= lr sqrt(1 - b2^t) / (1 - b1^t) m / (sqrt(v) + epsilon) (keras.optimizers.Adam; Kingma & Ba, 2014).

    Epsilon is added to the uncorrected root; torch adds it to the corrected one. amsgrad: the maximum of v so far.
    """

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
        alpha = quotient(rate * math.sqrt(1 - power(self.beta_2, step)), 1 - power(self.beta_1, step))
        roots = torch._foreach_sqrt(velocities)
        torch._foreach_add_(roots, self.epsilon)
        torch._foreach_addcdiv_(slots.weights, momenta, roots, value=-alpha)


class AdamW(Adam):
    """Adam with weight decay, 0.004 by default (keras.optimizers.AdamW; Loshchilov & Hutter, 2017)."""

    weight_decay: float | None = option(nonnegative, default=0.004)
    beta_1: float = option(fraction, default=0.9)
    beta_2: float = option(fraction, default=0.999)
    epsilon: float = option(nonnegative, default=1e-7)
    amsgrad: bool = option(boolean, default=False)


class Nadam(Optimizer):
    """Adam with Nesterov momentum (keras.optimizers.Nadam; Dozat, 2015).

    u(t) = b1 (1 - 0.96^t / 2); w -= lr (u(t + 1) m / (1 - U u(t + 1)) + (1 - u(t)) g / (1 - U)) / (sqrt(v / (1 - b2^t))
    + epsilon) with U = u(1) ... u(t). In torch the exponent of 0.96 is 0.004 t.
    """

    beta_1: float = option(fraction, default=0.9)
    beta_2: float = option(fraction, default=0.999)
    epsilon: float = option(nonnegative, default=1e-7)

    def setup(self) -> None:
        super().setup()
        #: Factor of t in the exponent of 0.96.
        self.momentum_decay = 1.0
        self.u_product = 1.0

    def slot_groups(self) -> list[tuple[str, ...]]:
        return [("momentum", "velocity")]

    def scalars(self) -> list[str]:
        return ["u_product"]

    def load(self, arrays: Sequence[np.ndarray[Any, Any] | Tensor]) -> None:
        state = self.variables
        first = len(state) - len(self.weights) * 2 - 1
        whole = self.built and not self.legacy and len(arrays) == len(state)
        moved = whole and not arrays[first].shape and state[first].value.shape
        # Keras up to 3.8 had u_product before the slots.
        super().load([*arrays[:first], *arrays[first + 1 :], arrays[first]] if moved else arrays)

    def complete_scalars(self, known: Sequence[str]) -> None:
        if "u_product" not in known:
            self.u_product = 1.0
            for step in range(1, self._updates() + 1):
                self.u_product = float(np.float32(self.u_product * self._ahead(step)))

    def _ahead(self, step: int) -> float:
        return self.beta_1 * (1.0 - 0.5 * power(0.96, step * self.momentum_decay))

    def update(self, slots: Slots, gradients: Tensors, rate: float, step: int) -> None:
        momenta, velocities = slots.by_name["momentum"], slots.by_name["velocity"]
        now, ahead = self._ahead(step), self._ahead(step + 1)
        self.u_product = float(np.float32(self.u_product * now))
        torch._foreach_lerp_(momenta, gradients, 1 - self.beta_1)
        torch._foreach_mul_(velocities, self.beta_2)
        torch._foreach_addcmul_(velocities, gradients, gradients, value=1 - self.beta_2)
        change = torch._foreach_mul(momenta, ahead / (1 - self.u_product * ahead))
        torch._foreach_add_(change, gradients, alpha=(1 - now) / (1 - self.u_product))
        roots = torch._foreach_div(velocities, 1 - power(self.beta_2, step))
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, self.epsilon)
        torch._foreach_addcdiv_(slots.weights, change, roots, value=-rate)


class Adamax(Optimizer):
    """m as Adam's; u = max(b2 u, |g|); w -= lr m / ((1 - b1^t) (u + epsilon)) (keras.optimizers.Adamax)."""

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
        alpha = quotient(rate, 1 - power(self.beta_1, step))
        torch._foreach_addcdiv_(slots.weights, momenta, divisors, value=-alpha)


class Adagrad(Optimizer):
    """a = a + g^2, starting at 0.1; w -= lr g / sqrt(a + epsilon) (keras.optimizers.Adagrad)."""

    initial_accumulator_value: float = option(nonnegative, default=0.1)
    epsilon: float = option(nonnegative, default=1e-7)

    def slot_groups(self) -> list[tuple[str, ...]]:
        return [("accumulator",)]

    def first_value(self, slot: str, weight: Trainable) -> Tensor:
        if slot == "accumulator":
            return torch.full_like(weight.value, self.initial_accumulator_value, requires_grad=False)
        return super().first_value(slot, weight)

    def update(self, slots: Slots, gradients: Tensors, rate: float, step: int) -> None:
        sums = slots.by_name["accumulator"]
        torch._foreach_addcmul_(sums, gradients, gradients)
        roots = torch._foreach_add(sums, self.epsilon)
        torch._foreach_sqrt_(roots)
        torch._foreach_addcdiv_(slots.weights, gradients, roots, value=-rate)

    def leaves_rows(self) -> bool:
        return True

    def update_rows(self, slots: Slots, rows: Tensor, gradients: Tensor, rate: float) -> None:
        total = slots.by_name["accumulator"][0]
        sums = total.index_select(0, rows).addcmul_(gradients, gradients)
        total.index_copy_(0, rows, sums)
        slots.weights[0].index_add_(0, rows, gradients / sums.add_(self.epsilon).sqrt_(), alpha=-rate)


class Adadelta(Optimizer):
    """w -= lr d with d = g rms(earlier d) / rms(g) (keras.optimizers.Adadelta; Zeiler, 2012)."""

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

    As in Keras, the linear term starts at 0 instead of the initial weights, so the first step is large.
    """

    learning_rate_power: float = option(number, default=-0.5)
    initial_accumulator_value: float = option(nonnegative, default=0.1)
    l1_regularization_strength: float = option(nonnegative, default=0.0)
    l2_regularization_strength: float = option(nonnegative, default=0.0)
    l2_shrinkage_regularization_strength: float = option(nonnegative, default=0.0)
    beta: float = option(number, default=0.0)

    legacy_alternates = True

    def setup(self) -> None:
        super().setup()
        if self.learning_rate_power > 0:
            raise ConfigError(f"Ftrl: option 'learning_rate_power' is {self.learning_rate_power}, expected at most 0")

    def slot_groups(self) -> list[tuple[str, ...]]:
        return [("accumulator", "linear")]

    def first_value(self, slot: str, weight: Trainable) -> Tensor:
        if slot == "accumulator":
            return torch.full_like(weight.value, self.initial_accumulator_value, requires_grad=False)
        return super().first_value(slot, weight)

    def update(self, slots: Slots, gradients: Tensors, rate: float, step: int) -> None:
        power, l1 = -self.learning_rate_power, self.l1_regularization_strength
        l2 = 2 * (self.l2_regularization_strength + quotient(self.beta, 2 * rate))
        each = zip(slots.weights, gradients, slots.by_name["accumulator"], slots.by_name["linear"], strict=True)
        for w, g, total, linear in each:
            shrunk = g + 2 * self.l2_shrinkage_regularization_strength * w
            new_total = total + g.square()
            linear.add_(shrunk - (new_total.pow(power) - total.pow(power)) / rate * w)
            w.copy_((linear.clamp(-l1, l1) - linear) / (new_total.pow(power) / rate + l2))
            total.copy_(new_total)


class ScheduleFreeAdamW(Optimizer):
    """AdamW on z; the weights are between z and its mean (keras.optimizers.ScheduleFreeAdamW; Defazio et al., 2024).

    z starts as the weights, and is called `momentum`, as in Keras. warmup_steps: the rate grows linearly from 0.

    As in Keras on torch, where `momentum_old` is the variable itself, the mean is recovered with the z after the step;
    the paper, and Keras on other backends, use the z before it.
    """

    learning_rate: float | Schedule = option(schedules.learning_rate, default=0.0025)
    beta_1: float = option(fraction, default=0.9)
    beta_2: float = option(fraction, default=0.999)
    epsilon: float = option(nonnegative, default=1e-8)
    warmup_steps: int = option(nonnegative_int, default=0)

    def slot_groups(self) -> list[tuple[str, ...]]:
        return [("momentum", "velocity")]

    def first_value(self, slot: str, weight: Trainable) -> Tensor:
        return weight.value.detach().clone() if slot == "momentum" else super().first_value(slot, weight)

    def update(self, slots: Slots, gradients: Tensors, rate: float, step: int) -> None:
        z, velocities, weights = slots.by_name["momentum"], slots.by_name["velocity"], slots.weights
        rate *= min(step / self.warmup_steps, 1.0) if self.warmup_steps else 1.0
        # As in Keras: 1 - beta_2 in float32 here, in double precision in other optimizers.
        kept = float(np.float32(1) - np.float32(self.beta_2))
        torch._foreach_mul_(velocities, 1 - kept)
        torch._foreach_addcmul_(velocities, gradients, gradients, value=kept)
        roots = torch._foreach_div(velocities, 1 - power(self.beta_2, step))
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, self.epsilon)
        torch._foreach_addcdiv_(z, gradients, roots, value=-rate)
        # The weights are y = (1 - b1) z + b1 x; x is the mean of all z so far.
        torch._foreach_add_(weights, z, alpha=self.beta_1 - 1)
        torch._foreach_div_(weights, self.beta_1)
        torch._foreach_lerp_(weights, z, 1.0 / step)
        torch._foreach_mul_(weights, self.beta_1)
        torch._foreach_add_(weights, z, alpha=1 - self.beta_1)
