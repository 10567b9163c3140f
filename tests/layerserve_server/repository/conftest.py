"""Repositories of fake models."""

import inspect

import pytest
from layerserve_server.inference.batching import BatchQueue
from layerserve_server.observability.metrics import Metrics
from layerserve_server.repository.repository import Repository


@pytest.fixture
def make(tmp_path, load_fake):
    """A repository of tmp_path/models that has looked once, unless told otherwise. `load` may take settings."""
    made = []

    def make_repository(path=None, load=load_fake, scan=True, **options):
        metrics = Metrics()
        takes_settings = len(inspect.signature(load).parameters) > 1

        def queue(name, version, run, settings):
            return BatchQueue(name, run, max_batch_rows=8, max_queue_rows=8, observer=metrics.batches(name, version))

        repository = Repository(
            path or tmp_path / "models",
            tmp_path / "published",
            load if takes_settings else lambda path, settings: load(path),
            queue,
            observer=metrics,
            **options,
        )
        made.append(repository)
        if scan:
            repository.scan()
        return repository

    yield make_repository
    for repository in made:
        repository.close()
