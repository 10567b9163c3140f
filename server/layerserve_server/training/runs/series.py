"""The logs of a run as series of points, thinned out while they are read from its events on disk."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field

from layerserve_server.errors import InvalidRequestError
from layerserve_server.training.event_log import EventLog
from layerserve_server.training.events import Epoch, Logs, Resumed, Started, Step

#: Maximum number of values in a reply.
MAX_VALUES = 500_000
#: Number of events after which other threads get the processor.
YIELDED_EVENTS = 200


@dataclass(slots=True)
class Series:
    """The points of one log: positions, values, and times since the run's start in seconds.

    Holds fewer than twice `count` points: when there are more, every second one is dropped, and from then on only every
    second one of those that come is kept. The newest one is always kept.
    """

    count: int
    points: list[tuple[int, float, float]] = field(default_factory=list)
    #: The newest point, if it isn't one of `points`.
    _newest: tuple[int, float, float] | None = None
    _stride: int = 1
    _skipped: int = 0

    def add(self, position: int, value: float, seconds: float) -> None:
        """Adds a point behind the others."""
        self._newest = (position, value, seconds)
        self._skipped += 1
        if self.points and self._skipped < self._stride:
            return
        self.points.append(self._newest)
        self._newest, self._skipped = None, 0
        if len(self.points) >= 2 * self.count:
            # The newest one is among those that are dropped.
            self._newest, self._skipped = self.points[-1], self._stride
            self.points, self._stride = self.points[::2], 2 * self._stride

    def back_to(self, position: int) -> None:
        """Drops the points from a position on, which a resumed run repeats."""
        while self.points and self.points[-1][0] >= position:
            self.points.pop()
        if self._newest is not None and self._newest[0] >= position:
            self._newest = None

    def chosen(self) -> list[tuple[int, float, float]]:
        """Returns at most `count` points, at about equal distances, with the first and the newest one."""
        points = self.points if self._newest is None else [*self.points, self._newest]
        if len(points) <= self.count:
            return points
        last = len(points) - 1
        return [points[index * last // (self.count - 1)] for index in range(self.count)]


class SeriesReader:
    """Reads series of several runs, with at most MAX_VALUES points in total."""

    def __init__(self, names: Collection[str], count: int, *, by_step: bool) -> None:
        """`names` are those of the logs, all if it is empty; `count` is the maximum number of points of a series."""
        self._names = frozenset(names)
        self._count = count
        self._by_step = by_step
        self._values = 0

    def read(self, log: EventLog) -> dict[str, Series]:
        """Returns the series of a run by log, sorted by name. Raises InvalidRequestError for too many values."""
        found: dict[str, Series] = {}
        began, steps = 0.0, 0
        for number, event in enumerate(log.all()):
            if number % YIELDED_EVENTS == 0:
                time.sleep(0)
            what = event.what
            if isinstance(what, Started):
                began, steps = began or event.time, what.steps_per_epoch
            elif isinstance(what, Resumed):
                for series in found.values():
                    series.back_to(self._after(what, steps))
            elif isinstance(what, Step if self._by_step else Epoch):
                position = (what.epoch - 1) * steps + what.step if isinstance(what, Step) else what.epoch
                self._add(found, what.logs, position, event.time - began)
        self._values += sum(len(series.chosen()) for series in found.values())
        self._check(0)
        return dict(sorted(found.items()))

    def _after(self, resumed: Resumed, steps: int) -> int:
        """Returns the first position that a resumed run repeats."""
        if self._by_step:
            return max(0, resumed.epoch - 1) * steps + resumed.step + 1
        return max(1, resumed.epoch)

    def _add(self, found: dict[str, Series], logs: Logs, position: int, seconds: float) -> None:
        for name, value in logs.items():
            if self._names and name not in self._names:
                continue
            if name not in found:
                found[name] = Series(self._count)
                self._check(len(found))
            found[name].add(position, value, seconds)

    def _check(self, names: int) -> None:
        """Raises InvalidRequestError if the values so far, and those that some more logs may have, are too many."""
        if self._values + names > MAX_VALUES or names * self._count > 4 * MAX_VALUES:
            raise InvalidRequestError(
                f"series: got more than {MAX_VALUES} values, expected fewer runs, names or max_points"
            )
