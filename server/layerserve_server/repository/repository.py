"""The models of a server: their versions on disk and in memory, and the choice of the version for a request."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from layergraph.errors import LayerGraphError, unknown_name
from layerserve.tensors import NUMPY_DTYPES

from layerserve_server.disk import sha256
from layerserve_server.errors import (
    BusyError,
    NotTrainableError,
    UnavailableError,
    UnknownLabelError,
    UnknownModelError,
    UnknownVersionError,
    VersionFailedError,
    safe_text,
)
from layerserve_server.inference.batching import BatchQueue
from layerserve_server.inference.runner import LoadModel, ModelRunner
from layerserve_server.repository import layout, publishing
from layerserve_server.repository.entry import Description, Entry, State
from layerserve_server.repository.layout import Fingerprint, FoundVersion
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


class Repository:
    """The models in a folder, or a single model file with the versions that training publishes of it. Thread-safe.

    Only `scan` and `publish` read the disk, one at a time. `lease` uses versions in memory; old versions are loaded on
    their first request.
    """

    def __init__(
        self,
        path: Path,
        published: Path,
        load: LoadModel,
        make_queue: Callable[[str, int, ModelRunner], BatchQueue],
        *,
        max_old_versions: int = 2,
        settle_seconds: float = 2.0,
        observer: RepositoryObserver,
        ready: Callable[[LoadedVersion], None] | None = None,
        digest: Callable[[Path], str] = sha256,
    ) -> None:
        """`published` is the folder for new versions of a single model file; those of a folder go to the folder itself.

        `ready` is called with each version after it was loaded; `digest` returns a file's SHA-256 digest. Raises
        ValueError if `path` is a file whose name isn't that of a model.
        """
        self._path = path
        self._file_name = _name_of(path) if path.is_file() else None
        self._root = path if self._file_name is None else published
        self._load = load
        self._make_queue = make_queue
        self._max_old_versions = max_old_versions
        self._settle_seconds = settle_seconds
        self._observer = observer
        self._ready = ready
        self._digest = digest
        self._models: dict[str, dict[int, Entry]] = {}
        self._labels: dict[str, dict[str, int]] = {}
        #: Cache of the versions chosen for requests; replaced after each change of the versions or labels.
        self._chosen: dict[tuple[str, int | None, str | None], LoadedVersion] = {}
        self._sighted: dict[tuple[str, int], Fingerprint] = {}
        self._scanned = False
        self._disk_problem = ""
        #: Called after each change of the versions, their states or labels. Must not block.
        self.changed: Callable[[], None] = lambda: None
        #: Protects models, labels and the fields of entries; held only briefly.
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
                self._description(entries[version], entries)
                for model, entries in sorted(self._models.items())
                if name in ("", model)
                for version in sorted(entries, reverse=True)
            ]

    def describe_one(self, name: str, version: int | None = None, label: str | None = None) -> Description:
        """Describes a version, chosen as in `lease` but in any state. Raises as `lease` does, without loading."""
        with self._lock:
            entry = self._entry(name, version, label, any_state=True)
            return self._description(entry, self._models[name])

    # Disk.

    def open(self) -> None:
        """Scans the disk for the first time. Before, requests for unknown models fail with UnavailableError.

        Raises OSError if the repository can't be read.
        """
        self.scan()
        if not self._scanned:
            raise OSError(f"can't read the repository: {self._disk_problem}")

    def scan(self) -> None:
        """Scans the disk: loads new and changed versions that should be served, and unloads removed ones."""
        with self._scanning:
            found = self._find()
            if found is None:
                return
            with self._lock:
                self._update(found)
                names = list(self._models)
                self._scanned = True
            for name in names:
                self._bring_up(name)
            self._unload_unused()

    def publish(self, name: str, file: Path, *, run: str, base_version: int, label: str = "") -> int:
        """Publishes a file as the next version of a model, loads it, then sets the label. Returns the version number.

        Raises NotTrainableError if the repository can't be written, VersionFailedError if the new version can't be
        loaded.
        """
        with self._lock:
            above = max(self._models.get(name, {}), default=0)
        facts = {"run": run, "base_version": base_version, "created": time.time()}
        try:
            version = publishing.publish(self._root, name, file, facts, above=above)
        except OSError as error:
            raise NotTrainableError(f"the repository can't be written: {error.strerror}") from error
        self.scan()
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
        with self._lock:
            entry = self._models.get(name, {}).get(version)
        if entry is not None and entry.state is State.FAILED:
            raise VersionFailedError(f"published as version {version}, which can't be loaded: {entry.reason}")
        if label:
            try:
                publishing.write_label(self._root / name, label, version)
            except OSError as error:
                raise NotTrainableError(f"the repository can't be written: {error.strerror}") from error
            self.scan()
        return version

    def version_of_run(self, name: str, run: str) -> int:
        """Returns the version of a model that a training run has published; 0 if there is none."""
        with self._lock:
            found = [entry.found for entry in self._models.get(name, {}).values() if entry.found.published]
        for one in found:
            if publishing.read_manifest(one.path.parent).get("run") == run:
                return one.version
        return 0

    def check_writable(self, name: str) -> None:
        """Raises NotTrainableError if no version of the model can be published."""
        folder = self._root / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".publish-{publishing.host_name()}-0-0"
            probe.mkdir(exist_ok=True)
            probe.rmdir()
        except OSError as error:
            raise NotTrainableError(f"the repository can't be written: {error.strerror}") from error

    def sweep(self) -> None:
        """Removes temporary folders that killed publishers have left."""
        for path in publishing.sweep(self._root):
            logger.info("removed an incomplete version", extra={"folder": path.name})

    def close(self) -> None:
        """Retires every version."""
        with self._lock:
            loaded = [e.loaded for entries in self._models.values() for e in entries.values() if e.loaded]
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

    def _known(self, name: str) -> dict[int, Entry]:
        entries = self._models.get(name)
        if not entries:
            self._check_scanned()
            raise UnknownModelError(
                unknown_name("model", name, self._models) if self._models else "the server has no models"
            )
        return entries

    def _entry(self, name: str, version: int | None, label: str | None, *, any_state: bool = False) -> Entry:
        with self._lock:
            entries = self._known(name)
            if label is not None:
                labels = self._labels.get(name, {})
                if label not in labels:
                    raise UnknownLabelError(f"model '{name}': {unknown_name('label', label, labels)}")
                version = labels[label]
            if version is not None:
                if version not in entries:
                    known = ", ".join(map(str, sorted(entries, reverse=True)[:10]))
                    pointed = f", to which label '{label}' points" if label is not None else ""
                    raise UnknownVersionError(f"model '{name}' has no version {version}{pointed}; it has {known}")
                entry = entries[version]
            else:
                # If none is ready, the newest that hasn't failed is the next to become ready.
                working = [number for number, entry in entries.items() if entry.state is not State.FAILED]
                entry = entries[self._default(entries) or max(working or entries)]
            if not any_state:
                entry.check_usable()
            return entry

    @staticmethod
    def _default(entries: Mapping[int, Entry]) -> int | None:
        """Returns the version for requests that name none: the newest that is ready; None if there is none."""
        return max((number for number, entry in entries.items() if entry.state is State.READY), default=None)

    def _description(self, entry: Entry, entries: Mapping[int, Entry]) -> Description:
        labels = self._labels.get(entry.found.name, {})
        pointing = tuple(sorted(label for label, version in labels.items() if version == entry.found.version))
        return entry.description(pointing, default=entry.found.version == self._default(entries))

    # Versions on disk.

    def _find(self) -> dict[tuple[str, int], FoundVersion] | None:
        """Finds all versions on disk. Returns None if the disk can't be read: loaded versions stay in use."""
        found: list[FoundVersion] = []
        try:
            if self._file_name is not None:
                found.append(layout.find_file(self._file_name, 1, self._path))
            if self._file_name is None or self._root.is_dir():
                found += layout.find_in_folder(self._root)
        except OSError as error:
            if str(error) != self._disk_problem:
                logger.error("can't read the repository; loaded versions stay in use: %s", error)
            self._disk_problem = str(error)
            return None
        self._disk_problem = ""
        return {(one.name, one.version): one for one in reversed(found)}

    def _update(self, found: Mapping[tuple[str, int], FoundVersion]) -> None:
        for key, one in found.items():
            entries = self._models.setdefault(one.name, {})
            entry = entries.get(one.version)
            if entry is None:
                state, reason = (State.FAILED, one.problem) if one.problem else (State.LOADING, "")
                entry = entries[one.version] = Entry(one, state, reason)
            if one.problem:
                self._refuse(entry, one)
            elif entry.tried != one.fingerprint and self._settled(key, one):
                entry.found = one
                if entry.state in (State.FAILED, State.LOADING) and not entry.loading.locked():
                    entry.state, entry.reason = State.AVAILABLE, ""
        for name, entries in self._models.items():
            for version in [version for version in entries if (name, version) not in found]:
                self._unload(entries.pop(version))
            self._labels[name] = publishing.read_labels(self._root / name)
        self._models = {name: entries for name, entries in self._models.items() if entries}
        self._sighted = {key: one.fingerprint for key, one in found.items()}
        self._choose_anew()

    def _refuse(self, entry: Entry, one: FoundVersion) -> None:
        """Records a problem of a version's file. A loaded version stays in use."""
        entry.reason = one.problem
        if entry.loaded is None:
            entry.found, entry.state = one, State.FAILED

    def _settled(self, key: tuple[str, int], one: FoundVersion) -> bool:
        """Whether a file is complete: published by a rename, or unchanged for `settle_seconds` or between two scans.

        At the first scan all files count as complete, so that startup doesn't wait. A file that was incomplete is
        loaded again when it changes.
        """
        old = time.time() - one.modified > self._settle_seconds
        return not self._scanned or one.published or old or self._sighted.get(key) == one.fingerprint

    # Versions in memory.

    def _bring_up(self, name: str) -> None:
        """Loads the newest version that can be loaded, and reloads loaded versions whose file has changed."""
        with self._lock:
            entries = sorted(self._models.get(name, {}).items(), reverse=True)
        newest: int | None = None
        for number, entry in entries:
            changed = entry.loaded is not None and entry.tried != entry.found.fingerprint
            if changed or (newest is None and entry.state is State.AVAILABLE):
                self._load_entry(entry)
            if newest is None and entry.state is State.READY:
                newest = number
                entry.on_demand = False

    def _load_entry(self, entry: Entry) -> None:
        """Loads a version's file and replaces the loaded one. On failure keeps that and records the reason."""
        with entry.loading:
            found = entry.found
            if entry.tried == found.fingerprint and entry.loaded is not None:
                return
            began = time.monotonic()
            with self._lock:
                if entry.loaded is None:
                    entry.state, entry.reason = State.LOADING, ""
                    self._choose_anew()
            try:
                loaded = self._read(found)
            except Exception as error:
                self._note_failure(entry, found, error)
                return
            with self._lock:
                previous, entry.loaded = entry.loaded, loaded
                entry.tried, entry.state, entry.reason = found.fingerprint, State.READY, ""
                self._choose_anew()
                gone = self._models.get(found.name, {}).get(found.version) is not entry
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

    def _note_failure(self, entry: Entry, found: FoundVersion, error: Exception) -> None:
        known = isinstance(error, (LayerGraphError, VersionFailedError, OSError, MemoryError))
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = safe_text(text) if known else "internal error while loading; see the server's log"
        logger.error("%s failed to load: %s", found.label, reason, exc_info=None if known else error)
        self._observer.version_failed(found.name, found.version)
        with self._lock:
            entry.tried = found.fingerprint
            self._choose_anew()
            if entry.loaded is None:
                entry.state, entry.reason = State.FAILED, reason
            else:
                entry.reason = f"its file has changed and can't be loaded; the previous one stays in use: {reason}"

    def _read(self, found: FoundVersion) -> LoadedVersion:
        manifest: dict[str, Any] = {}
        if found.published:
            manifest = publishing.read_manifest(found.path.parent)
            problem = publishing.check_manifest(found.path, manifest, self._digest)
            if problem:
                raise VersionFailedError(problem)
        model = self._load(found.path)
        for spec in (*model.input_specs, *model.output_specs):
            if spec.dtype not in NUMPY_DTYPES:
                raise VersionFailedError(f"tensor '{spec.name}' has dtype {spec.dtype}, which requests can't have")
        runner = ModelRunner(model)
        return LoadedVersion(
            found=found,
            model=model,
            runner=runner,
            queue=self._make_queue(found.name, found.version, runner),
            parameter_count=model.count_params(),
            training_run=str(manifest.get("run", "")),
            released=self._released,
        )

    def _load_on_demand(self, entry: Entry) -> None:
        """Loads an old version for a request, in the request's thread. Raises as `lease` does."""
        with self._lock:
            if entry.waiting >= MAX_WAITING_FOR_LOAD:
                raise BusyError(
                    f"{entry.found.label} is being loaded and {entry.waiting} calls are waiting for it", 0.5
                )
            entry.waiting += 1
        try:
            self._load_entry(entry)
            with self._lock:
                entry.check_usable()
                entry.on_demand = True
        finally:
            with self._lock:
                entry.waiting -= 1
        self._unload_unused(entry)

    def _unload_unused(self, keep: Entry | None = None) -> None:
        """Unloads versions that are neither the default of their model nor among the last used old versions."""
        with self._lock:
            old: list[Entry] = []
            for entries in self._models.values():
                default = self._default(entries)
                old += [entry for number, entry in entries.items() if entry.loaded is not None and number != default]
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
            entry = self._models.get(loaded.name, {}).get(loaded.version)
            if entry is not None and entry.loaded is not None:
                return  # It was replaced by a changed file of the same version.
            if entry is not None and entry.state is State.UNLOADING:
                entry.state = State.AVAILABLE
        self._observer.version_released(loaded.name, loaded.version)


def _name_of(path: Path) -> str:
    if path.suffix not in layout.SUFFIXES:
        raise ValueError(f"{path.name} isn't a model file: expected suffix {', '.join(sorted(layout.SUFFIXES))}")
    if not publishing.valid_name(path.stem):
        raise ValueError(
            f"{path.name}: expected a model name of letters, digits, '.', '_' and '-', beginning with a letter or digit"
        )
    return path.stem
