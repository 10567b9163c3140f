"""Copies the runs in a folder to a sink, from their files, and keeps its place in each of them.

Nothing is queued: a sink that is slow or absent gets everything later, as long as the runs exist. A run that is removed
before it was copied is counted, and so is one that the sink refuses.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from layerserve_server.disk import replace_file
from layerserve_server.extensions.trackers.sink import Point, Sink
from layerserve_server.records import DAMAGED, checked, log_damaged, read_object
from layerserve_server.training import events
from layerserve_server.training.event_log import EventLog
from layerserve_server.training.events import Event
from layerserve_server.training.request import RunRequest
from layerserve_server.training.runs.run import RUN_ID, RunState

logger = logging.getLogger(__name__)

#: Maximum number of events that are read of a run before others have their turn.
TURN = 500
#: Number of failures of a run, while the sink takes others, after which it is left out, and its place then.
TRIES, LEFT_OUT = 5, 1 << 62


@dataclass(slots=True)
class Place:
    """The place in a run: its copy's id, the next event, and the steps of an epoch."""

    id: str = ""
    sequence: int = 0
    steps: int = 0
    ended: bool = False


class Follower:
    """Copies runs to one sink."""

    def __init__(self, runs: Path, sink: Sink, note: Path) -> None:
        """`note` is the file with the places, which outlives the process."""
        self._runs = runs
        self._sink = sink
        self._note = note
        self._places: dict[str, Place] = {}
        self._failures: dict[str, int] = {}
        #: Number of runs that were removed before they were copied, or that the sink refuses.
        self.lost = 0
        kept = read_object(note)
        lost, places = kept.get("lost"), kept.get("places")
        if type(lost) is int:
            self.lost = lost
        for name, place in places.items() if isinstance(places, dict) else ():
            try:
                self._places[name] = checked(Place(**place))
            except TypeError as error:
                log_damaged(note, error)

    def turn(self) -> bool:
        """Copies what is new, up to TURN events of each run. Returns whether there is more. Raises the sink's errors.

        What was copied before an error isn't copied again.
        """
        names = sorted(path.name for path in self._runs.glob("*") if RUN_ID.fullmatch(path.name))
        for name in set(self._places) - set(names):
            if not self._places.pop(name).ended:
                self.lost += 1
                logger.warning("a run was removed before it was copied to the sink", extra={"run": name})
        more, accepted = False, False
        failed: dict[str, Exception] = {}
        for name in names:
            try:
                found = self._copy(name)
            except Exception as error:  # clients of trackers raise many kinds of errors
                failed[name] = error
            else:
                more, accepted = more or found > 0, accepted or found >= 0
        for name in failed if accepted else ():
            self._give_up(name)
        self._write()
        if failed:
            raise next(iter(failed.values()))
        return more

    def _give_up(self, name: str) -> None:
        """Counts a failure of a run while others are copied; after TRIES of them the run is left out."""
        self._failures[name] = self._failures.get(name, 0) + 1
        if self._failures[name] < TRIES:
            return
        self.lost += 1
        logger.warning("the sink refuses a run, which isn't copied any more", extra={"run": name})
        self._places[name] = Place(id=self._places.get(name, Place()).id, sequence=LEFT_OUT, ended=True)

    def _copy(self, name: str) -> int:
        """Copies what is new of a run. Returns 1 if there is more, 0 if that was all, and -1 if there was nothing."""
        folder = self._runs / name
        place = self._places.get(name) or Place()
        log = EventLog(folder)
        new = _from(log, place.sequence)
        if not new:
            return -1
        try:
            request = RunRequest.read(folder)
        except DAMAGED:
            return -1  # it is being created
        if not place.id or place.ended:
            place.id = self._sink.begin(name, request, place.id)
            place.ended = False
            self._places[name] = place
        points = [point for event in new if (point := _point(event, place)) is not None]
        if points:
            self._sink.add(place.id, points)
        last = new[-1]
        # Up to the end: if the sink refuses that, the points aren't added again.
        place.sequence = last.sequence
        if isinstance(last.what, events.LAST):
            self._sink.end(place.id, *_outcome(last.what))
            place.ended = True
        place.sequence += 1
        return int(len(new) == TURN)

    def reopen(self) -> None:
        """Opens the copies of runs that haven't ended, after a start of the process."""
        for name, place in self._places.items():
            if place.id and not place.ended and (self._runs / name).is_dir():
                try:
                    request = RunRequest.read(self._runs / name)
                except DAMAGED as error:
                    log_damaged(self._runs / name, error)
                else:
                    self._sink.begin(name, request, place.id)

    def _write(self) -> None:
        places = {name: asdict(place) for name, place in self._places.items()}
        replace_file(self._note, json.dumps({"lost": self.lost, "places": places}))


def _from(log: EventLog, sequence: int) -> list[Event]:
    """Returns up to TURN events from a sequence number on."""
    found = []
    for event in log.all():
        if event.sequence >= sequence:
            found.append(event)
        if len(found) == TURN:
            break
    return found


def _point(event: Event, place: Place) -> Point | None:
    what = event.what
    if isinstance(what, events.Started):
        place.steps = what.steps_per_epoch
    elif isinstance(what, events.Epoch):
        return Point("epoch", what.epoch, event.time, what.logs)
    elif isinstance(what, events.Step):
        return Point("step", (what.epoch - 1) * place.steps + what.step, event.time, what.logs)
    elif isinstance(what, events.Finished) and what.logs:
        return Point("epoch", 1, event.time, what.logs) if not place.steps else None
    return None


def _outcome(what: events.What) -> tuple[RunState, dict[str, str]]:
    """Returns the state of a run that ended, and what its copy is tagged with."""
    if isinstance(what, events.Finished):
        tags = {f"layerserve.final.{name}": f"{value:.6g}" for name, value in what.logs.items()}
        version = {"layerserve.version": str(what.version)} if what.version else {}
        return RunState.FINISHED, {
            **tags,
            **version,
            **({"layerserve.withheld": what.withheld} if what.withheld else {}),
        }
    if isinstance(what, events.Failed):
        return RunState.FAILED, {"layerserve.reason": what.reason}
    return RunState.CANCELLED, {}
