"""The events of a run in memory, read from its file: by any number of watchers, from any position."""

from __future__ import annotations

import bisect
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from layerserve_server.disk import replace_file
from layerserve_server.records import DAMAGED, log_damaged
from layerserve_server.training import events
from layerserve_server.training.events import (
    EVENTS,
    LAST,
    Checkpoint,
    Epoch,
    Event,
    Failed,
    Finished,
    Log,
    Step,
    What,
)
from layerserve_server.training.watchers import Watchers

#: Steps and epochs kept in memory per run, in bytes of the file; in memory they take several times as much.
KEPT_BYTES = 256 << 10
#: Maximum number of events that are read or returned at once.
PAGE_EVENTS = 500
#: One in this many events has its offset in the file indexed.
MARKED_EVENTS = 500
#: Maximum number of logs of which the lowest and highest values are kept.
MAX_EXTREMES = 100

K = TypeVar("K")


def _superseded(event: Event) -> Event:
    """Replaces a final event that others follow: readers would take it for the end of the run."""
    if isinstance(event.what, Finished) and not event.what.version:
        withheld = f": {event.what.withheld}" if event.what.withheld else ""
        return Event(event.sequence, event.time, Log(f"finished, nothing published{withheld}"))
    reason = event.what.reason if isinstance(event.what, Failed) else type(event.what).__name__.lower()
    return Event(event.sequence, event.time, Log(f"interrupted: {reason}"))


