"""Keras 2's legacy optimizers, where they differ from the newer ones of the same names.

They are created from files, by their configs with `decay`. Those with momentum leave the rows of an embedding that
aren't in the batch unchanged, with their state, and norms of gradients count a row once per lookup. `.h5` files of
tf.keras 2.15 keep them; Keras 3's formats have the newer optimizers of the same names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from typing_extensions import Self

from layergraph.training.optimizers.base_optimizer import BaseOptimizer
from layergraph.training.optimizers.elementwise import SGD, Adadelta, Adagrad, Adam, Adamax, Ftrl, Nadam, RMSprop
from layergraph.training.optimizers.optimizer import Optimizer
from layergraph.training.optimizers.state import Slots, Tensor, Tensors, Variable

#: Options that the legacy optimizers lack.
NOT_LEGACY = (
    "weight_decay",
    "use_ema",
    "ema_momentum",
    "ema_overwrite_frequency",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)


class _ByRows(Optimizer):
    """Mixin of optimizers that update only the rows in the batch, of weights and slots."""

    @property
    def takes_rows(self) -> bool:
        dense = self.weight_decay or self.use_ema or self.gradient_accumulation_steps or self._rules.dense_lookups
        return not dense

    @property
    def leaves_others(self) -> bool:
        return True

    @property
    def reads_lookups(self) -> bool:
        if self._rules.dense_lookups:
            return False
        return bool(self.leaves_others or self.clipnorm or self.clipvalue or self.global_clipnorm)

    def load(self, arrays: Sequence[np.ndarray[Any, Any] | Tensor]) -> None:
        if len(arrays) == len(self.keras2_variables()) - 1 and arrays[0].shape:
            # Standalone Keras up to 2.2 saves no iteration for some optimizers, and restarts at 0.
            arrays = [np.array(0), *arrays]
        super().load(arrays)

    def update_rows(self, slots: Slots, rows: Tensor, gradients: Tensor, rate: float) -> None:
        whole = [slots.weights[0], *(several[0] for several in slots.by_name.values())]
        kept = [tensor.index_select(0, rows) for tensor in whole]
        chosen = Slots(kept[:1], {name: [part] for name, part in zip(slots.by_name, kept[1:], strict=True)})
        self.update(chosen, [gradients], rate, self.iterations + 1)
        for tensor, part in zip(whole, kept, strict=True):
            tensor.index_copy_(0, rows, part)


class _ByWholes(_ByRows):
    """Mixin of optimizers that update slots as a whole, but only those rows of weights that are in the batch."""

    def update_rows(self, slots: Slots, rows: Tensor, gradients: Tensor, rate: float) -> None:
        weight = slots.weights[0]
        moved, dense = weight.clone(), torch.zeros_like(weight).index_copy_(0, rows, gradients)
        self.update(Slots([moved], slots.by_name), [dense], rate, self.iterations + 1)
        weight.index_copy_(0, rows, moved.index_select(0, rows))


class LegacySGD(_ByRows, SGD):
    """SGD whose momentum only changes in rows with a gradient (keras.optimizers.legacy.SGD)."""

    serialized_as = "SGD"

    @property
    def leaves_others(self) -> bool:
        return self.momentum > 0


class LegacyAdam(_ByRows, Adam):
    """Adam that clips gradients before summing them by row; updates all rows (keras.optimizers.legacy.Adam)."""

    serialized_as = "Adam"

    def load(self, arrays: Sequence[np.ndarray[Any, Any] | Tensor]) -> None:
        used = 1 + 2 * len(self.weights)
        if not self.amsgrad and [tuple(array.shape) for array in arrays[used:]] == [(1,)] * len(self.weights):
            # Standalone Keras before 3 saves a placeholder for each largest velocity that it doesn't keep.
            arrays = arrays[:used]
        super().load(arrays)

    @property
    def leaves_others(self) -> bool:
        return False

    def update_rows(self, slots: Slots, rows: Tensor, gradients: Tensor, rate: float) -> None:
        dense = torch.zeros_like(slots.weights[0]).index_copy_(0, rows, gradients)
        self.update(slots, [dense], rate, self.iterations + 1)


class LegacyAdamax(_ByRows, Adamax):
    """Adamax that only updates rows in the batch (keras.optimizers.legacy.Adamax)."""

    serialized_as = "Adamax"


class LegacyAdadelta(_ByRows, Adadelta):
    """Adadelta that only updates rows in the batch (keras.optimizers.legacy.Adadelta)."""

    serialized_as = "Adadelta"


class LegacyFtrl(_ByRows, Ftrl):
    """Ftrl that only updates rows in the batch (keras.optimizers.legacy.Ftrl)."""

    serialized_as = "Ftrl"


class LegacyRMSprop(_ByWholes, RMSprop):
    """RMSprop with epsilon outside of the root, unless it has momentum (keras.optimizers.legacy.RMSprop)."""

    serialized_as = "RMSprop"

    @property
    def leaves_others(self) -> bool:
        return self.momentum > 0

    def update_rows(self, slots: Slots, rows: Tensor, gradients: Tensor, rate: float) -> None:
        by = _ByRows if self.momentum > 0 else _ByWholes
        by.update_rows(self, slots, rows, gradients, rate)

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


class LegacyAdagrad(_ByRows, Adagrad):
    """Adagrad with epsilon outside of the root (keras.optimizers.legacy.Adagrad)."""

    serialized_as = "Adagrad"

    @property
    def leaves_others(self) -> bool:
        return False

    def update(self, slots: Slots, gradients: Tensors, rate: float, step: int) -> None:
        sums = slots.by_name["accumulator"]
        torch._foreach_addcmul_(sums, gradients, gradients)
        roots = torch._foreach_sqrt(sums)
        torch._foreach_add_(roots, self.epsilon)
        torch._foreach_addcdiv_(slots.weights, gradients, roots, value=-rate)


class LegacyNadam(_ByWholes, Nadam):
    """Nadam with 0.96^(0.004 t) (keras.optimizers.legacy.Nadam).

    Its `decay` is the 0.004, not a decay of the learning rate.
    """

    serialized_as = "Nadam"

    def setup(self) -> None:
        super().setup()
        self.momentum_decay = 0.004

    def apply(self, gradients: Sequence[Tensor | None]) -> None:
        before, step = self.u_product, self.iterations + 1
        super().apply(gradients)
        # Updated once per step, even if weights were updated one by one.
        self.u_product = float(np.float32(before * self._ahead(step)))

    def update_rows(self, slots: Slots, rows: Tensor, gradients: Tensor, rate: float) -> None:
        before = self.u_product
        super().update_rows(slots, rows, gradients, rate)
        self.u_product = before

    def load(self, arrays: Sequence[np.ndarray[Any, Any] | Tensor]) -> None:
        if arrays and len(arrays) == len(self.keras2_variables()) - 1:
            # Standalone Keras saves no product of momentums, and restarts it at 1.
            arrays = [arrays[0], np.array(1.0), *arrays[1:]]
        super().load(arrays)

    def keras2_variables(self, *, legacy: bool | None = None) -> list[Variable]:
        iteration, *slots = super().keras2_variables(legacy=legacy)
        return [iteration, self.variables[-1], *slots]

    @property
    def legacy_decay(self) -> float:
        return self.momentum_decay

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        options = dict(config)
        exponent = options.pop("schedule_decay", options.pop("decay", 0.004))
        made = super().from_config(options)
        made.momentum_decay = exponent
        made.legacy = True
        return made


LEGACY: Mapping[str, type[BaseOptimizer]] = {
    "SGD": LegacySGD,
    "Adam": LegacyAdam,
    "Adamax": LegacyAdamax,
    "Adadelta": LegacyAdadelta,
    "Ftrl": LegacyFtrl,
    "RMSprop": LegacyRMSprop,
    "Adagrad": LegacyAdagrad,
    "Nadam": LegacyNadam,
}
