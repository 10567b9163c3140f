"""What the extension adds: addresses of stores as PATH, and metrics of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerserve_server.extensions.extension import Extension, Source
from layerserve_server.extensions.stores.settings import StoreSettings
from layerserve_server.settings.settings import Settings

if TYPE_CHECKING:
    from layerserve_server.observability.families import Families
    from layerserve_server.observability.metrics import Metrics


def _source(settings: Settings, metrics: Metrics, fetches: bool) -> Source | None:
    own = StoreSettings.of(settings)
    if not own.address:
        return None
    # Imported here, since most servers have a folder.
    from layerserve_server.extensions.stores import source

    return source.fetching(own, metrics) if fetches else source.following(own)


def _metrics(families: Families) -> None:
    from layerserve_server.extensions.stores.metrics import StoreMetrics

    StoreMetrics(families)


STORES = Extension(name="stores", settings=StoreSettings, source=_source, metrics=_metrics)
