"""Repositories of fake models."""

import inspect

import pytest
from repositories import repository_of


@pytest.fixture
def make(tmp_path, load_fake):
    """A repository of tmp_path/models that has looked once, unless told otherwise. `load` may take settings."""
    made = []

    def make_repository(path=None, load=load_fake, scan=True, **options):
        takes_settings = len(inspect.signature(load).parameters) > 1
        repository = repository_of(
            path or tmp_path / "models",
            load if takes_settings else lambda path, settings: load(path),
            published=tmp_path / "published",
            **options,
        )
        made.append(repository)
        if scan:
            repository.scan()
        return repository

    yield make_repository
    for repository in made:
        repository.close()
