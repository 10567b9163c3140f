"""What an observer knows of each model, found again after the repository has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from layerserve_server.repository.catalogue import Catalogue
from layerserve_server.repository.record import ModelRecord

T = TypeVar("T")


class PerModel(Generic[T]):
    """A value for each model. Thread-safe, and quick for a model that hasn't changed."""

    def __init__(self, catalogue: Catalogue, find: Callable[[ModelRecord], T | None]) -> None:
        """`find` returns the value, with the catalogue's lock held."""
        self._catalogue = catalogue
        self._find = find
        self._known: dict[str, T | None] = {}
        catalogue.listeners.append(self._forget)

    def get(self, model: str) -> T | None:
        """Returns the value of a model; None if it has none, or there is no such model."""
        known = self._known
        if model in known:
            return known[model]
        with self._catalogue.lock:
            record = self._catalogue.models.get(model)
            if record is None:
                return None  # Not kept: callers choose names.
            # Into the old ones if these were forgotten meanwhile.
            found = known[model] = self._find(record)
            return found

    def _forget(self) -> None:
        self._known = {}
