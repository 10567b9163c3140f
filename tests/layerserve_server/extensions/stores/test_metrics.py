"""Metrics of a store."""

from __future__ import annotations

import time

import pytest
from layerserve_server.extensions.stores.metrics import StoreMetrics
from layerserve_server.observability.metrics import Metrics


def test_names_and_labels():
    made = Metrics()
    metrics = StoreMetrics(made.families)
    metrics.store_listed(True)
    metrics.store_listed(False)
    metrics.version_fetched("m", 5, 0.1)
    metrics.fetch_failed("m")
    metrics.cache_changed(7)
    samples = [one for family in made.registry.collect() for one in family.samples if "_store_" in one.name]
    found = {(one.name, *one.labels.items()): one.value for one in samples if not one.name.endswith("_created")}
    assert found.pop(("layerserve_store_listed_timestamp_seconds",)) == pytest.approx(time.time(), abs=60)
    assert found == {
        ("layerserve_store_up",): 0,
        ("layerserve_store_list_failures_total",): 1,
        ("layerserve_store_versions_fetched_total", ("model", "m")): 1,
        ("layerserve_store_fetched_bytes_total", ("model", "m")): 5,
        ("layerserve_store_fetch_failures_total", ("model", "m")): 1,
        ("layerserve_store_cache_bytes",): 7,
    }
