"""A store as the source of a server's versions."""

from __future__ import annotations

from layerserve.registries.mlflow_address import is_mlflow

from layerserve_server.extensions.extension import Source
from layerserve_server.extensions.object_stores.addresses import scheme_of
from layerserve_server.extensions.object_stores.process import ProcessStore
from layerserve_server.extensions.object_stores.store import FsspecStore
from layerserve_server.extensions.stores.cache import Cache
from layerserve_server.extensions.stores.metrics import StoreMetrics
from layerserve_server.extensions.stores.mirror import SETTLE_SECONDS, Mirror
from layerserve_server.extensions.stores.read_only_mirror import ReadOnlyMirror
from layerserve_server.extensions.stores.settings import StoreSettings
from layerserve_server.extensions.stores.store_writer import StoreWriter
from layerserve_server.observability.metrics import Metrics
from layerserve_server.settings.extras import missing_extras


def fetching(settings: StoreSettings, metrics: Metrics) -> Source:
    """Returns the source of the process that fetches versions and writes to the store.

    Raises ValueError if a package for the store is missing.
    """
    if missing := missing_extras(settings):
        raise ValueError("\n".join(missing))
    # `memory://` is the memory of this process.
    in_process = scheme_of(settings.address) == "memory"
    store = FsspecStore(settings.address) if in_process else ProcessStore(settings.address)
    cache = Cache(settings.mirror_folder)
    mirror = Mirror(
        settings.address,
        store,
        cache,
        StoreMetrics(metrics.families),
        poll_seconds=settings.remote_poll_seconds,
        settle_seconds=min(SETTLE_SECONDS, settings.remote_poll_seconds),
        max_bytes=settings.cache_bytes,
        lists_current=is_mlflow(settings.address),
    )
    return Source(
        origin=mirror,
        writer=StoreWriter(settings.address, store, cache, mirror),
        open=mirror.open,
        start=mirror.start,
        arriving=mirror.fetching,
        stop=mirror.stop,
    )


def following(settings: StoreSettings) -> Source:
    """Returns the source of a process that waits for what another one fetches."""
    return Source(origin=ReadOnlyMirror(Cache(settings.mirror_folder)))
