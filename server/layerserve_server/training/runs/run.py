"""One run, as the server sees it."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import socket
import time
from dataclasses import dataclass, field
from enum import Enum
from io import TextIOWrapper
from pathlib import Path

from layerserve_server.training import events
from layerserve_server.training.events import LAST, EventLog, Logs
from layerserve_server.training.process.training_process import TrainingProcess
from layerserve_server.training.request import RunRequest
from layerserve_server.training.runs.folder import BASE

RUN_ID = re.compile(r"[0-9]{8}-[0-9]{4}-[0-9a-f]{8}")
OWNER_LOCK = "owner.lock"


class RunState(Enum):
    """State of a run, in the words of training.proto."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Phase(Enum):
    """What the server does for a run."""

    RECEIVING = "receiving data"
    WAITING = "waiting"
    TRAINING = "training"
    ENDED = "ended"


@dataclass(slots=True, eq=False)
class Run:
    """A run: its request, its events so far, and the process that trains."""

    id: str
    folder: Path
    request: RunRequest
    log: EventLog
    phase: Phase = Phase.RECEIVING
    #: When somebody asked to stop it, as `time.monotonic` counts; None for never.
    cancelled_at: float | None = None
    #: What it used more of than it may; empty where it didn't.
    overspent: str = ""
    _owner: TextIOWrapper | None = None
    process: TrainingProcess = field(init=False)

    def __post_init__(self) -> None:
        self.process = TrainingProcess(self.folder)

    @classmethod
    def read(cls, folder: Path) -> Run:
        """The run in a folder, with the events it has. Raises OSError, ValueError, KeyError or TypeError."""
        run = cls(folder.name, folder, RunRequest.read(folder), EventLog(folder))
        run.log.refresh()
        if run.log.ended:
            run.phase = Phase.ENDED
        return run

    def own(self) -> bool:
        """Makes this server the one that looks after the run; False where another one does."""
        # Not "w": that would empty the file, which names the other server, before the lock is tried.
        file = (self.folder / OWNER_LOCK).open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        file.truncate(0)
        file.write(f"host {socket.gethostname()}, process {os.getpid()}")
        file.flush()
        self._owner = file
        return True

    @property
    def owned(self) -> bool:
        """Whether this server looks after the run."""
        return self._owner is not None

    @property
    def owner(self) -> str:
        """Which server looks after the run, or did last, for a person to read."""
        try:
            return (self.folder / OWNER_LOCK).read_text() or "unknown"
        except OSError:
            return "unknown"

    def disown(self) -> None:
        """Looks after the run no more."""
        if self._owner is not None:
            self._owner.close()
            self._owner = None

    def goes_on(self) -> bool:
        """Whether a run that had ended is under way again: another server may have resumed it."""
        self.log.refresh()
        return not self.log.ended

    @property
    def state(self) -> RunState:
        """The state that its events tell."""
        last = self.log.last
        if isinstance(last, events.Finished):
            return RunState.FINISHED
        if isinstance(last, events.Failed):
            return RunState.FAILED
        if isinstance(last, events.Cancelled):
            return RunState.CANCELLED
        # A resumed run is queued again.
        for what in self.log.backwards():
            if isinstance(what, (events.Queued, events.Started)):
                return RunState.RUNNING if isinstance(what, events.Started) else RunState.QUEUED
        return RunState.QUEUED

    @property
    def resumable(self) -> bool:
        """Whether it was interrupted, and what it needs to go on is still there."""
        return isinstance(self.log.last, events.Failed) and self.log.last.resumable and (self.folder / BASE).is_dir()

    @property
    def resumed(self) -> int:
        """How often it was resumed."""
        return sum(isinstance(what, events.Resumed) for what in self.log.backwards())

    @property
    def futile(self) -> int:
        """How often in a row, up to now, it was resumed at the same place: each time it got no further."""
        places = [what for what in self.log.backwards() if isinstance(what, events.Resumed)]
        return next((count for count, place in enumerate(places) if place != places[0]), len(places))

    @property
    def seconds(self) -> float:
        """How long it has trained, in seconds, without the time between an interruption and the next start."""
        spent, began, last = 0.0, None, 0.0
        for event in self.log.copy():
            if isinstance(event.what, events.Started):
                began = last = event.time
            elif isinstance(event.what, (events.Step, events.Epoch)):
                last = event.time
            elif isinstance(event.what, (events.Queued, *LAST)) and began is not None:
                # What a killed process did after its last step or epoch is lost anyway, and its end may be noted
                # much later, by the next server.
                spent, began = spent + last - began, None
        return spent if began is None else spent + time.time() - began

    @property
    def created_time(self) -> float:
        """When it was accepted, in seconds since 1970."""
        return self.log.time_of(events.Accepted) or 0.0

    @property
    def place(self) -> tuple[int, int]:
        """Epoch and step that training was last seen in, from 1; 0 before the first, or between two epochs."""
        for what in self.log.backwards():
            if isinstance(what, (events.Step, events.Resumed)):
                return what.epoch, what.step
            if isinstance(what, events.Epoch):
                return min(what.epoch + 1, what.epochs), 0
            if isinstance(what, events.Started):
                return 1, 0
        return 0, 0

    @property
    def epochs_done(self) -> int:
        """Epochs that are done, and won't be done again."""
        for what in self.log.backwards():
            if isinstance(what, events.Epoch):
                return what.epoch
            if isinstance(what, (events.Step, events.Resumed)):
                return max(0, what.epoch - 1)
        return 0

    @property
    def logs(self) -> Logs:
        """The newest logs."""
        for what in self.log.backwards():
            if isinstance(what, (events.Step, events.Epoch, events.Finished)) and what.logs:
                return what.logs
        return {}


def new_id() -> str:
    """An id that sorts by time, that people can tell apart, and that nobody guesses."""
    return f"{time.strftime('%Y%m%d-%H%M', time.gmtime())}-{secrets.token_hex(4)}"
