"""The models of a server: their versions on disk and in memory, and the choice of the version for a request."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

from layergraph.errors import unknown_name

from layerserve_server.disk import sha256
from layerserve_server.errors import (
    BusyError,
    NotTrainableError,
    RefusedChangeError,
    UnavailableError,
    UnknownModelError,
    VersionFailedError,
)
from layerserve_server.repository import layout, publishing
from layerserve_server.repository.canary import Canary, Shadow
from layerserve_server.repository.control import Control, read_control
from layerserve_server.repository.entry import Description, Entry, State
from layerserve_server.repository.layout import Fingerprint, FoundVersion
from layerserve_server.repository.loading import Load, Loader, MakeQueue, failure_text
from layerserve_server.repository.model_settings import DEFAULTS, ModelSettings
from layerserve_server.repository.origin import Origin
from layerserve_server.repository.record import ModelRecord
from layerserve_server.repository.version import Lease, LoadedVersion
from layerserve_server.repository.writer import FolderWriter, Writer

logger = logging.getLogger(__name__)

T = TypeVar("T")

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


class Repository:
    """The models in a folder, or a single model file with the versions that training publishes of it. Thread-safe.

    Only `scan` and `publish` read the disk, one at a time. `lease` uses versions in memory; old versions are loaded on
    their first request. What is wanted of a model is on disk: its files, settings, labels, and what calls have set
    (`control`); a scan loads what is missing, and only then makes it the default or moves a label to it.
    """

    def __init__(
        self,
        path: Path,
        published: Path,
        load: Load,
        make_queue: MakeQueue,
        *,
        max_old_versions: int = 2,
        settle_seconds: float = 2.0,
        observer: RepositoryObserver,
        ready: Callable[[LoadedVersion], None] | None = None,
        digest: Callable[[Path], str] = sha256,
        queue_limits: Callable[[ModelSettings], tuple[int, int]] | None = None,
        loads: Callable[[str], bool] = lambda name: True,
        sample_share: Callable[[str, ModelSettings], float] = lambda name, settings: 0.0,
        origin: Origin | None = None,
        writer: Writer | None = None,
    ) -> None:
        """`published` is the folder for new versions of a single model file; those of a folder go to the folder itself.

        `ready` is called with each version after it was loaded; `digest` returns a file's SHA-256 digest.
        `queue_limits` returns the maximum rows of a batch and of a queue for the settings of a model, and `loads`
        whether a model is loaded that no call has loaded or unloaded. `origin` is where the folder's versions come from
        if they are copies, and `writer` writes there; by default it writes to the folder. Raises ValueError if `path`
        is a file whose name isn't that of a model.
        """
        self._path = path
        self._file_name = _name_of(path) if path.is_file() else None
        self._root = path if self._file_name is None else published
        self._loader = Loader(load, make_queue, digest)
        self._queue_limits = queue_limits
        self._sample_share = sample_share
        self._loads = loads
        self._origin = origin
        #: Writes to the repository. What it writes takes effect with the next scan.
        self.writer = writer or FolderWriter(self._root)
        self._max_old_versions = max_old_versions
        self._settle_seconds = settle_seconds
        self._observer = observer
        self._ready = ready
        self._models: dict[str, ModelRecord] = {}
        #: Settings of models at the first scan, until their files are right.
        self._settings: dict[str, ModelSettings] = {}
        #: Cache of the versions chosen for requests; replaced after each change of the versions or labels.
        self._chosen: dict[tuple[str, int | None, str | None], LoadedVersion] = {}
        #: Canaries and shadows by model. Replaced, never changed. Their versions may have been unloaded a moment ago.
        self.canaries: Mapping[str, Canary] = {}
        self.shadows: Mapping[str, Shadow] = {}
        #: Share of requests that are kept, by model. Replaced, never changed.
        self.sampled: Mapping[str, float] = {}
        self._sighted: dict[tuple[str, int], Fingerprint] = {}
        self._scanned = False
        self._disk_problem = ""
        #: Called after each change of the versions, their states or labels. Must not block.
        self.changed: Callable[[], None] = lambda: None
        #: Protects the records of models and versions; held only briefly.
        self._lock = threading.RLock()
        #: Held during a scan of the disk and the loads that follow.
        self._scanning = threading.Lock()

    # Requests.

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

    def describe(self, name: str = "") -> list[Description]:
        """Describes all versions, or those of one model, by name, then newest first. Empty for an unknown model.

        Raises UnavailableError before the first scan.
        """
        self._check_scanned()
        with self._lock:
            return [
                record.description(record.versions[version])
                for model, record in sorted(self._models.items())
                if name in ("", model)
                for version in sorted(record.versions, reverse=True)
            ]

    def states(self) -> Mapping[tuple[str, ...], int]:
        """Returns the number of versions by model and state. Empty before the first scan."""
        return Counter((one.name, one.state.value) for one in self.describe()) if self._scanned else {}

    def catalogue(self) -> dict[str, list[int]]:
        """Returns the versions of each model."""
        with self._lock:
            return {name: sorted(record.versions) for name, record in self._models.items()}

    def settings_without_file(self) -> dict[str, dict[str, Any]]:
        """Returns the settings in force of models whose files are wrong, as JSON values."""
        with self._lock:
            wrong = [record for record in self._models.values() if record.settings and record.settings_problem]
            return {one.name: one.in_force.model_dump(mode="json", exclude_unset=True) for one in wrong}

    def describe_one(self, name: str, version: int | None = None, label: str | None = None) -> Description:
        """Describes a version, chosen as in `lease` but in any state. Raises as `lease` does, without loading."""
        with self._lock:
            record = self._known(name)
            return record.description(record.entry(version, label, any_state=True))

    def make_present(self, name: str, version: int | None = None, label: str | None = None) -> Description:
        """Like `describe_one`, and waits until the version's files are here.

        Raises as `lease` and `Origin.fetch` do.
        """
        with self._lock:
            record = self._known(name)
            entry = record.entry(version, label, any_state=True)
        self._fetch(entry)
        with self._lock:
            return record.description(entry)

    # Disk.

    def open(
        self, catalogue: Mapping[str, Collection[int]] | None = None, settings: Mapping[str, ModelSettings] = {}
    ) -> None:
        """Scans the disk for the first time. Before, requests for unknown models fail with UnavailableError.

        `catalogue` has the versions of each model that may be found, by default all, and `settings` those that are in
        force of models whose files are wrong now. Raises OSError if the repository can't be read.
        """
        self._settings = dict(settings)
        self.scan("", catalogue)
        if not self._scanned:
            raise OSError(f"can't read the repository: {self._disk_problem}")

    def scan(self, only: str = "", catalogue: Mapping[str, Collection[int]] | None = None) -> None:
        """Scans the disk: loads new and changed versions that should be served, and unloads removed ones.

        With `only`, this happens for the model of this name alone. With a `catalogue`, other versions than those in it
        count as not there.
        """
        with self._scanning:
            found = self._find(only)
            if found is None:
                return
            if catalogue is not None:
                found = {key: one for key, one in found.items() if one.version in catalogue.get(one.name, ())}
            found_models: dict[str, dict[int, FoundVersion]] = {}
            for one in found.values():
                found_models.setdefault(one.name, {})[one.version] = one
            names = [only] if only else sorted({*found_models, *self._models})
            for name in names:
                self._update(name, found_models.get(name, {}))
            with self._lock:
                self._sighted |= {key: one.fingerprint for key, one in found.items()}
                if not only:
                    self._sighted = {key: one.fingerprint for key, one in found.items()}
                    self._scanned = True
            for name in names:
                self._bring_up(name)
            self._unload_unused()
            if self._origin is not None:
                with self._lock:
                    loaded = [one.found for one in self._entries() if one.loaded is not None]
                self._origin.note_use([(one.name, one.version) for one in loaded])

    def scan_all_of(self, name: str) -> None:
        """Scans a model, and waits until the versions that it is to have loaded are here. Raises as `Origin.fetch`.

        One that can't be fetched is shown as failed, and an older one may take its place.
        """
        self.scan(name)
        while coming := self._coming(name):
            for entry in coming:
                with suppress(VersionFailedError):
                    self._fetch(entry)
            self.scan(name)

    def _coming(self, name: str) -> list[Entry]:
        with self._lock:
            record = self._models.get(name)
            return [] if record is None else [record.versions[version] for version in record.coming]

    def retry(self) -> None:
        """Loads versions again that failed to load, where their settings say so and it is time."""
        with self._scanning:
            with self._lock:
                due = [entry for entry in self._entries() if entry.retry_at <= time.monotonic()]
                for entry in due:
                    if entry.state is State.FAILED:
                        entry.state, entry.reason = State.AVAILABLE, ""
            for name in sorted({entry.found.name for entry in due}):
                self._bring_up(name)

    def publish(self, name: str, file: Path, *, run: str, base_version: int, label: str = "") -> int:
        """Publishes a file as the next version of a model, loads it, then sets the label. Returns the version number.

        Raises NotTrainableError if the repository can't be written, VersionFailedError if the new version can't be
        loaded.
        """
        above = self.highest(name)
        facts = {"run": run, "base_version": base_version, "created": time.time()}
        try:
            version = self.writer.publish(name, file, facts, above=above)
        except OSError as error:
            raise NotTrainableError(f"the repository can't be written: {error.strerror}") from error
        self.scan(name)
        return self._published(name, version, label)

    def publish_once(self, name: str, file: Path, *, run: str, base_version: int, label: str = "") -> int:
        """Like `publish`, but doesn't repeat steps that the run completed before its server was killed."""
        version = self.version_of_run(name, run)
        if not version:
            return self.publish(name, file, run=run, base_version=base_version, label=label)
        return self._published(name, version, label)

    def _published(self, name: str, version: int, label: str) -> int:
        """Sets the label of a new version. If the version can't be loaded, the label keeps the working version.

        Raises as `publish` does.
        """
        entry = self._find_entry(name, version)
        if entry is not None and entry.state is State.AVAILABLE and not entry.barred:
            # It isn't one of those that stay loaded, such as the newest of a model that is pinned to another version.
            self._load_entry(entry, self._known(name).in_force)
        if entry is not None and entry.state is State.FAILED:
            raise VersionFailedError(f"published as version {version}, which can't be loaded: {entry.reason}")
        if label:
            try:
                self.writer.write_label(name, label, version)
            except OSError as error:
                raise NotTrainableError(f"the repository can't be written: {error.strerror}") from error
            self.scan(name)
        return version

    def version_of_run(self, name: str, run: str) -> int:
        """Returns the version of a model that a training run has published; 0 if there is none."""
        with self._lock:
            record = self._models.get(name)
            found = [entry.found for entry in record.versions.values() if entry.found.published] if record else []
        for one in found:
            if publishing.read_manifest(one.path.parent).get("run") == run:
                return one.version
        return 0

    def highest(self, name: str) -> int:
        """Returns the highest version number that a model has or had; 0 for none."""
        with self._lock:
            record = self._models.get(name)
            versions = tuple(record.versions) if record else ()
        return max((*versions, read_control(self._root / name).highest))

    def check_writable(self, name: str) -> None:
        """Raises NotTrainableError if no version of the model can be published."""
        try:
            self.writer.check_writable(name)
        except OSError as error:
            raise NotTrainableError(f"the repository can't be written: {error.strerror}") from error

    # For changes by calls (see management).

    @property
    def root(self) -> Path:
        """Folder of the models' folders."""
        return self._root

    def check_changeable(self, name: str) -> None:
        """Raises RefusedChangeError if a store can't be written."""
        if self._origin is not None:
            try:
                self.writer.check_writable(name)
            except OSError as error:
                raise RefusedChangeError(f"the repository can't be written: {error.strerror}") from error

    def folder(self, name: str) -> Path:
        """Returns the folder of a model, which needn't exist. Raises ValueError if no model can have this name."""
        if not publishing.valid_name(name):
            raise ValueError(f"no model can have the name {name!r}")
        return self._root / name

    def settings(self, name: str) -> ModelSettings:
        """Returns the settings in force of a model; the defaults if there is no such model."""
        with self._lock:
            record = self._models.get(name)
            return record.in_force if record else DEFAULTS

    def control(self, name: str) -> Control:
        """Returns what calls have set for a model. Raises UnknownModelError."""
        with self._lock:
            return self._known(name).control

    def labels(self, name: str) -> Mapping[str, int]:
        """Returns the versions of a model's labels, as they are on disk. Raises UnknownModelError."""
        with self._lock:
            return dict(self._known(name).file_labels)

    def serving(self, name: str) -> dict[str, Any]:
        """Returns what must be the same in all processes: which versions answer, and why others don't."""
        with self._lock:
            record = self._models.get(name)
            if record is None:
                return {"default": None, "labels": {}, "loaded": False, "reasons": {}}
            reasons = {str(one.version): one.reason for one in self.describe(name) if one.reason}
            return {
                "default": record.default(),
                "labels": dict(record.labels),
                "loaded": record.loaded,
                "canary": record.canary_share,
                "reasons": reasons,
            }

    def problems(self, name: str) -> Mapping[int, str]:
        """Returns why versions that are to serve don't, or not with their files and settings on disk, by version."""
        with self._lock:
            record = self._known(name)
            least = record.default() or 0
            numbers = [record.target] if record.target else [number for number in record.versions if number >= least]
            found = {number: record.versions[number] for number in numbers if number in record.versions}
            reasons = {
                number: "; ".join(filter(None, (entry.reason, record.settings_problem)))
                for number, entry in found.items()
                if entry.state in (State.FAILED, State.READY)
            }
        return {number: reason for number, reason in reasons.items() if reason}

    def ensure_loaded(self, name: str, version: int) -> None:
        """Loads a version unless it is loaded, or loads it again if its last try failed. It is kept as in `lease`.

        Raises UnknownModelError, UnknownVersionError, VersionFailedError, NotLoadedError if it may not be loaded, and
        as `Origin.fetch` does.
        """
        with self._lock:
            entry = self._known(name).entry(version, None, any_state=True)
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

    def take(self, name: str, version: int, label: str = "") -> None:
        """Loads a version that was published, and sets a label to it. Raises as `publish` does."""
        self.scan(name)
        self._published(name, version, label)

    def check_deletable(self, name: str) -> None:
        """Raises RefusedChangeError if the server was started with this model's file, which isn't in a repository."""
        if name == self._file_name:
            raise RefusedChangeError(f"model '{name}': the server was started with its file, so it can't be deleted")

    def sweep(self) -> None:
        """Removes temporary folders that killed publishers have left."""
        for path in publishing.sweep(self._root):
            logger.info("removed an incomplete version", extra={"folder": path.name})

    def close(self) -> None:
        """Retires every version."""
        with self._lock:
            loaded = [entry.loaded for entry in self._entries() if entry.loaded]
            self._models = {}
            self._choose_anew()
        for version in loaded:
            version.retire()

    def _check_scanned(self) -> None:
        if not self._scanned:
            raise UnavailableError("the server is starting and hasn't read its models yet; try again in a moment")

    # Choice of a version.

    def _choose_anew(self) -> None:
        """Drops the cache of chosen versions: the versions, their states or labels are being changed."""
        self._chosen = {}
        self.changed()

    def _known(self, name: str) -> ModelRecord:
        record = self._models.get(name)
        if record is None:
            self._check_scanned()
            raise UnknownModelError(
                unknown_name("model", name, self._models) if self._models else "the server has no models"
            )
        return record

    def _entry(self, name: str, version: int | None, label: str | None) -> Entry:
        with self._lock:
            return self._known(name).entry(version, label)

    def _find_entry(self, name: str, version: int) -> Entry | None:
        with self._lock:
            record = self._models.get(name)
            return None if record is None else record.versions.get(version)

    def _entries(self) -> Iterable[Entry]:
        return (entry for record in self._models.values() for entry in record.versions.values())

    # Versions on disk.

    def _find(self, only: str) -> dict[tuple[str, int], FoundVersion] | None:
        """Finds all versions on disk, or those of the model `only`.

        Returns None if the disk can't be read: loaded versions stay in use.
        """
        found: list[FoundVersion] = []
        # Before the folder, so that none is missing in both.
        absent = list(self._origin.absent()) if self._origin is not None else []
        try:
            if self._file_name is not None:
                found.append(layout.find_file(self._file_name, 1, self._path))
            if self._file_name is None or self._root.is_dir():
                found += layout.find_in_folder(self._root)
            found += absent
        except OSError as error:
            if str(error) != self._disk_problem:
                logger.error("can't read the repository; loaded versions stay in use: %s", error)
            self._disk_problem = str(error)
            return None
        self._disk_problem = ""
        return {(one.name, one.version): one for one in reversed(found) if only in ("", one.name)}

    def _update(self, name: str, found: Mapping[int, FoundVersion]) -> None:
        """Records what is on disk of a model: its versions, settings, labels and what calls have set."""
        folder = self._root / name
        labels, control = publishing.read_labels(folder), read_control(folder)
        with self._lock:
            record = self._models.get(name) or ModelRecord(name, settings=self._settings.get(name))
        file = next((one.path for one in found.values() if one.path.parent.parent != folder), None)
        invalid = record.read_settings(folder, file)
        with self._lock:
            self._models[name] = record
            for one in found.values():
                self._update_version(record, one)
            for version in [version for version in record.versions if version not in found]:
                if record.versions[version].loaded is None:
                    del record.versions[version]
                else:
                    record.versions[version].leaving = True
            record.control, record.file_labels = control, labels
            record.loaded = self._loads(name) if control.loaded is None else control.loaded
            record.bar(keep_loaded=True)
            for entry in record.versions.values():
                if entry.barred:
                    self._unload(entry)
                elif record.settings is None and entry.loaded is None:
                    entry.state, entry.reason, entry.tried = State.FAILED, record.settings_problem, layout.NOTHING
                elif entry.loaded is not None and self._queue_limits is not None:
                    entry.loaded.queue.set_limits(*self._queue_limits(record.in_force))
            self.sampled = _with(self.sampled, name, self._sample_share(name, record.in_force) or None)
            self._move_labels(record, only_ready=self._scanned)
            if not record.versions:
                del self._models[name]
            self._choose_anew()
        if invalid:
            logger.error("settings of model '%s' are invalid: %s", name, record.settings_problem)
            self._observer.settings_invalid(name)

    def _update_version(self, record: ModelRecord, one: FoundVersion) -> None:
        entry = record.versions.get(one.version)
        if one.absent and entry is not None and (entry.loaded is not None or _is_here(entry.found)):
            return  # Its copy was removed, is being replaced, or was fetched a moment ago.
        if entry is None:
            state, reason = (State.FAILED, one.problem) if one.problem else (State.LOADING, "")
            entry = record.versions[one.version] = Entry(one, state, reason)
        entry.leaving = False
        if one.problem:
            self._refuse(entry, one)
            return
        if entry.tried != one.fingerprint:
            if not self._settled(one):
                return
            entry.found, entry.retries = one, 0
        elif not entry.changed(record.in_force):
            return
        if entry.state in (State.FAILED, State.LOADING) and not entry.loading.locked():
            entry.state, entry.reason = State.AVAILABLE, ""

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

    def _refuse(self, entry: Entry, one: FoundVersion) -> None:
        """Records a problem of a version's file. A loaded version stays in use."""
        entry.reason = one.problem
        if entry.loaded is None:
            entry.found, entry.state = one, State.FAILED

    def _settled(self, one: FoundVersion) -> bool:
        """Whether a file is complete: published by a rename, or unchanged for `settle_seconds` or between two scans.

        At the first scan all files count as complete, so that startup doesn't wait. A file that was incomplete is
        loaded again when it changes.
        """
        old = time.time() - one.modified > self._settle_seconds
        return (
            not self._scanned or one.published or old or self._sighted.get((one.name, one.version)) == one.fingerprint
        )

    # Versions in memory.

    def _bring_up(self, name: str) -> None:
        """Loads the versions that the policy keeps loaded, and reloads loaded ones whose file or settings have changed.

        If one of them can't be loaded, 'latest' takes an older one.
        """
        with self._lock:
            record = self._models.get(name)
            if record is None:
                self.canaries, self.shadows = _with(self.canaries, name, None), _with(self.shadows, name, None)
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
            self.canaries = _with(self.canaries, name, record.canary())
            self.shadows = _with(self.shadows, name, record.shadow())

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


def _with(values: Mapping[str, T], name: str, value: T | None) -> Mapping[str, T]:
    """Returns the values with another one of a name, or without it."""
    others = {other: one for other, one in values.items() if other != name}
    return others if value is None else {**others, name: value}


def _is_here(found: FoundVersion) -> bool:
    return not found.absent and found.path.exists()


def _name_of(path: Path) -> str:
    if path.suffix not in layout.SUFFIXES:
        raise ValueError(f"{path.name} isn't a model file: expected suffix {', '.join(sorted(layout.SUFFIXES))}")
    if not publishing.valid_name(path.stem):
        raise ValueError(
            f"{path.name}: expected a model name of letters, digits, '.', '_' and '-', beginning with a letter or digit"
        )
    return path.stem
