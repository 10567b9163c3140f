"""The observer of requests. It finds at once that nothing watches those of a model, as is so for nearly all models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeAlias

from layerserve_server.inference.queue import Arrays
from layerserve_server.repository.catalogue import Catalogue
from layerserve_server.repository.leases import Choice
from layerserve_server.repository.record import ModelRecord
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.prediction.observer import Answered, Watch
from layerserve_server.services.prediction.predict_protocol import RequestedOutputs

#: Decides whether a request for this model, version or label is watched.
Choose: TypeAlias = Callable[[Choice], Watch | None]


class Watcher(Protocol):
    """Watches requests of some models."""

    def of_model(self, record: ModelRecord) -> Choose | None:
        """Returns what chooses among the requests of a model; None if none is watched. Called with the lock held."""


class Mirror:
    """Has requests watched. Implements `RequestObserver`. Thread-safe."""

    def __init__(self, catalogue: Catalogue, watchers: Sequence[Watcher]) -> None:
        self._catalogue = catalogue
        self._watchers = watchers
        #: By model. Found again after the repository has changed.
        self._known: dict[str, Sequence[Choose]] = {}
        catalogue.listeners.append(self._forget)

    def watch(self, choice: Choice) -> Watch | None:
        """See `RequestObserver`."""
        model = choice[0]
        known = self._known
        chosen_by = known[model] if model in known else self._find(model)
        if not chosen_by:
            return None
        watches = [watch for one in chosen_by if (watch := one(choice)) is not None]
        return partial(_all, watches) if watches else None

    def _find(self, model: str) -> Sequence[Choose]:
        known = self._known
        with self._catalogue.lock:
            record = self._catalogue.models.get(model)
            if record is None:
                return ()  # Not kept: callers choose names.
            found = [one for watcher in self._watchers if (one := watcher.of_model(record)) is not None]
            # Into the old ones if these were forgotten meanwhile.
            known[model] = found
            return found

    def _forget(self) -> None:
        self._known = {}


def _all(watches: Sequence[Watch], requested: RequestedOutputs, arrays: Arrays, id: str, owner: str) -> Answered | None:
    told = [answered for watch in watches if (answered := watch(requested, arrays, id, owner)) is not None]

    def tell(version: LoadedVersion, outputs: tuple[str, ...], results: Arrays | None) -> None:
        for answered in told:
            answered(version, outputs, results)

    return tell if told else None
