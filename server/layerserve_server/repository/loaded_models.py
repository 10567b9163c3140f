"""The versions of a server's models in memory: they are loaded aside, replaced, leased to requests, and unloaded."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Protocol

from layerserve_server.errors import BusyError, UnavailableError, VersionFailedError
from layerserve_server.repository import layout
from layerserve_server.repository.catalogue import Catalogue, replaced
from layerserve_server.repository.entry import Entry, State
from layerserve_server.repository.layout import FoundVersion
from layerserve_server.repository.loading import Loader, failure_text
from layerserve_server.repository.model_settings import ModelSettings
from layerserve_server.repository.origin import Origin
from layerserve_server.repository.record import ModelRecord
from layerserve_server.repository.version import Lease, LoadedVersion

logger = logging.getLogger(__name__)

#: Maximum number of requests that wait until an old version is loaded; more would occupy the threads of other requests.
MAX_WAITING_FOR_LOAD = 8


class RepositoryObserver(Protocol):
    """Receives events about loading, for metrics."""

    def version_loaded(self, model: str, version: int, seconds: float) -> None:
        """Called after a version was loaded, which took `seconds`."""

    def version_failed(self, model: str, version: int) -> None:
        """Called after a version failed to load."""

    def version_released(self, model: str, version: int) -> None:
        """Called after a version was freed."""

    def settings_invalid(self, model: str) -> None:
        """Called after a model's settings file was read that is invalid; once for each content."""


