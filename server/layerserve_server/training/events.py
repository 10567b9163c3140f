"""Events of a run, and the append-only file that they are written to. `event_log` reads it."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias, get_args

from layerserve_server.disk import json_object
from layerserve_server.records import Int32, Time, checked

#: Name of the file in the run's folder.
EVENTS = "events.jsonl"

Logs: TypeAlias = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request is valid. `data_bytes` is the size of the data to upload.

    `kept_back` is why the version that the run publishes won't be the default, as things are; else empty.
    """

    model: str
    version: int
    data_bytes: int
    kept_back: str = ""


@dataclass(frozen=True, slots=True)
class Queued:
    """The run waits in the queue; `ahead` runs are before it."""

    ahead: Int32


@dataclass(frozen=True, slots=True)
class Started:
    """The process has started to train or evaluate."""

    epochs: Int32
    steps_per_epoch: int
    rows: int


@dataclass(frozen=True, slots=True)
class Step:
    """Progress within an epoch; epoch and step count from 1."""

    epoch: Int32
    epochs: Int32
    step: int
    steps_per_epoch: int
    logs: Logs


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch ended. `epoch` counts from 1; it took `seconds`."""

    epoch: Int32
    epochs: Int32
    logs: Logs
    seconds: float


@dataclass(frozen=True, slots=True)
class Log:
    """A line of text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The run completed.

    `version` is the published version, 0 if none; `withheld` is the reason if publishing was requested and withheld,
    and `kept_back` why the published version isn't the default.
    """

    version: int
    logs: Logs
    seconds: float
    withheld: str = ""
    kept_back: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The run ended with an error, or was interrupted if `resumable`. Epoch and step count from 1; 0 outside of one."""

    reason: str
    epoch: Int32 = 0
    step: int = 0
    resumable: bool = False


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The run was cancelled in this epoch, counted from 1; 0 before the first."""

    epoch: Int32 = 0


@dataclass(frozen=True, slots=True)
class Paused:
    """The run was paused after `step` steps of `epoch` (from 1); epoch 0 is before the start of training.

    `reason` is why, if no call asked for it; else empty.
    """

    epoch: Int32 = 0
    step: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The run was resumed after `step` steps of `epoch` (from 1), its checkpoint; epoch 0 is the start of training."""

    epoch: Int32 = 0
    step: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint of `bytes` bytes is kept. `step` steps of `epoch` (from 1) are done; 0 after its end."""

    id: str
    epoch: Int32
    step: int
    bytes: int


What: TypeAlias = (
    Accepted | Queued | Started | Step | Epoch | Log | Finished | Failed | Cancelled | Resumed | Paused | Checkpoint
)
KINDS: dict[str, type[What]] = {kind.__name__.lower(): kind for kind in get_args(What)}
#: Events that end a run, unless it is resumed later.
LAST = (Finished, Failed, Cancelled)


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a run: sequence number from 0, Unix time in seconds, and content."""

    sequence: int
    time: Time
    what: What

    def to_line(self) -> bytes:
        """Returns the event as a line of the file."""
        kind = type(self.what).__name__.lower()
        line = {"sequence": self.sequence, "time": self.time, "kind": kind, **asdict(self.what)}
        return json.dumps(line).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Event:
        """Parses a line of the file. Raises ValueError, KeyError or TypeError if it isn't an event."""
        values = json_object(line)
        kind = KINDS[values.pop("kind")]
        return checked(cls(values.pop("sequence"), values.pop("time"), kind(**values)))


class EventWriter:
    """Appends events to a run's file. One writer at a time: the server, or the child process while it is alive."""

    def __init__(self, folder: Path) -> None:
        """Opens the file for appending. An incomplete last line, left by a killed writer, is removed.

        Raises DAMAGED if it can't be opened, or its last whole line isn't an event.
        """
        path = folder / EVENTS
        held = path.read_bytes() if path.exists() else b""
        whole = held.rfind(b"\n") + 1
        last = held[:whole].rstrip(b"\n").rpartition(b"\n")[2]
        self._next = Event.from_line(last).sequence + 1 if last else 0
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        os.ftruncate(self._file, whole)

    def write(self, what: What) -> None:
        """Appends an event. Raises OSError, and then a part of it may be in the file, which the next writer removes."""
        line = Event(self._next, time.time(), what).to_line()
        if os.write(self._file, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._next += 1

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)


def append(folder: Path, what: What) -> None:
    """Appends one event to a run's file. Raises OSError, and as EventWriter."""
    writer = EventWriter(folder)
    try:
        writer.write(what)
    finally:
        writer.close()
