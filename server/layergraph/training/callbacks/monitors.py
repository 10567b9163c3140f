"""Callbacks that monitor a log, by Keras's rules: stop, keep the best weights, reduce the learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from layergraph.config.options import Configurable, Expected, boolean, nonnegative_int, one_of, option, optional
from layergraph.errors import ConfigError, NonFiniteLossError, unknown_name
from layergraph.training.callbacks.callback import Callback, Logs
from layergraph.training.optimizers import schedules
from layergraph.training.optimizers.base_optimizer import BaseOptimizer
from layergraph.training.optimizers.schedules import Schedule
from layergraph.training.options import nonnegative, number, text


def _amount(value: Any) -> float:
    return abs(number(value))


class Monitor(Configurable, Callback):
    """Base of callbacks that compare a log with its best value so far.

    monitor     name of the log
    mode        whether "min" or "max" is better; "auto" depends on the metric: losses and errors are minimised
    min_delta   minimum improvement; its sign is ignored

    Values are compared in float32, as Keras on torch does, so logs that differ in later digits are equal. NaN is an
    improvement only if there is no best value yet, and never for a model of Keras 2. Raises ConfigError when training
    begins, if no epoch will have the log or the mode can't be determined, and after an epoch whose log is several
    numbers.
    """

    monitor: str = option(text, default="val_loss", kw_only=True)
    mode: str = option(one_of("auto", "min", "max"), default="auto", kw_only=True)
    min_delta: float = option(_amount, default=0.0, kw_only=True)

    #: Names of the attributes that are the callback's state.
    state_names: ClassVar[tuple[str, ...]] = ("best",)

    def setup(self) -> None:
        self.params = {}
        self.best: float | None = None
        self._sign = 1.0

    def on_train_begin(self, logs: Logs | None = None) -> None:
        known = self.params["logs"]
        if self.monitor not in known:
            raise ConfigError(f"{type(self).__name__}: {_no_such_log(self.monitor, known)}")
        self.best = None
        self._sign = {"min": -1.0, "max": 1.0}.get(self.mode) or self._direction()

    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.state_names}

    def restore(self, state: Mapping[str, Any]) -> None:
        for name in self.state_names:
            setattr(self, name, state[name])

    def _direction(self) -> float:
        direction = self.model.log_direction(self.monitor.removeprefix("val_"))
        if direction is None:
            raise ConfigError(
                f"{type(self).__name__}: mode 'auto' can't determine whether '{self.monitor}' should be large or "
                "small; set mode to 'min' or 'max'"
            )
        return 1.0 if direction == "up" else -1.0

    def improves(self, value: float, reference: float | None) -> bool:
        """Whether `value` improves on `reference` by more than `min_delta`. Raises ConfigError for several numbers."""
        if np.ndim(value):
            raise ConfigError(f"{type(self).__name__}: log '{self.monitor}' is {np.size(value)} numbers, expected one")
        if reference is None:
            return not (math.isnan(value) and self.model.training_rules.restores_if_stopped)
        # As in Keras: min_delta is subtracted from the float32 log, and the result is rounded to float32 again.
        reduced = _rounded(_rounded(value) - self._sign * self.min_delta)
        return self._sign * reduced > self._sign * _rounded(reference)


def _no_such_log(name: str, known: Sequence[str]) -> str:
    """Why no epoch will have a log. The default log `val_loss` only exists with validation."""
    if name.startswith("val_") and name.removeprefix("val_") in known:
        return f"no epoch has the log '{name}', since there is no validation; known: {', '.join(sorted(known))}"
    return unknown_name("log", name, known)


class EarlyStopping(Monitor):
    """Stops a run whose monitored log hasn't improved for `patience` epochs (keras.callbacks.EarlyStopping).

    baseline               patience restarts only for values that improve on it
    restore_best_weights   restore the best epoch's weights at the end, even if the run wasn't stopped early. For a
                           model of Keras 2 only if it is stopped, and then averages of weights may replace them
    start_from_epoch       epochs before it are ignored
    """

    monitor: str = option(text, default="val_loss")
    min_delta: float = option(_amount, default=0.0)
    patience: int = option(nonnegative_int, default=0)
    verbose: int = option(nonnegative_int, default=0)
    mode: str = option(one_of("auto", "min", "max"), default="auto")
    baseline: float | None = option(optional(number), default=None)
    restore_best_weights: bool = option(boolean, default=False)
    start_from_epoch: int = option(nonnegative_int, default=0)

    state_names = ("best", "wait", "stopped_epoch", "best_epoch", "best_weights")

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self.wait = self.stopped_epoch = self.best_epoch = 0
        self.best_weights: list[Any] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = (logs or {}).get(self.monitor)
        if value is None or epoch < self.start_from_epoch:
            return
        self.wait += 1
        if self.improves(value, self.best):
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
            if self.baseline is None or self.improves(value, self.baseline):
                self.wait = 0
            return
        if self.restore_best_weights and self.best_weights is None:
            # A first epoch whose log is NaN.
            self.best_weights, self.best_epoch = self.model.get_weights(), epoch
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True
            if self.model.training_rules.restores_if_stopped:
                self._restore_best()

    def on_train_end(self, logs: Logs | None = None) -> None:
        if not self.model.training_rules.restores_if_stopped:
            self._restore_best()
        if self.stopped_epoch and self.verbose:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping; best epoch {self.best_epoch + 1}")

    def _restore_best(self) -> None:
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)


class ReduceLROnPlateau(Monitor):
    """Multiplies the learning rate by `factor` after `patience` epochs without improvement.

    Logs the epoch's `learning_rate`; for a MultiOptimizer `learning_rate_<name>` of each optimizer. Raises ConfigError
    for an optimizer with a schedule (keras.callbacks.ReduceLROnPlateau).
    """

    monitor: str = option(text, default="val_loss")
    factor: float = option(nonnegative, default=0.1)
    patience: int = option(nonnegative_int, default=10)
    verbose: int = option(nonnegative_int, default=0)
    mode: str = option(one_of("auto", "min", "max"), default="auto")
    min_delta: float = option(_amount, default=1e-4)
    cooldown: int = option(nonnegative_int, default=0)
    min_lr: float = option(nonnegative, default=0.0)

    state_names = ("best", "wait", "cooling")

    def setup(self) -> None:
        super().setup()
        if self.factor >= 1:
            raise ConfigError(f"ReduceLROnPlateau: option 'factor' is {self.factor}, expected less than 1")

    def on_train_begin(self, logs: Logs | None = None) -> None:
        super().on_train_begin(logs)
        self.wait = self.cooling = 0
        rated(self)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        given: dict[str, Any] = logs if isinstance(logs, dict) else {}
        given.update(logged_rates(self))
        value = given.get(self.monitor)
        if value is None:
            return
        if self.cooling:
            self.cooling -= 1
            self.wait = 0
        if self.improves(value, self.best):
            self.best = value
            self.wait = 0
        elif not self.cooling:
            self.wait += 1
            if self.wait >= self.patience:
                self._reduce(epoch)

    def _reduce(self, epoch: int) -> None:
        above = [one for one in rated(self) if one.rate > _rounded(self.min_lr)]
        for one in above:
            one.optimizer.learning_rate = _rounded(max(one.rate * self.factor, self.min_lr))
            if self.verbose:
                print(f"Epoch {epoch + 1}: {one.log} reduced to {one.optimizer.learning_rate:g}")
        if above:
            self.cooling = self.cooldown
            self.wait = 0


class TerminateOnNaN(Configurable, Callback):
    """Stops a run after a batch whose loss is NaN or infinite; its epoch is still logged (keras.callbacks).

    raise_error   raise NonFiniteLossError instead, without logging the epoch
    """

    raise_error: bool = option(boolean, default=False)

    def setup(self) -> None:
        self.params = {}
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if logs and not math.isfinite(logs["loss"]):
            if self.raise_error:
                raise NonFiniteLossError(logs["loss"], self._epoch + 1, batch + 1)
            print(f"Batch {batch}: the loss isn't finite; stopping training")
            self.model.stop_training = True


def _schedule(value: Any) -> Any:
    if isinstance(value, Mapping):
        return schedules.learning_rate(value)
    if not callable(value):
        raise Expected("a schedule or a function of the epoch")
    return value


class LearningRateScheduler(Configurable, Callback):
    """Sets the learning rate at the start of each epoch, and logs it (keras.callbacks.LearningRateScheduler).

    schedule   a learning-rate schedule, called with the epoch, from 0; or, as in Keras, a function (epoch, rate) ->
               rate or (epoch) -> rate

    Raises ConfigError for an optimizer with a schedule of its own.
    """

    schedule: Any = option(_schedule)
    verbose: int = option(nonnegative_int, default=0)

    def setup(self) -> None:
        self.params = {}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        rated(self)

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        for one in rated(self):
            one.optimizer.learning_rate = rate = _rounded(self._rate(epoch, one.rate))
            if self.verbose:
                print(f"Epoch {epoch + 1}: {one.log} set to {rate:g}")

    def _rate(self, epoch: int, rate: float) -> float:
        if isinstance(self.schedule, Schedule):
            return self.schedule(epoch)
        try:
            return float(self.schedule(epoch, rate))
        except TypeError:
            return float(self.schedule(epoch))

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if isinstance(logs, dict):
            logs.update(logged_rates(self))


@dataclass(frozen=True, slots=True)
class Rated:
    """An optimizer with a constant learning rate, logged as `log`. As in Keras, rates and their logs are float32."""

    log: str
    optimizer: BaseOptimizer
    rate: float


def rated(callback: Callback) -> list[Rated]:
    """The model's optimizer, or those of a MultiOptimizer. Raises ConfigError if a learning rate is a schedule."""
    found = []
    for log, optimizer in () if callback.model.optimizer is None else callback.model.optimizer.rated:
        rate = optimizer.learning_rate
        if rate is None or isinstance(rate, Schedule):
            raise ConfigError(f"{type(callback).__name__}: the learning rate is a schedule, expected a number")
        found.append(Rated(log, optimizer, _rounded(rate)))
    return found


def _rounded(value: float) -> float:
    """The number rounded to float32."""
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def logged_rates(callback: Callback) -> dict[str, float]:
    """The current learning rates, by the names of their logs."""
    return {one.log: one.rate for one in rated(callback)}
