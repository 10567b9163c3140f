"""What a training process tells: Keras's hooks turned into events."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from layergraph.training.callbacks.callback import Callback

from layerserve_server.training import events
from layerserve_server.training.events import EventWriter

#: Least time between two step events, in seconds: at first a bar should move, later a glance is enough.
STEP_SECONDS = 0.1
LATER_STEP_SECONDS = 1.0
#: Most numbers of one metric in an event: there may be as many as a model has classes.
MAX_NUMBERS = 1000
#: How long "at first" lasts, in seconds.
LIVELY_SECONDS = 120.0


@dataclass(slots=True)
class Place:
    """Where a process is: epoch and step from 1, 0 outside of one."""

    epoch: int = 0
    step: int = 0


class Reporter(Callback):
    """Tells of training. Logs are read only for an event: reading waits for the device."""

    def __init__(self, writer: EventWriter, place: Place) -> None:
        super().__init__()
        self.logs: dict[str, float] = {}
        #: The epoch that is going on or comes next, from 1.
        self._next_epoch = 1
        self._writer = writer
        self._place = place
        self._began = self._epoch_began = time.monotonic()
        self._reported = 0.0

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        if not self.params["resumed"]:
            self._tell_start()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of this."""
        return {"epoch": self._next_epoch, "step": self._place.step, "logs": self.logs}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Called after `on_train_begin`, where training goes on from a checkpoint."""
        self._next_epoch, self._place.step, self.logs = state["epoch"], state["step"], dict(state["logs"])
        self._place.epoch = min(self._next_epoch, self._epochs)
        self._writer.write(events.Resumed(state["epoch"], state["step"]))
        self._tell_start()

    def _tell_start(self) -> None:
        self._writer.write(events.Started(self._epochs, self._steps, self.params["rows"]))

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._place.epoch = self._next_epoch = epoch + 1
        self._epoch_began = time.monotonic()

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._place.step = batch + 1

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._tell_step(self._place.epoch, self._epochs, logs)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.logs = numbers(logs)
        self._place.step = 0
        self._next_epoch = epoch + 2
        seconds = time.monotonic() - self._epoch_began
        self._writer.write(events.Epoch(self._place.epoch, self._epochs, self.logs, seconds))

    def _tell_step(self, epoch: int, epochs: int, logs: Mapping[str, Any] | None) -> None:
        now = time.monotonic()
        least = STEP_SECONDS if now - self._began < LIVELY_SECONDS else LATER_STEP_SECONDS
        if now - self._reported >= least or self._place.step == self._steps:
            self._reported = now
            self._writer.write(events.Step(epoch, epochs, self._place.step, self._steps, numbers(logs)))

    @property
    def _epochs(self) -> int:
        return int(self.params["epochs"])

    @property
    def _steps(self) -> int:
        return int(self.params["steps"])


class EvaluationReporter(Reporter):
    """Tells of an evaluation, as of one epoch."""

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._place.epoch = 1
        self._writer.write(events.Started(1, self._steps, self.params["rows"]))

    def on_test_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._place.step = batch + 1

    def on_test_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._tell_step(1, 1, logs)


def numbers(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """Logs as plain numbers; a metric that gives several, such as one for each class, as `name[0]`, `name[1]`, ...

    Of one that gives many, the first ones.
    """
    found: dict[str, float] = {}
    for name, value in (logs or {}).items():
        if np.ndim(value):
            first = np.ravel(value)[:MAX_NUMBERS]
            found.update({f"{name}[{place}]": float(item) for place, item in enumerate(first)})
        else:
            found[name] = float(value)
    return found