class LoadedModels(Catalogue):
    """The models of a catalogue in memory. Thread-safe.

    `lease` uses versions in memory; old versions are loaded on their first request. What a scan has recorded is brought
    up: what is missing is loaded, and only then made the default or the version of a label.
    """

    def __init__(
        self,
        loader: Loader,
        *,
        max_old_versions: int,
        observer: RepositoryObserver,
        ready: Callable[[LoadedVersion], None] | None,
        origin: Origin | None,
    ) -> None:
        """See `Repository`."""
        super().__init__()
        self._loader = loader
        self._max_old_versions = max_old_versions
        self._observer = observer
        self._ready = ready
        self._origin = origin
        #: Held during a scan of the disk and the loads that follow.
        self._scanning = threading.Lock()

    def lease(self, name: str, version: int | None = None, label: str | None = None) -> Lease:
        """Leases a version: the one with this number or label, or else the newest that is ready.

        Loads an old version on demand. Raises UnknownModelError, UnknownVersionError, UnknownLabelError,
        VersionFailedError, and UnavailableError or BusyError while the version is being loaded.
        """
        entry = self._entry(name, version, label)
        for _ in range(3):
            loaded = entry.loaded
            lease = loaded.lease() if loaded is not None else None
            if lease is not None:
                return lease
            # It was replaced or retired in between, or isn't loaded.
            entry = self._entry(name, version, label)
            if entry.loaded is None:
                self._load_on_demand(entry)
        raise UnavailableError(f"{entry.found.label} is being unloaded")

    def lease_loaded(self, name: str, version: int | None = None, label: str | None = None) -> Lease | None:
        """Like `lease`, but never blocks: returns None if the version would have to be loaded."""
        chosen = self._chosen
        loaded = chosen.get((name, version, label))
        lease = loaded.lease() if loaded is not None else None
        if lease is None:
            loaded = self._entry(name, version, label).loaded
            lease = loaded.lease() if loaded is not None else None
            if loaded is not None and lease is not None:
                # Into the old cache if it was replaced meanwhile, since the choice may have changed.
                chosen[name, version, label] = loaded
        return lease

    def ensure_loaded(self, name: str, version: int) -> None:
        """Loads a version unless it is loaded, or loads it again if its last try failed. It is kept as in `lease`.

        Raises UnknownModelError, UnknownVersionError, VersionFailedError, NotLoadedError if it may not be loaded, and
        as `Origin.fetch` does.
        """
        with self._lock:
            entry = self._known(name).entry(version, None, any_state=True)
        if entry.state is State.READY and not entry.barred:
            entry.on_demand = True
            return  # Without waiting for a scan, which may be loading another version.
        if not entry.barred:
            self._fetch(entry)
        with self._scanning:
            with self._lock:
                record = self._known(name)
                entry = record.entry(version, None, any_state=True)
                if entry.state is State.FAILED and not entry.found.problem:
                    entry.state = State.AVAILABLE
                entry.check_usable()
            if entry.loaded is None:
                self._load_entry(entry, record.in_force)
            with self._lock:
                entry.check_usable()
                entry.on_demand = True
                if entry.loaded is not None:
                    entry.loaded.last_used = time.monotonic()

    def test(self, found: FoundVersion, settings: ModelSettings) -> None:
        """Loads a version that isn't published, and drops it. Raises VersionFailedError if that fails."""

        def released(loaded: LoadedVersion) -> None:
            self._observer.version_released(loaded.name, loaded.version)

        try:
            loaded = self._loader.read(found, settings, released)
        except Exception as error:
            reason, expected = failure_text(error)
            if not expected:
                logger.exception("an uploaded version of model '%s' failed to load", found.name)
            raise VersionFailedError(f"model '{found.name}': the uploaded version can't be loaded: {reason}") from error
        loaded.retire()

    def _bring_up(self, name: str) -> None:
        """Loads the versions that the policy keeps loaded, and reloads loaded ones whose file or settings have changed.

        If one of them can't be loaded, 'latest' takes an older one.
        """
        with self._lock:
            record = self._models.get(name)
            if record is None:
                self.canaries, self.shadows = replaced(self.canaries, name, None), replaced(self.shadows, name, None)
                return
            settings, target = record.in_force, record.target
            entries = [(number, entry) for number in record.order() if not (entry := record.versions[number]).leaving]
            # Kept loaded, too: their requests would have to wait.
            named = {*record.file_labels.values(), *record.routed()}
        count = settings.latest_versions if settings.version_policy == "latest" else len(entries)
        kept: list[int] = []
        coming: list[int] = []
        for number, entry in entries:
            if entry.barred:
                continue
            if self._origin is not None and entry.found.absent:
                # Older ones that are here serve meanwhile, but none is fetched for that.
                wanted = settings.serves(number) and (number == target or len(kept) + len(coming) < count)
                if (wanted or number in named) and entry.state is State.AVAILABLE:
                    self._origin.want(name, number)
                    coming.append(number)
                continue
            changed = entry.loaded is not None and entry.changed(settings)
            # An older version isn't taken in place of the target: it wouldn't become the default.
            missing = target is not None and target not in kept
            wanted = settings.serves(number) and (number == target or len(kept) + missing < count)
            if changed or ((wanted or number in named) and entry.state is State.AVAILABLE):
                self._load_entry(entry, settings)
            if wanted and entry.state is State.READY:
                kept.append(number)
                entry.on_demand = False
        with self._lock:
            for number in [number for number, entry in record.versions.items() if entry.leaving]:
                self._unload(record.versions.pop(number))
            if not record.versions:
                self._models.pop(name, None)
            record.kept, record.coming = frozenset(kept), tuple(coming)
            if kept:
                record.bar(keep_loaded=False)
                for entry in record.versions.values():
                    if entry.barred:
                        self._unload(entry)
            self._move_labels(record, only_ready=True)
            record.last_default = record.default()
            self._choose_anew()
            self.canaries = replaced(self.canaries, name, record.canary())
            self.shadows = replaced(self.shadows, name, record.shadow())

    @staticmethod
    def _move_labels(record: ModelRecord, *, only_ready: bool) -> None:
        """Moves labels to the versions that the file names; with `only_ready`, not before these are loaded.

        A label also moves if the version to which it points can't answer.
        """
        before, record.labels = record.labels, {}
        for label, version in record.file_labels.items():
            old, new = record.versions.get(before.get(label, 0)), record.versions.get(version)
            waits = only_ready and new is not None and new.loaded is None and old is not None and old.loaded is not None
            record.labels[label] = before[label] if waits else version

    def _load_entry(self, entry: Entry, settings: ModelSettings) -> None:
        """Loads a version's file and replaces the loaded one. On failure keeps that and records the reason."""
        with entry.loading:
            found = entry.found
            if entry.loaded is not None and not entry.changed(settings):
                return
            began = time.monotonic()
            with self._lock:
                if entry.loaded is None:
                    entry.state, entry.reason = State.LOADING, ""
                    self._choose_anew()
            try:
                loaded = self._loader.read(found, settings, self._released)
            except Exception as error:
                self._note_failure(entry, found, settings, error)
                return
            with self._lock:
                previous, entry.loaded = entry.loaded, loaded
                entry.tried, entry.tried_with = found.fingerprint, settings
                entry.state, entry.reason, entry.retries, entry.retry_at = State.READY, "", 0, math.inf
                self._choose_anew()
                gone = self._find_entry(found.name, found.version) is not entry
        seconds = time.monotonic() - began
        self._observer.version_loaded(found.name, found.version, seconds)
        if previous is not None:
            previous.retire()
        if gone:
            loaded.retire()
            return
        logger.info("%s is ready", found.label, extra={"seconds": round(seconds, 3), "file": found.path.name})
        if self._ready is not None:
            self._ready(loaded)

    def _note_failure(self, entry: Entry, found: FoundVersion, settings: ModelSettings, error: Exception) -> None:
        reason, expected = failure_text(error)
        logger.error("%s failed to load: %s", found.label, reason, exc_info=None if expected else error)
        self._observer.version_failed(found.name, found.version)
        with self._lock:
            of_settings = entry.loaded is not None and entry.tried == found.fingerprint
            entry.tried, entry.tried_with = found.fingerprint, settings
            entry.retry_at = math.inf
            if entry.retries < settings.load_retries:
                entry.retry_at = time.monotonic() + settings.load_retry_seconds * 2**entry.retries
                entry.retries += 1
                reason += f" (to be tried again; {settings.load_retries - entry.retries + 1} tries are left)"
            self._choose_anew()
            if entry.loaded is None:
                entry.state, entry.reason = State.FAILED, reason
            else:
                what = (
                    "the model's settings have changed and it can't be loaded with them"
                    if of_settings
                    else ("its file has changed and can't be loaded")
                )
                entry.reason = f"{what}; the previous one stays in use: {reason}"

    def _load_on_demand(self, entry: Entry) -> None:
        """Loads an old version for a request, in the request's thread. Raises as `lease` does."""
        with self._lock:
            if entry.waiting >= MAX_WAITING_FOR_LOAD:
                raise BusyError(
                    f"{entry.found.label} is being loaded and {entry.waiting} calls are waiting for it", 0.5
                )
            entry.waiting += 1
        try:
            with self._lock:
                settings = self._known(entry.found.name).in_force
            self._fetch(entry)
            self._load_entry(entry, settings)
            with self._lock:
                entry.check_usable()
                entry.on_demand = True
        finally:
            with self._lock:
                entry.waiting -= 1
        self._unload_unused(entry)

    def _fetch(self, entry: Entry) -> None:
        """Waits until a version's files are in the folder. Raises as `Origin.fetch` does."""
        found = entry.found
        if self._origin is None or not found.absent:
            return
        self._origin.fetch(found.name, found.version)
        with self._lock:
            if entry.found.absent:
                entry.found = layout.find_version(found.name, found.version, found.path)

    def _unload_unused(self, keep: Entry | None = None) -> None:
        """Unloads versions that the policy doesn't keep, that have no label, and aren't among the last used others."""
        with self._lock:
            old: list[Entry] = []
            for record in self._models.values():
                stay = {
                    *record.kept,
                    record.default(),
                    *record.labels.values(),
                    *record.file_labels.values(),
                    *record.routed(),
                }
                old += [e for number, e in record.versions.items() if e.loaded is not None and number not in stay]
            on_demand = [entry for entry in old if entry.on_demand]
            on_demand.sort(
                key=lambda entry: (entry is keep, entry.loaded.last_used if entry.loaded else 0.0), reverse=True
            )
            kept = on_demand[: self._max_old_versions] if keep is None else on_demand[: max(1, self._max_old_versions)]
            for entry in old:
                if entry not in kept:
                    self._unload(entry)

    def _unload(self, entry: Entry) -> None:
        loaded, entry.loaded, entry.on_demand = entry.loaded, None, False
        entry.tried = layout.NOTHING
        self._choose_anew()
        if loaded is not None:
            entry.state = State.UNLOADING
            loaded.retire()

    def _released(self, loaded: LoadedVersion) -> None:
        """Called when the last lease of a retired version has ended."""
        logger.info("%s is unloaded", loaded.found.label)
        with self._lock:
            entry = self._find_entry(loaded.name, loaded.version)
            if entry is not None and entry.loaded is not None:
                return  # It was replaced by a changed file of the same version.
            if entry is not None and entry.state is State.UNLOADING:
                entry.state = State.AVAILABLE
        self._observer.version_released(loaded.name, loaded.version)
