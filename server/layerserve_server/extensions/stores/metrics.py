"""Metrics of a store of models, and of the copies of its versions; only a server with an address as PATH has them."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge

#: Label names by metric name, for the documentation.
LABELS: dict[str, tuple[str, ...]] = {
    "layerserve_store_versions_fetched": ("model",),
    "layerserve_store_fetched_bytes": ("model",),
    "layerserve_store_fetch_failures": ("model",),
}


class StoreMetrics:
    """Counts what a `remote.mirror.Mirror` does (see its MirrorObserver)."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            full = f"layerserve_store_{name}"
            return Counter(full, text, LABELS.get(full, ()), registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"layerserve_store_{name}", text, registry=registry)

        self._up = gauge("up", "1 if the store of models answered the last listing, 0 if it didn't.")
        self._listed = gauge("listed_timestamp_seconds", "Unix time of the last listing that the store answered.")
        self._list_failures = counter("list_failures", "Number of listings that the store didn't answer.")
        self._fetched = counter("versions_fetched", "Number of versions that were fetched from the store.")
        self._bytes = counter("fetched_bytes", "Size of these versions, in bytes.")
        self._failures = counter("fetch_failures", "Number of failed attempts to fetch a version.")
        self._cache = gauge("cache_bytes", "Size of the copies of versions, in bytes.")

    def store_listed(self, answered: bool) -> None:
        """Records a listing of the store: whether it answered."""
        self._up.set(int(answered))
        if answered:
            self._listed.set(time.time())
        else:
            self._list_failures.inc()

    def version_fetched(self, model: str, size: int, seconds: float) -> None:
        """Counts a version of `size` bytes that was fetched in `seconds`."""
        self._fetched.labels(model).inc()
        self._bytes.labels(model).inc(size)

    def fetch_failed(self, model: str) -> None:
        """Counts a failed attempt to fetch a version."""
        self._failures.labels(model).inc()

    def cache_changed(self, size: int) -> None:
        """Sets the size of the copies of versions, in bytes."""
        self._cache.set(size)
