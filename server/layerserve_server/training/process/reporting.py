"""Reporting of training progress: callbacks that write events."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from layergraph.training.callbacks.callback import Callback

from layerserve_server.training import events
from layerserve_server.training.events import EventWriter

#: Minimum time between two step events, in seconds: at first, so that a progress bar moves, and later.
STEP_SECONDS = 0.1
LATER_STEP_SECONDS = 1.0
#: Maximum number of values of a metric in an event: there may be one per class of the model.
MAX_NUMBERS = 1000
#: Time after which the later interval applies, in seconds.
LIVELY_SECONDS = 120.0


@dataclass(slots=True)
class Position:
    """Current epoch and step of a process, counted from 1; 0 outside of one."""

    epoch: int = 0
    step: int = 0


class Reporter(Callback):
    """Writes training events. Logs are read only when an event is due, since reading them synchronizes the device."""

    def __init__(self, writer: EventWriter, position: Position, *, resumes: bool = True) -> None:
        """`resumes` is whether a state that is restored is the run's own, not that of another run."""
        super().__init__()
        self._resumes = resumes
        self.logs: dict[str, float] = {}
        #: The current epoch or, between epochs, the next one; from 1.
        self._next_epoch = 1
        self._writer = writer
        self._position = position
        self._began = self._epoch_began = time.monotonic()
        self._reported = -math.inf

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        if not self.params["resumed"]:
            self._report_start()

    def state(self) -> dict[str, Any]:
        """Returns the state for a checkpoint."""
        return {"epoch": self._next_epoch, "step": self._position.step, "logs": self.logs}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores the state of a checkpoint. Called after `on_train_begin`."""
        self._next_epoch, self._position.step, self.logs = state["epoch"], state["step"], dict(state["logs"])
        self._position.epoch = min(self._next_epoch, self._epochs)
        if self._resumes:
            self._writer.write(events.Resumed(state["epoch"], state["step"]))
        self._report_start()

    def _report_start(self) -> None:
        self._writer.write(events.Started(self._epochs, self._steps, self.params["rows"]))

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._position.epoch = self._next_epoch = epoch + 1
        self._epoch_began = time.monotonic()

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._position.step = batch + 1

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._report_step(self._position.epoch, self._epochs, logs)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.logs = numbers(logs)
        self._position.step = 0
        self._next_epoch = epoch + 2
        seconds = time.monotonic() - self._epoch_began
        self._writer.write(events.Epoch(self._position.epoch, self._epochs, self.logs, seconds))

    def _report_step(self, epoch: int, epochs: int, logs: Mapping[str, Any] | None) -> None:
        now = time.monotonic()
        interval = STEP_SECONDS if now - self._began < LIVELY_SECONDS else LATER_STEP_SECONDS
        if now - self._reported >= interval or self._position.step == self._steps:
            self._reported = now
            self._writer.write(events.Step(epoch, epochs, self._position.step, self._steps, numbers(logs)))

    @property
    def _epochs(self) -> int:
        return int(self.params["epochs"])

    @property
    def _steps(self) -> int:
        return int(self.params["steps"])


class EvaluationReporter(Reporter):
    """Writes the events of an evaluation, as of one epoch."""

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._position.epoch = 1
        self._writer.write(events.Started(1, self._steps, self.params["rows"]))

    def on_test_batch_begin(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._position.step = batch + 1

    def on_test_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._report_step(1, 1, logs)


def numbers(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """Returns logs as floats. A metric with several values, such as one per class, becomes `name[0]`, `name[1]`, ...

    Values after the first MAX_NUMBERS of a metric are left out.
    """
    found: dict[str, float] = {}
    for name, value in (logs or {}).items():
        if np.ndim(value):
            first = np.ravel(value)[:MAX_NUMBERS]
            found.update({f"{name}[{index}]": float(item) for index, item in enumerate(first)})
        else:
            found[name] = float(value)
    return found
