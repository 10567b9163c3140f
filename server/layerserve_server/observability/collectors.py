"""What is done when metrics are read: callbacks, gauges that are counted then, and metrics computed from others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class CollectHooks(Collector):
    """Callbacks that run before metrics are collected: the first collector of a registry, without metrics."""

    def __init__(self, registry: CollectorRegistry, last: Callable[[], None]) -> None:
        """`last` runs after all other callbacks."""
        self._hooks: list[Callable[[], None]] = []
        self._last = last
        registry.register(self)

    def add(self, hook: Callable[[], None]) -> None:
        """Adds a callback."""
        self._hooks.append(hook)

    def collect(self) -> Iterable[Metric]:
        """Runs the callbacks. Called by the registry."""
        for hook in self._hooks:
            hook()
        self._last()
        return ()


class CountsCollector(Collector):
    """A gauge whose values are counted when they are collected."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...],
        counts: Callable[[], Mapping[tuple[str, ...], int]],
    ) -> None:
        """`counts` returns the values by label values."""
        self._name, self._text, self._labels, self._counts = name, text, labels, counts

    def collect(self) -> Iterable[Metric]:
        """Counts the values. Called by the registry."""
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for labels, count in self._counts().items():
            family.add_metric(labels, count)
        yield family


class Extended(CollectorRegistry):
    """The metrics of a registry, and others that are computed from them."""

    def __init__(
        self, own: CollectorRegistry, more: Callable[[Sequence[Metric]], Iterable[Metric]], *, alone: bool = False
    ) -> None:
        """With `alone`, only the computed ones."""
        super().__init__()
        self._own, self._more, self._alone = own, more, alone

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics. Called when a page is read."""
        own = list(self._own.collect())
        if not self._alone:
            yield from own
        yield from self._more(own)