@dataclass(slots=True, eq=False)
class EventLog:
    """A run's events in memory, as far as they have been read from the file, with notification of watchers.

    Of consecutive step events only the newest is kept, as documented for TrainEvent in training.proto. Of steps and
    epochs, whose number the client determines, at most `KEPT_BYTES` of the file are kept; older ones are read from the
    file again on request.
    """

    folder: Path
    events: list[Event] = field(default_factory=list)
    _offset: int = 0
    #: Size in the file of each of `events`, and their sum, in bytes.
    _sizes: list[int] = field(default_factory=list)
    _held_bytes: int = 0
    #: Sequence number of the newest event dropped from memory, and (sequence, offset) of every MARKED_EVENTS-th event.
    _dropped: int = -1
    _marks: list[tuple[int, int]] = field(default_factory=list)
    #: Called after new events, in the thread that adds them.
    watchers: Watchers = field(default_factory=Watchers)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    #: By log, up to MAX_EXTREMES of them: the lowest and the highest value of an epoch, each with the epoch.
    extremes: dict[str, tuple[tuple[float, int], tuple[float, int]]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> EventLog:
        """Reads the current events of a run."""
        log = cls(folder)
        log.refresh()
        return log

    @property
    def last(self) -> What | None:
        """Content of the newest event; None if there are no events."""
        return self.events[-1].what if self.events else None

    @property
    def ended(self) -> bool:
        """Whether the newest event ends the run."""
        return isinstance(self.last, LAST)

    def refresh(self) -> list[Event]:
        """Reads events appended since the last call and notifies watchers. Returns the last PAGE_EVENTS of them."""
        # On the first call the file may have any length.
        new: deque[Event] = deque(maxlen=PAGE_EVENTS)
        with self._lock:
            for event, offset, size in self._lines(self._offset):
                self._offset = offset + size
                if event.sequence % MARKED_EVENTS == 0:
                    self._marks.append((event.sequence, offset))
                self._add(event, size)
                new.append(event)
        if new:
            self.watchers.call()
        return list(new)

    def _add(self, event: Event, size: int) -> None:
        if self.ended:
            self.events[-1] = _superseded(self.events[-1])
        if isinstance(event.what, Step) and isinstance(self.last, Step):
            self.events.pop()
            self._held_bytes -= self._sizes.pop()
        if isinstance(event.what, Epoch):
            self._note(event.what)
        self.events.append(event)
        self._sizes.append(size)
        self._held_bytes += size
        if self._held_bytes > 2 * KEPT_BYTES:
            self._trim()

    def _note(self, epoch: Epoch) -> None:
        """Notes the lowest and the highest values of an epoch's logs."""
        for name, value in epoch.logs.items():
            if math.isfinite(value) and (name in self.extremes or len(self.extremes) < MAX_EXTREMES):
                one = (value, epoch.epoch)
                low, high = self.extremes.get(name, (one, one))
                self.extremes[name] = (one if value < low[0] else low, one if value > high[0] else high)

    def _trim(self) -> None:
        """Drops the oldest steps, epochs and checkpoints.

        The last step or epoch before another kind of event is kept: it says where in the training that one happened.
        """
        kept, sizes = [], []
        for event, size, droppable in zip(self.events, self._sizes, self._droppable(), strict=True):
            if droppable and self._held_bytes > KEPT_BYTES:
                self._held_bytes -= size
                self._dropped = event.sequence
            else:
                kept.append(event)
                sizes.append(size)
        self.events, self._sizes = kept, sizes

    def _droppable(self) -> list[bool]:
        """Returns for each event whether it may be dropped: a step or epoch follows it, checkpoints aside."""
        droppable: list[bool] = []
        following: What | None = None
        for event in reversed(self.events):
            droppable.append(isinstance(event.what, (Step, Epoch, Checkpoint)) and isinstance(following, (Step, Epoch)))
            if not isinstance(event.what, Checkpoint):
                following = event.what
        return droppable[::-1]

    def _lines(self, offset: int) -> Iterator[tuple[Event, int, int]]:
        """Yields the events in the file from an offset on, with their offsets and sizes; complete lines only."""
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

    def _read_again(self, offset: int) -> Iterator[tuple[Event, int]]:
        """Yields events that were read before, with their offsets. If the file was damaged since, up to the damage."""
        try:
            for event, at, _ in self._lines(offset):
                yield event, at
        except DAMAGED as error:
            log_damaged(self.folder / EVENTS, error)

    def all(self) -> Iterator[Event]:
        """Yields all events in the file, oldest first, also those that aren't in memory."""
        for event, _ in self._read_again(0):
            yield event

    def since(self, sequence: int) -> list[Event]:
        """Returns the events from this sequence number on. May return only the first ones: call again for more.

        Without those that aren't in memory if the file was lost or damaged.
        """
        with self._lock:
            if sequence <= self._dropped and (page := self._page(sequence)):
                return page
            start = bisect.bisect_left(self.events, sequence, key=lambda event: event.sequence)
            return self.events[start:]

    def _page(self, sequence: int) -> list[Event]:
        """Reads up to PAGE_EVENTS events from this sequence number on from the file."""
        at = bisect.bisect_right(self._marks, (max(0, sequence), sys.maxsize)) - 1
        found: list[Event] = []
        newest = self.events[-1].sequence
        for event, offset in self._read_again(self._marks[at][1] if at >= 0 else 0):
            if offset >= self._offset or len(found) == PAGE_EVENTS:
                break
            if event.sequence >= sequence:
                ended = isinstance(event.what, LAST) and event.sequence < newest
                found.append(_superseded(event) if ended else event)
        return found

    def write(self, what: What) -> None:
        """Appends an event to the file and reads it. Raises OSError, and as EventWriter."""
        path = self.folder / EVENTS
        if (path.stat().st_size if path.exists() else 0) < self._offset:
            self._write_again()
        events.append(self.folder, what)
        self.refresh()

    def _write_again(self) -> None:
        """Writes the events in memory to a file that was lost or shortened, so that readers find them as before."""
        with self._lock:
            lines = [event.to_line() for event in self.events]
            replace_file(self.folder / EVENTS, b"".join(lines))
            self._sizes = [len(line) for line in lines]
            self._held_bytes = self._offset = sum(self._sizes)
            self._marks = []

    def put(self, what: What) -> None:
        """Adds an event that couldn't be written to the file, so that watchers still receive it."""
        with self._lock:
            sequence = self.events[-1].sequence + 1 if self.events else 0
            self._add(Event(sequence, time.time(), what), 0)
        self.watchers.call()

    def copy(self) -> list[Event]:
        """Returns a copy of the events in memory, oldest first."""
        with self._lock:
            return list(self.events)

    def backwards(self) -> list[What]:
        """Returns the contents of the events in memory, newest first."""
        with self._lock:
            return [event.what for event in reversed(self.events)]

    def newest(self, kind: type[K]) -> K | None:
        """Returns the content of the newest event of a kind; None if there is none."""
        return next((what for what in self.backwards() if isinstance(what, kind)), None)

    def time_of(self, *kinds: type[What]) -> float | None:
        """Returns the Unix time of the first event of these kinds, in seconds; None if there is none."""
        with self._lock:
            return next((event.time for event in self.events if isinstance(event.what, kinds)), None)
