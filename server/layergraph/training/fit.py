"""One call of `fit`: epochs with validation, callbacks and checkpoints, from the start or from a checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from layergraph.errors import DataError
from layergraph.training.callbacks.callback import Callbacks
from layergraph.training.checkpoint import Checkpoints
from layergraph.training.compile import Compiled
from layergraph.training.compiled_model import CompiledModel
from layergraph.training.data import Data
from layergraph.training.data_adapter import model_device
from layergraph.training.epochs import Epochs
from layergraph.training.frozen_cache import FrozenCache, keep_outputs, refuse
from layergraph.training.loop import Loop, RunningLogs
from layergraph.training.metrics.metric import Result
from layergraph.training.restored_model import trained_places
from layergraph.training.streams import Stream, StreamEpochs
from layergraph.training.workers import Workers


@dataclass(frozen=True, slots=True)
class Validation:
    """Validation after each epoch, or every `frequency` epochs: `rows` in batches of `size`, at most `steps` of them.

    A sequence as `frequency` lists the epochs to validate after, counted from 1.
    """

    rows: Data | Stream
    size: int
    steps: int | None
    frequency: int | Sequence[int] = 1

    def limited(self) -> Data:
        """The rows that are used, of arrays."""
        assert isinstance(self.rows, Data), "batches have no rows"
        return self.rows if self.steps is None else replace(self.rows, rows=min(self.rows.rows, self.steps * self.size))

    def follows(self, epoch: int) -> bool:
        """Whether validation runs after an epoch (counted from 0)."""
        if isinstance(self.frequency, int):
            return (epoch + 1) % self.frequency == 0
        return epoch + 1 in self.frequency


@dataclass(frozen=True, slots=True)
class FitOptions:
    """How `fit` trains.

    epochs         indices of the epochs, from 0
    steps          batches per epoch; None for all
    seed           of shuffling and of random layers
    stops_on_nan   whether a loss that isn't finite raises an error
    checkpoints    where the state of the run is saved, None for nowhere
    workers        the processes that train one model together, None for one
    cache          how outputs of frozen layers are kept, None for not at all
    """

    epochs: range
    steps: int | None
    seed: int
    stops_on_nan: bool = False
    checkpoints: Checkpoints | None = None
    workers: Workers | None = None
    cache: FrozenCache | None = None


class Fit:
    """A training run, which can be checkpointed after any batch and resumed from there."""

    def __init__(
        self,
        model: CompiledModel,
        compiled: Compiled,
        loop: Loop,
        batches: Epochs | StreamEpochs,
        validation: Validation | None,
        hooks: Callbacks,
        options: FitOptions,
    ) -> None:
        self._model = model
        self._compiled = compiled
        self._loop = loop
        self._batches = batches
        self._validation = validation
        self._hooks = hooks
        self._options = options
        self._repeats = options.steps is not None and compiled.rules.repeats_rows and isinstance(batches, Epochs)
        #: Whether outputs of frozen layers are kept; None as long as that is open.
        self._keeps: bool | None = None if options.cache is not None else False
        #: The current or next epoch, and how many of its batches are done.
        self._epoch = options.epochs.start
        self._step = 0
        #: Number of batches of all epochs.
        self._steps_done = 0
        self._logs: dict[str, Any] = {}

    def run(self, resumed: dict[str, Any] | None) -> None:
        """Trains until the last epoch; `resumed` is the state of a checkpoint to continue from.

        Raises DataError if the checkpoint is of another run or the data ends too soon, NonFiniteLossError if the loss
        isn't finite and the options say so.
        """
        self._hooks.call("on_train_begin", {})
        if resumed is not None:
            self._restore(resumed)
        self._agree()
        if self._options.cache is not None:
            self._keep_frozen(self._options.cache)
        while self._epoch < self._options.epochs.stop and not self._model.stop_training and not self._is_exhausted:
            self._run_epoch()
        if self._options.epochs.stop > 0:
            self._compiled.optimizer.finalize()
        self._hooks.call("on_train_end", self._logs)
        if self._options.checkpoints is not None and self._options.checkpoints.remove:
            self._options.checkpoints.discard()

    def _keep_frozen(self, cache: FrozenCache) -> None:
        """Computes the outputs of the frozen trunk once, if they are needed more than once."""
        batches, validation = self._batches, self._validation
        if isinstance(batches, StreamEpochs) or self._options.workers is not None:
            what = "batches" if isinstance(batches, StreamEpochs) else "several workers"
            refuse(cache, f"got {what}, expected arrays and one worker")
            return
        # The decision doesn't depend on where a resumed run is: its rounding must be that of the unbroken run.
        if self._keeps is None:
            needed = len(self._options.epochs) * (self._options.steps or batches.steps)
            self._keeps = cache.required or needed > batches.steps
        elif self._keeps:
            cache = replace(cache, max_bytes=None)
        if not self._keeps:
            return
        tested = None
        if validation is not None and isinstance(validation.rows, Data):
            tested = (validation.limited(), validation.size)
        plan, trained = self._model.plan(), self._model.trainable_weights
        data, rules = (batches.columns, batches.size), self._compiled.rules
        kept = keep_outputs(cache, plan, trained, data, tested, self._write_if_asked, rules)
        self._keeps = kept is not None
        if kept is None:
            return
        batches.use(kept.training)
        if kept.validation is not None and validation is not None:
            self._validation = replace(validation, rows=kept.validation)
        self._loop.use(kept.plan, None if kept.validation is None else kept.plan)

    def _write_if_asked(self) -> None:
        if self._options.checkpoints is not None and self._options.checkpoints.asked:
            self._options.checkpoints.write(self.state())

    @property
    def _is_exhausted(self) -> bool:
        """Whether all rows were used as many times as there are epochs, where epochs repeat rows."""
        return self._repeats and self._batches.number - self._options.epochs.start >= len(self._options.epochs)

    def _run_epoch(self) -> None:
        epoch = self._epoch
        self._hooks.call("on_epoch_begin", epoch, {})
        self._agree()
        if self._step == 0:
            self._loop.reset()
        self._batches.epoch_begins()
        with self._loop.recording():
            self._run_steps()
        self._batches.epoch_ends()
        logs: dict[str, Any] = dict(self._loop.logs())
        if self._validation is not None and self._validation.follows(epoch):
            found = tested(self._loop, self._validation, self._hooks, workers=self._options.workers)
            logs.update({f"val_{name}": value for name, value in found.items()})
            # As in Keras, the order is that of the full names: `weighted_accuracy` comes after `val_loss`.
            logs = dict(sorted(logs.items()))
        self._hooks.call("on_epoch_end", epoch, logs)
        self._agree()
        self._logs = logs
        self._epoch, self._step = epoch + 1, 0
        self._batches.start_next_if_finished()
        if self._options.checkpoints is not None and self._options.checkpoints.due_after_epoch(logs):
            self._options.checkpoints.write(self.state())

    def _run_steps(self) -> None:
        begin = self._hooks.defining("on_train_batch_begin")
        end = self._hooks.defining("on_train_batch_end")
        loop, batches, model, checkpoints = self._loop, self._batches, self._model, self._options.checkpoints
        # As in Keras 3, an epoch also ends with the data, even before steps_per_epoch. In Keras 2 it then goes on with
        # the first row, and the run ends once all rows were used as many times as there are epochs.
        last = self._options.steps or batches.steps or sys.maxsize
        while self._step < last:
            if batches.finished:
                if not self._repeats:
                    return
                batches.start_next_if_finished()
                if self._is_exhausted:
                    return
            step = self._step
            batch = batches.take()
            if batch is None:
                if step == 0:
                    raise DataError(
                        f"the data has no batch left for epoch {self._epoch + 1}; expected enough for all epochs and "
                        "steps_per_epoch, or data that can be iterated repeatedly"
                    )
                return
            for callback in begin:
                callback.on_train_batch_begin(step, {})
            loop.train(batch)
            if self._options.stops_on_nan:
                loop.check_finite(self._epoch, step)
            self._step = step + 1
            self._steps_done += 1
            if end:
                running = RunningLogs(loop)
                for callback in end:
                    callback.on_train_batch_end(step, running)
            self._agree()
            if model.stop_training:
                return
            if checkpoints is not None and checkpoints.due_after_batch():
                checkpoints.write(self.state())

    def _agree(self) -> None:
        """Broadcasts what the first worker's callbacks have decided: whether to stop, and the learning rate."""
        if self._options.workers is None:
            return
        rated = self._compiled.optimizer.rated
        own = [(one, rate) for _, one in rated if isinstance(rate := one.learning_rate, float)]
        stop, *rates = self._options.workers.agree(float(self._model.stop_training), *(rate for _, rate in own))
        self._model.stop_training = bool(stop)
        for (one, _), rate in zip(own, rates, strict=True):
            one.learning_rate = rate

    # Checkpoints.

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the run depends on."""
        return {
            "run": self._identity(),
            "epoch": self._epoch,
            "step": self._step,
            "steps": self._steps_done,
            "pass": (self._batches.number, self._batches.done),
            "stopped": self._model.stop_training,
            "weights": [weight.value.detach() for weight in self._model.weights],
            "trained": trained_places(self._model),
            "optimizer": self._compiled.optimizer.state(),
            "loop": self._loop.state(),
            "metrics": {name: metric.state for name, metric in self._compiled.named_metrics().items()},
            "callbacks": [(type(callback).__name__, callback.state()) for callback in self._hooks.all],
            "logs": self._logs,
            "running": dict(self._loop.logs()) if self._step else {},
            "keeps": self._keeps,
        }

    def _identity(self) -> dict[str, Any]:
        """Arguments and sizes that must be equal when a run is resumed."""
        return {
            "seed": self._options.seed,
            "rows": self._batches.rows,
            "batch_size": self._batches.size,
            "batches": self._batches.steps,
            "shuffle": self._batches.shuffle,
            "steps_per_epoch": self._options.steps,
            "optimizer": type(self._compiled.optimizer).__name__,
            "metrics": sorted(self._compiled.named_metrics()),
            "weights": [tuple(weight.shape) for weight in self._model.weights],
        }

    def _restore(self, state: dict[str, Any]) -> None:
        own = self._identity()
        for what, value in own.items():
            kept = state["run"][what]
            if kept != value:
                raise DataError(f"the checkpoint is of another run: {what} is {kept}, expected {value}")
        for weight, value in zip(self._model.weights, state["weights"], strict=True):
            weight.assign(value)
        self._compiled.optimizer.restore(state["optimizer"])
        self._loop.restore(state["loop"])
        device = model_device(self._model)
        for name, metric in self._compiled.named_metrics().items():
            kept = state["metrics"][name]
            metric.restore({k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in kept.items()})
        self._epoch, self._step = state["epoch"], state["step"]
        self._steps_done = state["steps"]
        self._batches.start_at(*state["pass"])
        self._model.stop_training = state["stopped"]
        self._logs = state["logs"]
        self._keeps = state["keeps"]
        kept_of: dict[str, list[Any]] = {}
        for kind, kept in state["callbacks"]:
            kept_of.setdefault(kind, []).append(kept)
        for callback in self._hooks.all:
            # Matched by class and order, since other callbacks (progress) may differ in a resumed run.
            if kept_of.get(type(callback).__name__):
                callback.restore(kept_of[type(callback).__name__].pop(0))


def tested(loop: Loop, on: Validation, hooks: Callbacks, *, workers: Workers | None) -> dict[str, Result]:
    """Runs an evaluation, on all workers together if there are any, and returns its logs."""
    begin, end = hooks.defining("on_test_batch_begin"), hooks.defining("on_test_batch_end")
    hooks.call("on_test_begin", {})
    loop.reset()
    for step, batch in enumerate(islice(on.rows.batches(on.size, workers), on.steps)):
        for callback in begin:
            callback.on_test_batch_begin(step, {})
        loop.test(batch)
        if end:
            running = RunningLogs(loop)
            for callback in end:
                callback.on_test_batch_end(step, running)
    logs = loop.logs()
    hooks.call("on_test_end", logs)
    return logs
