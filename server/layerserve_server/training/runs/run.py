"""A run on the server: its request, events, process and owner, and the state derived from them."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from layerserve_server.folder_owner import FolderOwner
from layerserve_server.training import events
from layerserve_server.training.event_log import EventLog
from layerserve_server.training.events import LAST, Logs
from layerserve_server.training.process.run_process import MakeProcess, RunProcess
from layerserve_server.training.process.training_process import TrainingProcess
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.control import ControlFile, RunControl
from layerserve_server.training.run_folder.layout import BASE, CHECKPOINTS, RESULT, result_file
from layerserve_server.training.run_folder.result import RunResult
from layerserve_server.training.run_kind import RunKind, RunKinds, RunPublisher

RUN_ID = re.compile(r"[0-9]{8}-[0-9]{4}-[0-9a-f]{8}")


class RunState(Enum):
    """State of a run, as in training.proto."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"
    PAUSED = "paused"


class Phase(Enum):
    """Phase of a run on this server."""

    RECEIVING = "receiving data"
    WAITING = "waiting"
    TRAINING = "training"
    PAUSED = "paused"
    ENDED = "ended"


#: State of a run that hasn't ended, by its newest event of these kinds. A resumed run is queued again.
STATES: dict[type[events.What], RunState] = {
    events.Queued: RunState.QUEUED,
    events.Started: RunState.RUNNING,
    events.Paused: RunState.PAUSED,
}


