"""Histograms that take many observations at once: prometheus_client's own cost a microsecond each."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class Distribution:
    """How often values fell into each bucket. Thread-safe."""

    __slots__ = ("_bounds", "_counts", "_lock", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are the upper ends of all buckets but the last, which is open."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._lock = threading.Lock()

    def observe(self, values: Iterable[float]) -> None:
        """Counts these values."""
        bounds, counts = self._bounds, self._counts
        with self._lock:
            for value in values:
                counts[bisect_left(bounds, value)] += 1
                self._sum += value

    def read(self) -> tuple[list[int], float]:
        """How many values there were up to each bound, then all; and their sum."""
        with self._lock:
            return list(accumulate(self._counts)), self._sum


class Distributions(Collector):
    """A Prometheus histogram: a distribution for each combination of labels."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name, self._text, self._labels = name, text, tuple(labels)
        self._bounds = tuple(bounds)
        self._shown = [*(str(float(bound)) for bound in bounds), "+Inf"]
        self._children: dict[tuple[str, ...], Distribution] = {}
        self._lock = threading.Lock()
        registry.register(self)

    def labels(self, *values: str) -> Distribution:
        """The distribution of these labels."""
        with self._lock:
            return self._children.setdefault(values, Distribution(self._bounds))

    def remove(self, *values: str) -> None:
        """Drops the distribution of these labels, if there is one."""
        with self._lock:
            self._children.pop(values, None)

    def describe(self) -> Iterator[Metric]:
        """What `collect` gives, without numbers: the registry refuses a name that is taken."""
        yield HistogramMetricFamily(self._name, self._text, labels=self._labels)

    def collect(self) -> Iterator[Metric]:
        """Called by the registry, when somebody looks."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        with self._lock:
            children = list(self._children.items())
        for labels, child in children:
            counts, total = child.read()
            family.add_metric(labels, list(zip(self._shown, map(float, counts), strict=True)), total)
        yield family
