"""Keras 2's legacy optimizers, where their formula is not that of the newer one of the same name.

Files bring them with their state (`decay` in the config tells). Embeddings are trained as in Keras 3, all rows in each
step; the legacy optimizers of momentum kind left rows alone that were not in the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from typing_extensions import Self

from layergraph.training.optimizer import BaseOptimizer, Slots, Tensors, Variable
from layergraph.training.optimizers_elementwise import Adagrad, Nadam, RMSprop


class LegacyRMSprop(RMSprop):
    """RMSprop with epsilon outside of the root, unless there is momentum (keras.optimizers.legacy.RMSprop)."""

    def update(self, slots: Slots, gradients: Tensors, rate: float, step: int) -> None:
        if self.momentum > 0:
            super().update(slots, gradients, rate, step)
            return
        velocities = slots.by_name["velocity"]
        torch._foreach_mul_(velocities, self.rho)
        torch._foreach_addcmul_(velocities, gradients, gradients, value=1 - self.rho)
        if self.centered:
            averages = slots.by_name["average_gradient"]
            torch._foreach_mul_(averages, self.rho)
            torch._foreach_add_(averages, gradients, alpha=1 - self.rho)
            roots = list(torch._foreach_addcmul(velocities, averages, averages, value=-1))
            torch._foreach_sqrt_(roots)
        else:
            roots = list(torch._foreach_sqrt(velocities))
        torch._foreach_add_(roots, self.epsilon)
        torch._foreach_addcdiv_(slots.weights, gradients, roots, value=-rate)

    def leaves_rows(self) -> bool:
        return False


class LegacyAdagrad(Adagrad):
    """Adagrad with epsilon outside of the root (keras.optimizers.legacy.Adagrad)."""

    def update(self, slots: Slots, gradients: Tensors, rate: float, step: int) -> None:
        sums = slots.by_name["accumulator"]
        torch._foreach_addcmul_(sums, gradients, gradients)
        roots = torch._foreach_sqrt(sums)
        torch._foreach_add_(roots, self.epsilon)
        torch._foreach_addcdiv_(slots.weights, gradients, roots, value=-rate)

    def leaves_rows(self) -> bool:
        return False


class LegacyNadam(Nadam):
    """Nadam with 0.96^(0.004 t) (keras.optimizers.legacy.Nadam).

    Its `decay` is the 0.004, not a decay of the rate.
    """

    def setup(self) -> None:
        super().setup()
        self.momentum_decay = 0.004

    def keras2_variables(self) -> list[Variable]:
        iteration, *slots = super().keras2_variables()
        return [iteration, self.variables[-1], *slots]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        options = dict(config)
        exponent = options.pop("schedule_decay", options.pop("decay", 0.004))
        made = super().from_config(options)
        made.momentum_decay = exponent
        made.legacy = True
        return made


LEGACY: Mapping[str, type[BaseOptimizer]] = {"RMSprop": LegacyRMSprop, "Adagrad": LegacyAdagrad, "Nadam": LegacyNadam}
