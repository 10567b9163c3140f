"""What happens in a run: events, kept in an append-only file, that any number of watchers read from anywhere."""

from __future__ import annotations

import bisect
import json
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeAlias, TypeVar

#: Bytes of the file whose steps and epochs stay in memory, for each run; what they take there is several times as much.
KEPT_BYTES = 256 << 10
#: Most events that are read or given at once.
KEPT_EVENTS = 500
#: Of every so many events the first one's place in the file is remembered.
MARKED_EVENTS = 500
#: Name of the file in the run's folder.
EVENTS = "events.jsonl"

Logs: TypeAlias = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request is valid."""

    model: str
    version: int
    data_bytes: int


@dataclass(frozen=True, slots=True)
class Queued:
    """All data has come; `ahead` runs come first."""

    ahead: int


@dataclass(frozen=True, slots=True)
class Started:
    """The training process works."""

    epochs: int
    steps_per_epoch: int
    rows: int


@dataclass(frozen=True, slots=True)
class Step:
    """Progress within an epoch; epoch and step count from 1."""

    epoch: int
    epochs: int
    step: int
    steps_per_epoch: int
    logs: Logs


@dataclass(frozen=True, slots=True)
class Epoch:
    """An epoch ended, after so many seconds."""

    epoch: int
    epochs: int
    logs: Logs
    seconds: float


@dataclass(frozen=True, slots=True)
class Log:
    """A line for people."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The run ended well. `version` is what it published; 0 is nothing, `withheld` says why not what was asked for."""

    version: int
    logs: Logs
    seconds: float
    withheld: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The run ended by an error. Epoch and step count from 1; 0 outside of one. A resumable one was interrupted."""

    reason: str
    epoch: int = 0
    step: int = 0
    resumable: bool = False


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The run was stopped on request, in this epoch from 1, or 0 before the first."""

    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Resumed:
    """The run goes on from its checkpoint: so many steps of this epoch (from 1) are done; 0 is the very beginning."""

    epoch: int = 0
    step: int = 0


What: TypeAlias = Accepted | Queued | Started | Step | Epoch | Log | Finished | Failed | Cancelled | Resumed
KINDS: dict[str, type[What]] = {
    kind.__name__.lower(): kind
    for kind in (Accepted, Queued, Started, Step, Epoch, Log, Finished, Failed, Cancelled, Resumed)
}
K = TypeVar("K")
#: With one of these a run has ended, unless it was resumed.
LAST = (Finished, Failed, Cancelled)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a run: number from 0, seconds since 1970, and what."""

    sequence: int
    time: float
    what: What

    def to_line(self) -> bytes:
        """The event as one line of the file."""
        kind = type(self.what).__name__.lower()
        line = {"sequence": self.sequence, "time": self.time, "kind": kind, **asdict(self.what)}
        return json.dumps(line).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Event:
        """Reads a line of the file. Raises ValueError, KeyError or TypeError for one that isn't an event."""
        values = json.loads(line)
        kind = KINDS[values.pop("kind")]
        return cls(values.pop("sequence"), values.pop("time"), kind(**values))


class EventWriter:
    """Appends events to a run's file. One writer at a time: the server, the child while it lives, the server again."""

    def __init__(self, folder: Path) -> None:
        """Goes on behind the last whole line; half a line of a killed writer is cut off."""
        path = folder / EVENTS
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        held = path.read_bytes()
        whole = held.rfind(b"\n") + 1
        os.ftruncate(self._file, whole)
        last = held[:whole].rstrip(b"\n").rpartition(b"\n")[2]
        self._next = Event.from_line(last).sequence + 1 if last else 0

    def write(self, what: What) -> None:
        """Appends an event."""
        os.write(self._file, Event(self._next, time.time(), what).to_line())
        self._next += 1

    def close(self) -> None:
        """Ends the writing."""
        os.close(self._file)


def append(folder: Path, what: What) -> None:
    """Appends one event to a run's file."""
    writer = EventWriter(folder)
    try:
        writer.write(what)
    finally:
        writer.close()


def _superseded(event: Event) -> Event:
    """What a last event becomes when the run is resumed: readers take a last event for the end."""
    reason = event.what.reason if isinstance(event.what, Failed) else type(event.what).__name__.lower()
    return Event(event.sequence, event.time, Log(f"interrupted: {reason}"))


