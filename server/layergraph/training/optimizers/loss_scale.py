"""Loss scaling, which keeps small gradients from underflowing in float16."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from typing_extensions import Self

from layergraph.config.options import Expected, keras_object, option, positive_int
from layergraph.config.training_rules import TrainingRules
from layergraph.errors import ConfigError
from layergraph.training.optimizers.base_optimizer import BaseOptimizer
from layergraph.training.optimizers.formulas import formula
from layergraph.training.optimizers.optimizer import Optimizer
from layergraph.training.optimizers.schedules import Schedule
from layergraph.training.optimizers.state import Tensor, Trainable, Variable
from layergraph.training.options import number

#: Options of other optimizers that Keras also writes here, with their defaults.
_IDLE = {
    "weight_decay": None,
    "clipnorm": None,
    "global_clipnorm": None,
    "clipvalue": None,
    "use_ema": False,
    "ema_momentum": 0.99,
    "ema_overwrite_frequency": None,
    "loss_scale_factor": None,
    "gradient_accumulation_steps": None,
}
#: Number of own variables: iteration and learning rate, which are unused, the count of finite steps, and the scale.
_OWN = 4


class LossScaleOptimizer(BaseOptimizer):
    """Scales the loss by a factor adapted to the gradients (keras.optimizers.LossScaleOptimizer).

    A step with gradients that aren't finite is skipped and halves the scale; `dynamic_growth_steps` consecutive finite
    steps double it. Each step synchronises with the device to check the gradients.
    """

    inner_optimizer: Optimizer = option(formula)
    initial_scale: float = option(number, default=2.0**15)
    dynamic_growth_steps: int = option(positive_int, default=2000)

    def setup(self) -> None:
        super().setup()
        # As in Keras, the inner optimizer doesn't scale the loss itself.
        self.inner_optimizer.loss_scale_factor = None
        self.dynamic_scale = self.initial_scale
        self.step_counter = 0
        self._built = False

    @property  # type: ignore[misc]
    def iterations(self) -> int:  # type: ignore[override]
        """Steps of the inner optimizer, without skipped ones."""
        return self.inner_optimizer.iterations

    @property  # type: ignore[misc]
    def learning_rate(self) -> float | Schedule | None:
        """The inner optimizer's."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float | Schedule | None) -> None:
        assert value is not None, "the inner optimizer has one"
        self.inner_optimizer.learning_rate = value

    @property
    def takes_rows(self) -> bool:
        return self.inner_optimizer.takes_rows

    @property
    def leaves_others(self) -> bool:
        return self.inner_optimizer.leaves_others

    @property
    def reads_lookups(self) -> bool:
        return self.inner_optimizer.reads_lookups

    def follow(self, rules: TrainingRules) -> None:
        self.inner_optimizer.follow(rules)

    @property
    def variables(self) -> list[Variable]:
        own = [Variable("iteration", np.array(0, np.int32)), Variable("learning_rate", np.array(0.0, np.float32))]
        if self._built:
            own += [
                Variable("step_counter", np.array(self.step_counter, np.int32)),
                Variable("dynamic_scale", np.array(self.dynamic_scale, np.float32)),
            ]
        return [*own, *self.inner_optimizer.inner_variables()]

    def build(self, weights: Iterable[Trainable]) -> None:
        self.inner_optimizer.build(weights)
        self._built = True

    def load(self, arrays: Sequence[np.ndarray[Any, Any] | Tensor]) -> None:
        if not is_scaled_state(arrays):
            # A state of Keras 2.15 is the inner optimizer's only. As in Keras, the scale is reset.
            self.inner_optimizer.load(arrays)
            return
        # Without any step, there is no count and no scale; with a schedule, the inner optimizer has no learning rate.
        unbuilt = len(arrays) <= _OWN
        own = _OWN // 2 if unbuilt else _OWN
        self.inner_optimizer.load(arrays[own:])
        if not unbuilt:
            self.step_counter, self.dynamic_scale = int(arrays[2]), float(arrays[3])

    def state(self) -> dict[str, Any]:
        own = {"step_counter": self.step_counter, "dynamic_scale": self.dynamic_scale}
        return {**own, "inner": self.inner_optimizer.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.inner_optimizer.restore(state["inner"])
        self.step_counter, self.dynamic_scale = state["step_counter"], state["dynamic_scale"]

    def rate(self) -> float:
        return self.inner_optimizer.rate()

    def scaled(self, loss: Tensor) -> Tensor:
        return loss * self.dynamic_scale

    @torch.no_grad()
    def apply(self, gradients: Sequence[Tensor | None]) -> None:
        given = [gradient for gradient in gradients if gradient is not None]
        amounts = [gradient._values() if gradient.is_sparse else gradient for gradient in given]
        if given and not bool(torch.stack([amount.isfinite().all() for amount in amounts]).all()):
            self.step_counter = 0
            self.dynamic_scale *= 0.5
            return
        scale = self.dynamic_scale
        self.inner_optimizer.apply([None if gradient is None else gradient / scale for gradient in gradients])
        if self.step_counter == self.dynamic_growth_steps - 1:
            self.step_counter = 0
            self.dynamic_scale *= 2.0
        else:
            self.step_counter += 1

    def finalize(self) -> None:
        self.inner_optimizer.finalize()

    @property
    def averaging(self) -> list[Optimizer]:
        return self.inner_optimizer.averaging

    @property
    def inner_states(self) -> dict[str, list[Variable]]:
        return {"inner_optimizer": self.inner_optimizer.inner_variables()}

    def get_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "inner_optimizer": keras_object("keras.optimizers", self.inner_optimizer),
            "initial_scale": self.initial_scale,
            "dynamic_growth_steps": self.dynamic_growth_steps,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        options = dict(config)
        # Keras 2's option; if false, the scale is the inner optimizer's (see `fixed_scale`).
        options.pop("dynamic", None)
        for name, idle in _IDLE.items():
            if options.pop(name, idle) != idle:
                raise ConfigError(f"LossScaleOptimizer: got option '{name}', expected it on the inner optimizer")
        return cls(**options)


def fixed_scale(config: Mapping[str, Any]) -> Optimizer:
    """The inner optimizer with a fixed scale, for Keras 2's config with `dynamic` false. Raises ConfigError."""
    try:
        made = formula(config.get("inner_optimizer"))
        made.loss_scale_factor = number(config.get("initial_scale"))
    except Expected as wanted:
        raise ConfigError(f"LossScaleOptimizer: expected {wanted} in a config without dynamic scale") from None
    return made


def is_scaled_state(arrays: Sequence[np.ndarray[Any, Any] | Tensor]) -> bool:
    """Whether an optimizer's state is that of a LossScaleOptimizer.

    Such a state begins with at least three numbers: its own and the inner iteration. Other states begin with at most
    two.
    """
    return len(arrays) > _OWN // 2 and not any(array.shape for array in arrays[:_OWN])


def with_scale(optimizer: BaseOptimizer) -> BaseOptimizer:
    """Wraps the optimizer into a LossScaleOptimizer, unless it is one already."""
    if isinstance(optimizer, Optimizer):
        return LossScaleOptimizer.from_config({"inner_optimizer": optimizer})
    return optimizer
