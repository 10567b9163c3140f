"""The program of a trial: a run of some seconds, whose times are taken in its process."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from layergraph.training.callbacks.callback import Callback
from layergraph.training.checkpoint import Checkpoints

from layerserve_server.extensions.estimates.trial_times import OPTION, Lap, TrialTimes
from layerserve_server.training.budget import files_in
from layerserve_server.training.process import work
from layerserve_server.training.process.reporting import Position
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.layout import FILES
from layerserve_server.training.run_folder.result import RunResult, StopRequest

#: Number of steps that a trial makes in any case: the first one takes longer than the others.
LEAST_STEPS = 2
#: Multiple of its time after which a trial ends with its first step.
MUCH_LATER = 4.0


class TrialTimer(Callback):
    """Takes the times of a trial, and ends it after the seconds that its request names. The last callback."""

    def __init__(self, folder: Path, request: RunRequest, checkpoints: Checkpoints | None = None) -> None:
        super().__init__()
        self._folder = folder
        self._trains = request.trains
        self._size = request.batch_size
        self._seconds: float = request.kind_options[OPTION]
        self._files = folder / FILES if request.callbacks else None
        self._checkpoints = checkpoints
        self._times = TrialTimes()
        self._mark = 0.0
        self._bytes = 0
        self._steps = 0
        self._asked = self._saved = False

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        self._begin()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._lap(self._kind_of_step(batch))
        self._steps += 1
        enough = self._steps >= LEAST_STEPS
        late = self._late(1 if enough else MUCH_LATER)
        # One checkpoint is written, after this batch: in the lap of another step, or of what follows the steps.
        last = self.params["steps"] * self.params["epochs"]
        if self._checkpoints is not None and (late or self._steps == min(LEAST_STEPS, last)) and not self._asked:
            self._checkpoints.ask()
            self._saved = self._asked = True
        if late:
            self.model.stop_training = True

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        if self._trains:
            self._lap("around tests")
        else:
            self._begin()

    def on_test_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        if self._trains:
            self._lap("test")
            return
        self._lap(self._kind_of_step(batch))
        if self._late(1):
            self._end()
            raise StopRequest

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        self._lap("around tests")
        if not self._trains:
            self._end()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._lap("end of epoch")

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        self._end()

    def _kind_of_step(self, batch: int) -> str:
        short = self.params["rows"] % self._size and batch == self.params["steps"] - 1
        return "short step" if short else "step"

    def _begin(self) -> None:
        self._times.began = self._mark = time.monotonic()

    def _lap(self, what: str) -> None:
        seconds = time.monotonic() - self._mark
        grown = 0
        if self._files is not None:
            sizes = files_in(self._files).values()
            grown, self._bytes = sum(sizes) - self._bytes, sum(sizes)
            self._times.largest_file = max(sizes, default=0)
        self._times.laps.append(Lap(what, seconds, grown, self._saved))
        self._saved = False
        # Without the time that measuring takes.
        self._mark = time.monotonic()

    def _late(self, factor: float) -> bool:
        return time.monotonic() - self._times.began > factor * self._seconds

    def _end(self) -> None:
        self._times.ended = time.monotonic()
        trained: Sequence[Any] = self.model.trainable_weights
        self._times.trainable = sum(weight.value.numel() for weight in trained)
        self._times.non_trainable = sum(weight.value.numel() for weight in self.model.weights) - self._times.trainable
        self._times.write(self._folder)


def execute(folder: Path, request: RunRequest, position: Position) -> RunResult | None:
    """Trains or evaluates as any run does, and takes the times."""
    return work.execute(folder, request, position, lambda checkpoints: TrialTimer(folder, request, checkpoints))
