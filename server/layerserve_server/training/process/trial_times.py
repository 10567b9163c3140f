"""Times of a trial of a run, taken in the run's process."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from layergraph.training.callbacks.callback import Callback
from layergraph.training.checkpoint import Checkpoints

from layerserve_server.disk import json_object, replace_file
from layerserve_server.records import DAMAGED, checked
from layerserve_server.training.budget import files_in
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.layout import FILES
from layerserve_server.training.run_folder.result import StopRequest

#: Name of the file in the run's folder.
TRIAL = "trial.json"
#: Number of steps that a trial makes in any case: the first one takes longer than the others.
LEAST_STEPS = 2
#: Multiple of its time after which a trial ends with its first step.
MUCH_LATER = 4.0


@dataclass(frozen=True, slots=True)
class Lap:
    """A part of a trial: what was done, the seconds it took, and how much the callbacks' files have grown, in bytes.

    `what` is "step", "short step" (of fewer rows), "test" (a step of validation), "around tests" or "end of epoch".
    With `saved`, a checkpoint was written meanwhile.
    """

    what: str
    seconds: float
    bytes: int = 0
    saved: bool = False


@dataclass(slots=True)
class TrialTimes:
    """Laps of a trial in their order; times of its beginning and end, on the clock of `time.monotonic`."""

    began: float = 0.0
    ended: float = 0.0
    laps: list[Lap] = field(default_factory=list)
    trainable: int = 0
    non_trainable: int = 0
    #: Size of the largest file of callbacks, in bytes.
    largest_file: int = 0

    def write(self, folder: Path) -> None:
        """Writes the times to a trial's folder. Raises OSError."""
        replace_file(folder / TRIAL, json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> TrialTimes | None:
        """Reads the times of a trial's folder; None if it has written none that is whole."""
        try:
            values = json_object((folder / TRIAL).read_bytes())
            return checked(cls(**{**values, "laps": [Lap(**lap) for lap in values["laps"]]}))
        except DAMAGED:
            return None


class TrialTimer(Callback):
    """Takes the times of a trial, and ends it after its `trial_seconds`. The last one of the callbacks."""

    def __init__(self, folder: Path, request: RunRequest, checkpoints: Checkpoints | None = None) -> None:
        super().__init__()
        self._folder = folder
        self._trains = request.trains
        self._size = request.batch_size
        self._seconds = request.trial_seconds
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


def trial_timer(folder: Path, request: RunRequest, checkpoints: Checkpoints | None = None) -> list[Callback]:
    """Returns the callback that takes the times of a trial; none for a run."""
    return [TrialTimer(folder, request, checkpoints)] if request.trial_seconds else []