@dataclass(slots=True, eq=False)
class EventLog:
    """A run's events in memory, as far as they have been read, for watchers to wait on.

    Of step events that follow one another only the newest is kept, as proto's TrainEvent promises. Of steps and epochs
    no more are kept than `KEPT_BYTES` of the file: how many there are, the caller says. Older ones are read again for
    those that ask for them.
    """

    folder: Path
    events: list[Event] = field(default_factory=list)
    _offset: int = 0
    #: Bytes of the file that each of `events` has, and all of them.
    _sizes: list[int] = field(default_factory=list)
    _held_bytes: int = 0
    #: Number of the newest event that was let go, and where in the file every so many events begin.
    _dropped: int = -1
    _places: list[tuple[int, int]] = field(default_factory=list)
    _watchers: list[Callable[[], None]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def read(cls, folder: Path) -> EventLog:
        """The events that a run has now."""
        log = cls(folder)
        log.refresh()
        return log

    @property
    def last(self) -> What | None:
        """What the newest event says; None before the first."""
        return self.events[-1].what if self.events else None

    @property
    def ended(self) -> bool:
        """Whether the last event has come."""
        return isinstance(self.last, LAST)

    def refresh(self) -> list[Event]:
        """Reads what has been appended since, gives the newest of it, and calls the watchers."""
        # A file that is read anew may be of any length.
        new: deque[Event] = deque(maxlen=KEPT_EVENTS)
        with self._lock:
            for event, offset, size in self._lines(self._offset):
                self._offset = offset + size
                if event.sequence % MARKED_EVENTS == 0:
                    self._places.append((event.sequence, offset))
                self._add(event, size)
                new.append(event)
        if new:
            self._call_watchers()
        return list(new)

    def _add(self, event: Event, size: int) -> None:
        if self.ended:
            self.events[-1] = _superseded(self.events[-1])
        if isinstance(event.what, Step) and isinstance(self.last, Step):
            self.events.pop()
            self._held_bytes -= self._sizes.pop()
        self.events.append(event)
        self._sizes.append(size)
        self._held_bytes += size
        if self._held_bytes > 2 * KEPT_BYTES:
            self._let_go()

    def _let_go(self) -> None:
        """Drops the oldest steps and epochs, but for the last ones before something else, which say when that was."""
        kept, sizes = [], []
        for place, (event, size) in enumerate(zip(self.events, self._sizes, strict=True)):
            pair = self.events[place : place + 2]
            passing = len(pair) == 2 and all(isinstance(one.what, (Step, Epoch)) for one in pair)
            if passing and self._held_bytes > KEPT_BYTES:
                self._held_bytes -= size
                self._dropped = event.sequence
            else:
                kept.append(event)
                sizes.append(size)
        self.events, self._sizes = kept, sizes

    def _call_watchers(self) -> None:
        with self._lock:
            watchers = tuple(self._watchers)
        for changed in watchers:
            changed()

    def _lines(self, offset: int) -> Iterator[tuple[Event, int, int]]:
        """The events in the file from an offset on, each with its offset and size; whole lines only."""
        try:
            with (self.folder / EVENTS).open("rb") as file:
                file.seek(offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        return
                    yield Event.from_line(line), offset, len(line)
                    offset += len(line)
        except OSError:
            return

    def since(self, sequence: int) -> list[Event]:
        """Events from this number on, as far as they have come; the first ones, where there are many."""
        with self._lock:
            if sequence <= self._dropped:
                return self._page(sequence)
            start = bisect.bisect_left(self.events, sequence, key=lambda event: event.sequence)
            return self.events[start:]

    def _page(self, sequence: int) -> list[Event]:
        """Some events from this number on, read from the file."""
        at = bisect.bisect_right(self._places, (max(0, sequence), sys.maxsize)) - 1
        found: list[Event] = []
        newest = self.events[-1].sequence
        for event, offset, _ in self._lines(self._places[at][1] if at >= 0 else 0):
            if offset >= self._offset or len(found) == KEPT_EVENTS:
                break
            if event.sequence >= sequence:
                ended = isinstance(event.what, LAST) and event.sequence < newest
                found.append(_superseded(event) if ended else event)
        return found

    @contextmanager
    def watched(self, changed: Callable[[], None]) -> Iterator[None]:
        """Calls back, in the thread that brings them, when there are new events."""
        with self._lock:
            self._watchers.append(changed)
        try:
            yield
        finally:
            with self._lock:
                self._watchers.remove(changed)

    def put(self, what: What) -> None:
        """Adds an event that could not be written to the file, so that watchers still learn of it."""
        with self._lock:
            sequence = self.events[-1].sequence + 1 if self.events else 0
            self._add(Event(sequence, time.time(), what), 0)
        self._call_watchers()

    def copy(self) -> list[Event]:
        """The events, from the first on."""
        with self._lock:
            return list(self.events)

    def backwards(self) -> list[What]:
        """What has happened, newest first."""
        with self._lock:
            return [event.what for event in reversed(self.events)]

    def newest(self, kind: type[K]) -> K | None:
        """What the newest event of a kind says; None where there is none."""
        return next((what for what in self.backwards() if isinstance(what, kind)), None)

    def time_of(self, *kinds: type[What]) -> float | None:
        """When the first event of these kinds happened, in seconds since 1970; None where there is none."""
        with self._lock:
            return next((event.time for event in self.events if isinstance(event.what, kinds)), None)
