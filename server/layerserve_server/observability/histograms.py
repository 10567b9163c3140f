"""Histograms with bulk observation: prometheus_client's own take a microsecond per value."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import Exemplar, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class Histogram:
    """Counts of values per bucket, and their sum; by bucket, the trace of a value, if there is one. Thread-safe."""

    __slots__ = ("_bucket", "_counts", "_exemplars", "_lock", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are the inclusive upper bounds of all buckets but the last, which is unbounded."""
        self._bucket = partial(bisect_left, bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._exemplars: dict[int, Exemplar] = {}
        self._lock = threading.Lock()

    def observe(self, values: Sequence[float]) -> None:
        """Adds values."""
        # The values of a batch are counted in C: most fall into one bucket.
        counts = Counter(map(self._bucket, values))
        total = sum(values)
        with self._lock:
            for bucket, count in counts.items():
                self._counts[bucket] += count
            self._sum += total

    def exemplify(self, value: float, trace_id: str) -> None:
        """Makes an observed value the exemplar of its bucket: one whose trace shows where the time went."""
        with self._lock:
            self._exemplars[self._bucket(value)] = Exemplar({"trace_id": trace_id}, value, round(time.time(), 3))

    def exemplars(self) -> dict[int, Exemplar]:
        """Returns the newest exemplars, by the index of the bucket."""
        with self._lock:
            return dict(self._exemplars)

    def read(self) -> tuple[list[int], float]:
        """Returns the cumulative counts, one per bucket, and the sum of all values."""
        with self._lock:
            return list(accumulate(self._counts)), self._sum


class HistogramFamily(Collector):
    """A Prometheus histogram metric: one `Histogram` per combination of label values."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name, self._text, self._labels = name, text, tuple(labels)
        self._bounds = tuple(bounds)
        self._shown = [*(str(float(bound)) for bound in bounds), "+Inf"]
        self._children: dict[tuple[str, ...], Histogram] = {}
        self._lock = threading.Lock()
        registry.register(self)

    def labels(self, *values: str) -> Histogram:
        """Returns the histogram of these label values, and makes it if there is none."""
        with self._lock:
            return self._children.setdefault(values, Histogram(self._bounds))

    def remove_by_labels(self, labels: Mapping[str, str]) -> None:
        """Drops the histograms with these values of some labels, as prometheus_client's own metrics do."""
        wanted = [(self._labels.index(name), value) for name, value in labels.items()]
        with self._lock:
            for values in [one for one in self._children if all(one[place] == value for place, value in wanted)]:
                del self._children[values]

    def describe(self) -> Iterator[Metric]:
        """Yields the metric without samples, so that the registry can refuse a duplicate name."""
        yield HistogramMetricFamily(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterator[Metric]:
        """Yields the metric with its samples. Called by the registry."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        with self._lock:
            children = list(self._children.items())
        for labels, child in children:
            counts, total = child.read()
            exemplars = child.exemplars()
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = [
                (bound, float(count), exemplars[index]) if index in exemplars else (bound, float(count))
                for index, (bound, count) in enumerate(zip(self._shown, counts, strict=True))
            ]
            family.add_metric(labels, buckets, total)
        yield family
