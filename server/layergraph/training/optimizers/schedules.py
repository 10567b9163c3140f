"""Learning-rate schedules: rate by step, in float32 as Keras computes them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from layergraph.config.options import (
    Configurable,
    Expected,
    Validator,
    boolean,
    keras_object,
    option,
    optional,
    resolve,
    short_repr,
)
from layergraph.errors import ConfigError
from layergraph.training.options import list_of, nonnegative, number, text

F32 = np.float32


def steps(value: Any) -> float:
    """Validator: a positive number of steps; as in Keras, it may be a fraction."""
    result = number(value)
    if F32(result) <= 0:
        raise Expected("a positive number of steps in the range of float32")
    return int(result) if result == int(result) else result


def _named(default: str) -> Validator[str]:
    """Validator: a name; Keras 2.15 writes null for the default."""
    return lambda value: default if value is None else text(value)


class Schedule(Configurable):
    """A learning rate as a function of the step (keras.optimizers.schedules.LearningRateSchedule)."""

    def __call__(self, step: int) -> float:
        """The learning rate of the update after `step` completed ones."""
        raise NotImplementedError


class ExponentialDecay(Schedule):
    """rate x decay_rate^(step / decay_steps); with staircase, the exponent is rounded down."""

    initial_learning_rate: float = option(number)
    decay_steps: float = option(steps)
    decay_rate: float = option(number)
    staircase: bool = option(boolean, default=False)
    name: str = option(_named("ExponentialDecay"), default="ExponentialDecay")

    def __call__(self, step: int) -> float:
        power = F32(step) / F32(self.decay_steps)
        power = np.floor(power) if self.staircase else power
        return float(F32(self.initial_learning_rate) * F32(self.decay_rate) ** power)


class InverseTimeDecay(Schedule):
    """rate / (1 + decay_rate x step / decay_steps); with staircase, the quotient is rounded down."""

    initial_learning_rate: float = option(number)
    decay_steps: float = option(steps)
    decay_rate: float = option(number)
    staircase: bool = option(boolean, default=False)
    name: str = option(_named("InverseTimeDecay"), default="InverseTimeDecay")

    def __call__(self, step: int) -> float:
        quotient = F32(step) / F32(self.decay_steps)
        quotient = np.floor(quotient) if self.staircase else quotient
        return float(F32(self.initial_learning_rate) / (F32(1) + F32(self.decay_rate) * quotient))


class PolynomialDecay(Schedule):
    """(rate - end) (1 - step / decay_steps)^power + end; with cycle, decay_steps becomes its next multiple >= step."""

    initial_learning_rate: float = option(number)
    decay_steps: float = option(steps)
    end_learning_rate: float = option(number, default=0.0001)
    power: float = option(number, default=1.0)
    cycle: bool = option(boolean, default=False)
    name: str = option(_named("PolynomialDecay"), default="PolynomialDecay")

    def __call__(self, step: int) -> float:
        now, over = F32(step), F32(self.decay_steps)
        if self.cycle:
            # The last step of a cycle belongs to it.
            over = over * (F32(1) if step == 0 else np.ceil(now / over))
        else:
            now = min(now, over)
        start, end = F32(self.initial_learning_rate), F32(self.end_learning_rate)
        return float((start - end) * (F32(1) - now / over) ** F32(self.power) + end)


class PiecewiseConstantDecay(Schedule):
    """`values[i]` up to and including step `boundaries[i]`, and the last value after all boundaries."""

    boundaries: tuple[float, ...] = option(list_of(number))
    values: tuple[float, ...] = option(list_of(number))
    name: str = option(_named("PiecewiseConstant"), default="PiecewiseConstant")

    def setup(self) -> None:
        if len(self.values) != len(self.boundaries) + 1:
            raise ConfigError(
                f"PiecewiseConstantDecay: got {len(self.boundaries)} boundaries and {len(self.values)} values, "
                "expected one value more than boundaries"
            )

    def __call__(self, step: int) -> float:
        # Keras casts boundaries to the integer type of the step, and adds up the values of all intervals that contain
        # the step: if boundaries aren't sorted, it may be in several.
        limits = [-math.inf, *map(int, self.boundaries), math.inf]
        inside = [low < step <= high for low, high in itertools.pairwise(limits)]
        return float(sum((F32(value) for value, here in zip(self.values, inside, strict=True) if here), F32(0)))


class CosineDecay(Schedule):
    """Half a cosine from the rate to `alpha` x the rate, after a linear warmup if `warmup_target` is set."""

    initial_learning_rate: float = option(number)
    decay_steps: float = option(steps)
    alpha: float = option(number, default=0.0)
    name: str = option(_named("CosineDecay"), default="CosineDecay")
    warmup_target: float | None = option(optional(number), default=None)
    warmup_steps: float = option(nonnegative, default=0)

    def __call__(self, step: int) -> float:
        start, over, now = F32(self.initial_learning_rate), F32(self.decay_steps), F32(step)
        if self.warmup_target is None:
            return self._decayed(min(now, over) / over, start)
        target, warmup = F32(self.warmup_target), F32(self.warmup_steps)
        now = min(now, over + warmup)
        if now < warmup:
            return float((target - start) * (now / warmup) + start)
        return self._decayed((now - warmup) / over, target)

    def _decayed(self, done: np.floating[Any], start: np.floating[Any]) -> float:
        cosine = F32(0.5) * (F32(1) + np.cos(F32(math.pi) * done))
        return float(start * ((F32(1) - F32(self.alpha)) * cosine + F32(self.alpha)))


class CosineDecayRestarts(Schedule):
    """Consecutive cosine decays, each `t_mul` times as long and `m_mul` times as high as the one before."""

    initial_learning_rate: float = option(number)
    first_decay_steps: float = option(steps)
    t_mul: float = option(number, default=2.0)
    m_mul: float = option(number, default=1.0)
    alpha: float = option(number, default=0.0)
    name: str = option(_named("SGDRDecay"), default="SGDRDecay")

    def __call__(self, step: int) -> float:
        done = F32(step) / F32(self.first_decay_steps)
        t_mul, one = F32(self.t_mul), F32(1)
        if t_mul == 1:
            restarts = np.floor(done)
            done = done - restarts
        else:
            # At a restart, the last bit of the logarithm matters: use torch's, as Keras on torch does.
            stretch, base = torch.tensor(one - done * (one - t_mul)), torch.tensor(t_mul)
            restarts = F32(torch.floor(torch.log(stretch) / torch.log(base)))
            finished = (one - t_mul**restarts) / (one - t_mul)
            done = (done - finished) / t_mul**restarts
        cosine = F32(0.5) * F32(self.m_mul) ** restarts * (one + np.cos(F32(math.pi) * done))
        return float(F32(self.initial_learning_rate) * ((one - F32(self.alpha)) * cosine + F32(self.alpha)))


class Decayed(Schedule):
    """A schedule divided by 1 + decay x step, as in Keras 2's legacy optimizers. Keras 3 has no equivalent.

    Files contain only the inner schedule.
    """

    def __init__(self, schedule: Schedule, decay: float) -> None:
        super().__init__()
        self.schedule = schedule
        self.decay = decay

    def __call__(self, step: int) -> float:
        return float(F32(self.schedule(step)) / (F32(1) + F32(self.decay) * F32(step)))


SCHEDULES: Mapping[str, type[Schedule]] = {
    "ExponentialDecay": ExponentialDecay,
    "InverseTimeDecay": InverseTimeDecay,
    "PolynomialDecay": PolynomialDecay,
    "PiecewiseConstantDecay": PiecewiseConstantDecay,
    "CosineDecay": CosineDecay,
    "CosineDecayRestarts": CosineDecayRestarts,
}


def learning_rate(value: Any) -> float | Schedule:
    """Validator: a number of at least 0, a schedule, or a schedule's serialised form."""
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        return nonnegative(value)
    if not isinstance(value, (Schedule, Mapping)):
        raise Expected(f"a number or a schedule ({', '.join(sorted(SCHEDULES))}), not {short_repr(value)}")
    return resolve("schedule", value, SCHEDULES)


def keras_form(value: Schedule) -> dict[str, Any]:
    """Keras 3's serialised form of a schedule."""
    if isinstance(value, Decayed):
        value = value.schedule
    return keras_object("keras.optimizers.schedules", value)
