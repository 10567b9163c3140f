"""What is known of a server's models: their versions with states, labels and settings, and the choice among them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from layergraph.errors import known_names

from layerserve_server.access.reserved import Restriction
from layerserve_server.errors import UnavailableError, UnknownModelError
from layerserve_server.repository.canary import Canary
from layerserve_server.repository.control import Control
from layerserve_server.repository.entry import Description, Entry
from layerserve_server.repository.model_settings import DEFAULTS, ModelSettings
from layerserve_server.repository.record import ModelRecord
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.repository.version_states import State

T = TypeVar("T")


class Catalogue:
    """The records of all models. Thread-safe: reads neither the disk nor waits.

    Other parts of the repository change the records, with `lock` held.
    """

    def __init__(self) -> None:
        self.models: dict[str, ModelRecord] = {}
        #: Cache of the versions chosen for requests; replaced after each change of the versions or labels.
        self.chosen: dict[tuple[str, int | None, str | None], LoadedVersion] = {}
        #: Canaries by model. Replaced, never changed. Their versions may have been unloaded a moment ago.
        self.canaries: Mapping[str, Canary] = {}
        #: What else routes requests to a model's versions (see `ModelRecord.routes`).
        self.routes: list[Callable[[ModelRecord], int | None]] = []
        #: Models that only some callers may use; also models that are gone. Replaced, never changed.
        self.restrictions: Mapping[str, Restriction] = {}
        #: Whether an error about an unknown model names others: not where a caller may not know of all models.
        self.suggests = True
        #: Whether the disk has been scanned: before, an unknown model may be there.
        self.scanned = False
        #: Called after each change of the versions, their states or labels. They must not block.
        self.listeners: list[Callable[[], None]] = []
        #: Protects the records of models and versions; held only briefly.
        self.lock = threading.RLock()

    def describe(self, name: str = "") -> list[Description]:
        """Describes all versions, or those of one model, by name, then newest first. Empty for an unknown model.

        Raises UnavailableError before the first scan.
        """
        self._check_scanned()
        with self.lock:
            return [
                record.description(record.versions[version])
                for model, record in sorted(self.models.items())
                if name in ("", model)
                for version in sorted(record.versions, reverse=True)
            ]

    def states(self) -> Mapping[tuple[str, ...], int]:
        """Returns the number of versions by model and state. Empty before the first scan."""
        return Counter((one.name, one.state.value) for one in self.describe()) if self.scanned else {}

    def versions(self) -> dict[str, list[int]]:
        """Returns the versions of each model."""
        with self.lock:
            return {name: sorted(record.versions) for name, record in self.models.items()}

    def in_force_without_files(self) -> dict[str, dict[str, Any]]:
        """Returns what is in force of models whose files are wrong (see `ModelRecord.in_force_as_json`)."""
        with self.lock:
            wrong = [record for record in self.models.values() if record.problem and not record.unknown]
            return {record.name: record.in_force_as_json() for record in wrong}

    def describe_one(self, name: str, version: int | None = None, label: str | None = None) -> Description:
        """Describes a version, chosen as in `lease` but in any state. Raises as `lease` does, without loading."""
        with self.lock:
            record = self.known(name)
            return record.description(record.entry(version, label, any_state=True))

    def settings(self, name: str) -> ModelSettings:
        """Returns the settings in force of a model; the defaults if there is no such model."""
        with self.lock:
            record = self.models.get(name)
            return record.in_force if record else DEFAULTS

    def file_settings(self, name: str) -> ModelSettings:
        """Returns the settings of a model's file, without what calls have set; the defaults if there are none."""
        with self.lock:
            record = self.models.get(name)
            return (record.settings if record else None) or DEFAULTS

    def control(self, name: str) -> Control:
        """Returns what calls have set for a model. Raises UnknownModelError."""
        with self.lock:
            return self.known(name).control

    def set_control(self, name: str, control: Control) -> None:
        """Records what calls have set for a model, before the next scan: a default that is loaded is it at once."""
        with self.lock:
            if (record := self.models.get(name)) is not None:
                record.control = control
                self.choose_anew()

    def labels(self, name: str) -> Mapping[str, int]:
        """Returns the versions of a model's labels, as they are on disk. Raises UnknownModelError."""
        with self.lock:
            return dict(self.known(name).file_labels)

    def serving(self, name: str) -> dict[str, Any]:
        """Returns what must be the same in all processes: which versions answer, and why others don't."""
        with self.lock:
            record = self.models.get(name)
            if record is None:
                return {"default": None, "labels": {}, "loaded": False, "canary": 0.0, "reasons": {}}
            reasons = {str(one.version): one.reason for one in self.describe(name) if one.reason}
            return {
                "default": record.default(),
                "labels": dict(record.labels),
                "loaded": record.loaded,
                "canary": record.canary_share,
                "reasons": reasons,
            }

    def kept_back(self, name: str, version: int = 0) -> str:
        """Returns why a version (0: the next one) isn't the default of a model; empty if it is, or may be."""
        with self.lock:
            record = self.models.get(name)
            target = None if record is None else record.target
            if record is None or target is None or target == version:
                return ""
            if target == record.control.pinned:
                return f"version {target} is pinned, and stays the default until it is unpinned"
            return f"version {target} stays the default, as the model's settings name it"

    def problems(self, name: str) -> Mapping[int, str]:
        """Returns why versions that are to serve don't, or not with their files and settings on disk, by version."""
        with self.lock:
            record = self.known(name)
            least = record.default() or 0
            numbers = [record.target] if record.target else [number for number in record.versions if number >= least]
            found = {number: record.versions[number] for number in numbers if number in record.versions}
            reasons = {
                number: "; ".join(filter(None, (entry.reason, record.problem)))
                for number, entry in found.items()
                if entry.state in (State.FAILED, State.READY)
            }
        return {number: reason for number, reason in reasons.items() if reason}

    def _check_scanned(self) -> None:
        if not self.scanned:
            raise UnavailableError("the server is starting and hasn't read its models yet; try again in a moment")

    def clear(self) -> list[LoadedVersion]:
        """Forgets all models. Returns their versions in memory."""
        with self.lock:
            loaded = [entry.loaded for entry in self.entries() if entry.loaded is not None]
            self.models = {}
            self.choose_anew()
        return loaded

    def choose_anew(self) -> None:
        """Drops the cache of chosen versions: the versions, their states or labels are being changed."""
        self.chosen = {}
        for changed in self.listeners:
            changed()

    def known(self, name: str) -> ModelRecord:
        """Returns the record of a model. Raises UnknownModelError, and UnavailableError before the first scan."""
        record = self.models.get(name)
        if record is None:
            self._check_scanned()
            if not self.models:
                raise UnknownModelError("the server has no models", name, "the server has no models")
            known = self.models.keys() - self.restrictions.keys() if self.suggests else ()
            hint = known_names(name, known) if known else ""
            raise UnknownModelError(f"unknown model {name[:80]!r}{'; ' if hint else ''}{hint}", name, hint)
        return record

    def entry(self, name: str, version: int | None, label: str | None) -> Entry:
        """Returns the version with this number or label, or else the default. Raises as `Leases.lease` does."""
        with self.lock:
            return self.known(name).entry(version, label)

    def find_entry(self, name: str, version: int) -> Entry | None:
        """Returns a version in any state; None if there is none of this number."""
        with self.lock:
            record = self.models.get(name)
            return None if record is None else record.versions.get(version)

    def entries(self) -> Iterable[Entry]:
        """Yields all versions."""
        return (entry for record in self.models.values() for entry in record.versions.values())


def replaced(values: Mapping[str, T], name: str, value: T | None) -> Mapping[str, T]:
    """Returns the values with another one of a name, or without it; the same object if that changes nothing."""
    if values.get(name) == value:
        return values
    others = {other: one for other, one in values.items() if other != name}
    return others if value is None else {**others, name: value}
