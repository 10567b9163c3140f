"""Repositories of small models, with the options of all parts in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from layerserve_server.disk import sha256
from layerserve_server.inference.batching import BatchQueue
from layerserve_server.observability.metrics import Metrics
from layerserve_server.repository.folder import RepositoryFolder
from layerserve_server.repository.remembered_callers import RememberedCallers
from layerserve_server.repository.repository import Repository, RepositoryOptions
from layerserve_server.repository.version_reader import VersionReader

#: Names of the options that are of the server's settings.
OF_SETTINGS = frozenset(field.name for field in fields(RepositoryOptions))


def repository_of(
    path: Path,
    load: Callable[..., Any],
    *,
    published: Path | None = None,
    metrics: Metrics | None = None,
    queue: Callable[..., Any] | None = None,
    digest: Callable[[Path], str] = sha256,
    open_kept: Callable[..., Any] = lambda found, digest, settings: None,
    **options: Any,
) -> Repository:
    """A repository that hasn't looked yet. `load` takes a path and settings; batches have up to 8 rows."""
    metrics = metrics or Metrics()
    published = published or path / "published"

    def make_queue(name: str, version: int, run: Any, settings: Any) -> BatchQueue:
        return BatchQueue(name, run, max_batch_rows=8, max_queue_rows=8, observer=metrics.batches(name, version))

    of_folder = {name: options.pop(name) for name in ("source", "settle_seconds") if name in options}
    of_settings = {name: options.pop(name) for name in OF_SETTINGS & options.keys()}
    return Repository(
        RepositoryFolder(path, published, **of_folder),
        VersionReader(load, queue or make_queue, digest, open_kept=open_kept),
        metrics,
        RepositoryOptions(**of_settings),
        remembered=options.pop("remembered", None) or RememberedCallers(published.with_name("callers"), writes=True),
        **options,
    )
