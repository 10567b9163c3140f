"""A sweep on the server: its plan, the request of its trials, and the trials so far."""

from __future__ import annotations

import json
import math
import os
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from layerserve_server.disk import json_object, replace_file
from layerserve_server.extensions.sweeps.plan import Plan
from layerserve_server.folder_owner import FolderOwner, remove_folder
from layerserve_server.records import Int32, Time, checked
from layerserve_server.training.request import RunRequest

#: Name of the file with the trials in a sweep's folder.
TRIALS = "trials.json"
#: Name of the best trial's model file, without its suffix, in the sweep's folder.
BEST = "best"
#: Maximum number of values of a trial's history. Of a longer one every second value is kept.
MAX_HISTORY = 512


class SweepState(Enum):
    """State of a sweep, as in sweeps.proto."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TrialState(str, Enum):
    """State of a trial, as in sweeps.proto."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class Trial:
    """A trial: its settings, its run, and the monitored log by epoch."""

    number: Int32
    settings: Mapping[str, Any]
    state: TrialState = TrialState.RUNNING
    run_id: str = ""
    #: The value that counts; None before the first epoch has ended.
    value: float | None = None
    #: The monitored log by epoch, from 1, and the distance of the epochs that are kept.
    history: dict[Int32, float] = field(default_factory=dict)
    stride: int = 1
    reason: str = ""
    #: Why the result isn't to be published; empty if it may be.
    withheld: str = ""
    #: Training time, in seconds.
    seconds: float = 0.0
    #: Number of times that its run was resumed, and sequence number of its next event. Not stored.
    resumed: int = 0
    next_event: int = 0

    @property
    def ended(self) -> bool:
        return self.state is not TrialState.RUNNING

    def add(self, epoch: int, value: float) -> None:
        """Adds the log of an epoch."""
        if (epoch - 1) % self.stride == 0:
            self.history[epoch] = value
        if len(self.history) > MAX_HISTORY:
            self.stride *= 2
            self.history = {one: kept for one, kept in self.history.items() if (one - 1) % self.stride == 0}

    def to_json(self) -> dict[str, Any]:
        """Returns what is stored. May be called while the sweep's thread adds to the history."""
        return {
            "number": self.number,
            "settings": dict(self.settings),
            "state": self.state.value,
            "run_id": self.run_id,
            "value": self.value,
            "history": dict(self.history),
            "stride": self.stride,
            "reason": self.reason,
            "withheld": self.withheld,
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Trial:
        history = {int(epoch): value for epoch, value in values["history"].items()}
        return checked(cls(**{**values, "history": history, "state": TrialState(values["state"])}))


@dataclass(slots=True, eq=False)
class Sweep:
    """A sweep. Its trials are changed by the thread that drives it, and stored by `save`."""

    id: str
    folder: Path
    plan: Plan
    #: The request of all trials, without the settings that differ.
    request: RunRequest
    created_time: Time
    state: SweepState = SweepState.RUNNING
    trials: list[Trial] = field(default_factory=list)
    #: Number of the best trial; -1 before one has finished.
    best: Int32 = -1
    #: The published version; 0 if none.
    published: int = 0
    reason: str = ""
    ended_time: Time = 0.0
    cancelled: bool = False
    #: Set to have its driver look at it at once.
    wake: threading.Event = field(default_factory=threading.Event)
    owner: FolderOwner = field(init=False)
    #: Held during changes of the folder.
    _saving: threading.Lock = field(default_factory=threading.Lock)
    _removed: bool = False

    def __post_init__(self) -> None:
        self.owner = FolderOwner(self.folder)

    @property
    def ended(self) -> bool:
        return self.state is not SweepState.RUNNING

    def trial(self, number: int) -> Trial | None:
        """Returns the trial of this number; None if there is none."""
        return next((trial for trial in self.trials if trial.number == number), None)

    def is_better(self, value: float) -> bool:
        """Whether a value is better than the best trial's."""
        best = self.trial(self.best)
        if math.isnan(value) or best is None or best.value is None:
            return not math.isnan(value)
        return self.plan.is_better(value, best.value)

    def best_file(self, number: int, suffix: str = "") -> Path:
        """Returns the path of a best trial's model, with this suffix or, if empty, that of the existing file."""
        if not suffix:
            suffix = ".h5" if (self.folder / f"{BEST}-{number}.h5").exists() else ".keras"
        return self.folder / f"{BEST}-{number}{suffix}"

    def keep_best(self, trial: Trial, result: Path) -> None:
        """Keeps a trial's model in the sweep's folder, as runs may be removed before the sweep ends. Raises OSError."""
        kept = self.best_file(trial.number, result.suffix)
        kept.unlink(missing_ok=True)
        try:
            os.link(result, kept)
        except OSError:
            shutil.copyfile(result, kept)
        old, self.best = self.best, trial.number
        self.save()
        if old >= 0 and old != trial.number:
            self.best_file(old).unlink(missing_ok=True)

    def save(self) -> None:
        """Writes the trials and the state to the folder, atomically. Does nothing after `remove`. Raises OSError."""
        with self._saving:
            if self._removed:
                return
            values = {
                "created_time": self.created_time,
                "state": self.state.value,
                "trials": [trial.to_json() for trial in self.trials],
                "best": self.best,
                "published": self.published,
                "reason": self.reason,
                "ended_time": self.ended_time,
                "cancelled": self.cancelled,
            }
            replace_file(self.folder / TRIALS, json.dumps(values), flushed=True)

    def remove(self) -> None:
        """Removes the folder of a sweep that has ended. Its thread may be about to save that it has."""
        with self._saving:
            self._removed = True
            remove_folder(self.folder)

    @classmethod
    def read(cls, folder: Path) -> Sweep:
        """Reads a sweep from its folder. Raises OSError, ValueError, KeyError or TypeError if a file is invalid."""
        sweep = cls(folder.name, folder, Plan.read(folder), RunRequest.read(folder), time.time())
        sweep.refresh()
        return sweep

    def refresh(self) -> None:
        """Reads the trials again, which another server may have changed. Raises as `read` does."""
        values = json_object((self.folder / TRIALS).read_text("utf-8"))
        values["trials"] = [Trial.from_json(one) for one in values["trials"]]
        values["state"] = SweepState(values["state"])
        read = checked(Sweep(self.id, self.folder, self.plan, self.request, **values), values)
        for name in values:
            setattr(self, name, getattr(read, name))