@dataclass(slots=True, eq=False)
class Run:
    """A run: its request, its events so far, and its process."""

    id: str
    folder: Path
    request: RunRequest
    log: EventLog
    kind: RunKind
    phase: Phase = Phase.RECEIVING
    #: Time of the request to cancel it, on the clock of `time.monotonic`; None if there was none.
    cancelled_at: float | None = None
    #: Whether it is to go on although its process may have read that it is to pause.
    goes_on: bool = False
    #: Which limit of its budget it exceeded, as a text; empty if none.
    overspent: str = ""
    make_process: InitVar[MakeProcess] = TrainingProcess
    process: RunProcess = field(init=False)
    #: Publishes versions while the run goes on; None if its kind doesn't.
    publisher: RunPublisher | None = field(init=False)
    _ownership: FolderOwner = field(init=False)
    _control: ControlFile = field(init=False)

    def __post_init__(self, make_process: MakeProcess) -> None:
        # An interactive run's process is connected with this server.
        self.process = TrainingProcess(self.folder) if self.kind.interactive else make_process(self.folder)
        make_publisher = self.kind.publisher
        self.publisher = None if make_publisher is None else make_publisher(self.folder, self.request)
        self._ownership = FolderOwner(self.folder)
        self._control = ControlFile(self.folder)

    @classmethod
    def read(cls, folder: Path, kinds: RunKinds, make_process: MakeProcess = TrainingProcess) -> Run:
        """Reads a run from its folder. Raises OSError, ValueError, KeyError or TypeError if a file is invalid."""
        request = RunRequest.read(folder)
        run = cls(folder.name, folder, request, EventLog(folder), kinds[request.kind], make_process=make_process)
        run.log.refresh()
        if run.log.ended:
            run.phase = Phase.ENDED
        return run

    def own(self) -> bool:
        """Makes this server the run's owner. Returns False if another server owns it. Raises OSError."""
        return self._ownership.acquire()

    @property
    def owned(self) -> bool:
        """Whether this server owns the run."""
        return self._ownership.held

    @property
    def owner(self) -> str:
        """The server that owns the run, or owned it last: "host NAME, process ID", or "unknown"."""
        return self._ownership.name

    def disown(self) -> None:
        """Releases the ownership, if this server owns the run."""
        self._ownership.release()

    @property
    def control(self) -> RunControl:
        """What calls have set since the request."""
        return self._control.read()

    def set(self, **values: Any) -> None:
        """Sets values of `control`. Raises OSError."""
        self._control.set(**values)

    @property
    def priority(self) -> int:
        """Priority in the queue."""
        changed = self.control.priority
        return self.request.priority if changed is None else changed

    @property
    def description(self) -> str:
        """Description for people."""
        changed = self.control.description
        return self.request.description if changed is None else changed

    @property
    def metadata(self) -> Mapping[str, str]:
        """Keys and values for people and programs."""
        changed = self.control.metadata
        return (self.request.metadata or {}) if changed is None else changed

    @property
    def has_data(self) -> bool:
        """Whether all data has come: it was in the queue, or was paused when it would have come there."""
        return any(isinstance(what, (events.Queued, events.Paused)) for what in self.log.backwards())

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        try:
            return any(not path.name.startswith(".") for path in (self.folder / CHECKPOINTS).iterdir())
        except OSError:
            return False

    @property
    def publishable(self) -> bool:
        """Whether the run has ended with a trained model that is kept and wasn't published."""
        last = self.log.last
        if isinstance(last, events.Finished):
            may = not last.version and self.request.trains and self.kind.publisher is None
        else:
            may = isinstance(last, events.Failed) and not last.resumable
        if not may or not result_file(self.folder).is_file():
            return False
        result = RunResult.read(self.folder)
        return result is not None and result.kind == "trained"

    def is_active_again(self) -> bool:
        """Whether a run that had ended was resumed by another server. Reads new events."""
        self.log.refresh()
        return not self.log.ended

    @property
    def state(self) -> RunState:
        """State according to the events."""
        last = self.log.last
        if isinstance(last, events.Finished):
            return RunState.FINISHED
        if isinstance(last, events.Failed):
            return RunState.FAILED
        if isinstance(last, events.Cancelled):
            return RunState.CANCELLED
        for what in self.log.backwards():
            if (state := STATES.get(type(what))) is not None:
                return state
        return RunState.QUEUED

    @property
    def resumable(self) -> bool:
        """Whether the run was interrupted and the files to resume it still exist."""
        return isinstance(self.log.last, events.Failed) and self.log.last.resumable and (self.folder / BASE).is_dir()

    @property
    def awaited(self) -> bool:
        """Whether it is a part of other work, which hasn't read its result yet."""
        return bool(self.request.part_of) and (self.folder / RESULT).is_dir()

    @property
    def resumed(self) -> int:
        """Number of times that the run was resumed."""
        return sum(isinstance(what, events.Resumed) for what in self.log.backwards())

    @property
    def futile(self) -> int:
        """Number of latest resumes at the same position: without progress in between."""
        positions = [what for what in self.log.backwards() if isinstance(what, events.Resumed)]
        return next((count for count, position in enumerate(positions) if position != positions[0]), len(positions))

    @property
    def trains(self) -> bool:
        """Whether it has started, and hasn't ended or been interrupted since."""
        ends = (events.Queued, events.Paused, *LAST)
        found = (what for what in self.log.backwards() if isinstance(what, (events.Started, *ends)))
        return isinstance(next(found, None), events.Started)

    @property
    def seconds(self) -> float:
        """Training time in seconds, without the time between an interruption and the next start."""
        spent, since = 0.0, None
        for event in self.log.copy():
            if isinstance(event.what, events.Started):
                since = event.time
            elif isinstance(event.what, (events.Step, events.Epoch)) and since is not None:
                # Each interval by itself: a clock that is set back meanwhile takes away no more than that.
                spent, since = spent + max(0.0, event.time - since), event.time
            elif isinstance(event.what, (events.Queued, events.Paused, *LAST)):
                # Up to the last step or epoch: later work of a killed process is lost, and its end may be recorded much
                # later, by the next server.
                since = None
        return spent if since is None else spent + max(0.0, time.time() - since)

    @property
    def created_time(self) -> float:
        """Unix time at which the request was accepted, in seconds."""
        return self.log.time_of(events.Accepted) or 0.0

    @property
    def position(self) -> tuple[int, int]:
        """Latest known epoch and step, from 1; step 0 between epochs, (0, 0) before the start."""
        for what in self.log.backwards():
            if isinstance(what, (events.Step, events.Resumed, events.Paused)):
                return what.epoch, what.step
            if isinstance(what, events.Epoch):
                return min(what.epoch + 1, what.epochs), 0
            if isinstance(what, events.Started):
                return 1, 0
        return 0, 0

    @property
    def epochs_done(self) -> int:
        """Number of completed epochs, not counting those that a resumed run repeats."""
        for what in self.log.backwards():
            if isinstance(what, events.Epoch):
                return what.epoch
            if isinstance(what, (events.Step, events.Resumed)):
                return max(0, what.epoch - 1)
        return 0

    @property
    def best(self) -> tuple[str, float, int] | None:
        """Name and best value of the log that matters, with the epoch; None before the end of the first epoch.

        That is the monitored log if it is a loss or the request has its direction, else val_loss or loss.
        """
        monitor, mode = self.request.monitor or "", self.request.monitor_mode
        known = monitor if mode or monitor.endswith("loss") else ""
        for name in (known, "val_loss", "loss"):
            if name in self.log.extremes:
                low, high = self.log.extremes[name]
                return (name, *(high if mode == "max" and name == monitor else low))
        return None

    @property
    def published_version(self) -> int:
        """The version that the run published last; 0 if none."""
        finished = self.log.newest(events.Finished)
        if finished is not None and finished.version:
            return finished.version
        return self.publisher.version if self.publisher is not None else 0

    @property
    def logs(self) -> Logs:
        """Latest logs; empty if there are none."""
        for what in self.log.backwards():
            if isinstance(what, (events.Step, events.Epoch, events.Finished)) and what.logs:
                return what.logs
        return {}


def new_id() -> str:
    """Returns a new run id: the time in UTC, so that ids sort by time, and a random part that can't be guessed."""
    return f"{time.strftime('%Y%m%d-%H%M', time.gmtime())}-{secrets.token_hex(4)}"
