"""Metrics of a store of models, and of the copies of its versions; only a server with an address as PATH has them."""

from __future__ import annotations

import time

from layerserve_server.observability.families import Families


class StoreMetrics:
    """Counts what a `Mirror` does."""

    def __init__(self, families: Families) -> None:
        counter, gauge, model = families.counter, families.gauge, ("model",)
        self._up = gauge("store_up", "1 if the store of models answered the last listing, 0 if it didn't.")
        self._listed = gauge("store_listed_timestamp_seconds", "Unix time of the last listing that the store answered.")
        self._list_failures = counter("store_list_failures", "Number of listings that the store didn't answer.", ())
        self._fetched = counter("store_versions_fetched", "Number of versions that were fetched from the store.", model)
        self._bytes = counter("store_fetched_bytes", "Size of these versions, in bytes.", model)
        self._failures = counter("store_fetch_failures", "Number of failed attempts to fetch a version.", model)
        self._cache = gauge("store_cache_bytes", "Size of the copies of versions, in bytes.")

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
