"""Live numbers of versions: differences between the counts that the page has asked for."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from layerserve_server.extensions.drawings.charts import Chart, Series, chart
from layerserve_server.observability.totals import Counts

#: Minimum time between two samples of a version, in seconds: several readers share them.
INTERVAL_SECONDS = 1.0
#: Number of samples of a version, and of versions.
MAX_SAMPLES, MAX_VERSIONS = 90, 1024
#: Time that the numbers beside the charts are means over, in seconds.
RECENT_SECONDS = 10.0
#: Time without a reader after which a version's samples begin anew, in seconds.
FORGET_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Counts of a version since the server started, and when."""

    time: float
    counts: Counts


@dataclass(frozen=True, slots=True)
class Rates:
    """What a version did between two samples."""

    requests: float  # per second
    failed: float  # per second
    rows: float  # per second
    #: Means; 0 where there was nothing.
    batch: float  # rows
    latency: float  # seconds
    queued: float  # seconds
    computed: float  # seconds

    @classmethod
    def between(cls, first: Sample, last: Sample) -> Rates:
        """Divides the differences."""
        seconds = last.time - first.time

        def done(name: str) -> float:
            difference: float = getattr(last.counts, name) - getattr(first.counts, name)
            return difference

        def share(name: str, by: float) -> float:
            return done(name) / by if by > 0 else 0.0

        requests = done("answered")
        return cls(
            share("answered", seconds),
            share("failed", seconds),
            share("rows", seconds),
            share("rows", done("batches")),
            share("answered_seconds", requests),
            share("queue_seconds", requests),
            share("computed_seconds", requests),
        )


@dataclass(frozen=True, slots=True)
class Live:
    """A version's newest numbers and charts."""

    version: int
    #: Since the server started.
    requests: int
    failed: int
    #: None before there are two samples.
    rates: Rates | None
    charts: Sequence[Chart]


class History:
    """Samples of versions. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._samples: OrderedDict[tuple[str, int], deque[Sample]] = OrderedDict()

    def take(self, name: str, version: int, counts: Counts) -> Live:
        """Adds the counts of a version, and returns what they show."""
        kept, rates, now = self._add((name, version), counts)
        return Live(version, int(counts.answered), int(counts.failed), rates, _charts(kept, now))

    def rates(self, name: str, version: int, counts: Counts) -> Rates | None:
        """Adds the counts of a version, and returns its newest rates; None before there are two samples."""
        return self._add((name, version), counts)[1]

    def _add(self, key: tuple[str, int], counts: Counts) -> tuple[list[Sample], Rates | None, float]:
        now = self._clock()
        fresh = Sample(now, counts)
        with self._lock:
            samples = self._samples.setdefault(key, deque(maxlen=MAX_SAMPLES))
            self._samples.move_to_end(key)
            while len(self._samples) > MAX_VERSIONS:
                self._samples.popitem(last=False)
            # Counts fall where a process of the server began again.
            if samples and (now - samples[-1].time > FORGET_SECONDS or counts.answered < samples[-1].counts.answered):
                samples.clear()
            if not samples or now - samples[-1].time >= INTERVAL_SECONDS:
                samples.append(fresh)
            kept = list(samples)
        recent = [one for one in kept if now - one.time <= RECENT_SECONDS] or kept[-1:]
        return kept, Rates.between(recent[0], kept[-1]) if kept[-1].time > recent[0].time else None, now


def _charts(samples: Sequence[Sample], now: float) -> list[Chart]:
    pairs = list(pairwise(samples))
    found = [Rates.between(*pair) for pair in pairs]
    times = [last.time - now for _, last in pairs]

    def one(title: str, **lines: list[float]) -> Chart:
        series = [Series(name.replace("_", " "), times, values) for name, values in lines.items()]
        return chart(title, "second", series, from_zero=True)

    return [
        one("Requests per second", answered=[r.requests for r in found], failed=[r.failed for r in found]),
        one(
            "Mean latency, ms",
            whole=[r.latency * 1000 for r in found],
            in_queue=[r.queued * 1000 for r in found],
            computing=[r.computed * 1000 for r in found],
        ),
        one("Mean rows in a batch", rows=[r.batch for r in found]),
    ]
