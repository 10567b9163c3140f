"""The models of a server on disk: scans find versions and what is wanted of them; runs and calls publish and change."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from layerserve_server.access.reserved import UNREADABLE, Restriction
from layerserve_server.disk import sha256
from layerserve_server.errors import (
    NotTrainableError,
    RefusedChangeError,
    ServerError,
    VersionFailedError,
)
from layerserve_server.repository import layout, publishing
from layerserve_server.repository.catalogue import replaced
from layerserve_server.repository.control import read_control
from layerserve_server.repository.entry import Description, Entry, State
from layerserve_server.repository.layout import Fingerprint, FoundVersion
from layerserve_server.repository.loaded_models import LoadedModels
from layerserve_server.repository.loading import Load, Loader, MakeQueue
from layerserve_server.repository.memory_limit import NoRoomError, RepositoryObserver
from layerserve_server.repository.model_settings import ModelSettings
from layerserve_server.repository.record import ModelRecord
from layerserve_server.repository.remembered_callers import RememberedCallers
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.repository.version_source import VersionSource
from layerserve_server.repository.writer import FolderWriter, Writer

logger = logging.getLogger(__name__)

#: Number of models that are loaded at the same time in a scan.
LOADERS = 4
#: Number of misplaced models that a scan reports at most.
MAX_REPORTED = 20


class Repository(LoadedModels):
    """The models in a folder, or a single model file with the versions that training publishes of it. Thread-safe.

    Only `scan` and `publish` read the disk, one at a time. What is wanted of a model is on disk: its files, settings,
    labels, and what calls have set (`control`); a scan loads what is missing, and only then makes it the default or
    moves a label to it.
    """

    def __init__(
        self,
        path: Path,
        published: Path,
        load: Load,
        make_queue: MakeQueue,
        *,
        max_old_versions: int = 2,
        max_bytes: int = 0,
        settle_seconds: float = 2.0,
        observer: RepositoryObserver,
        ready: Callable[[LoadedVersion], None] | None = None,
        digest: Callable[[Path], str] = sha256,
        queue_limits: Callable[[ModelSettings], tuple[int, int]] | None = None,
        loads: Callable[[str], bool] = lambda name: True,
        polls: bool = True,
        sample_share: Callable[[str, ModelSettings], float] = lambda name, settings: 0.0,
        source: VersionSource | None = None,
        writer: Writer | None = None,
        used: Mapping[str, float] = {},
        remembered: RememberedCallers | None = None,
    ) -> None:
        """`published` is the folder for new versions of a single model file; those of a folder go to the folder itself.

        `ready` is called with each version after it was loaded; `digest` returns a file's SHA-256 digest.
        `queue_limits` returns the maximum rows of a batch and of a queue for the settings of a model, and `loads`
        whether a model is loaded that no call has loaded or unloaded. `polls` is whether the files are followed.
        `max_bytes` is the limit of the memory of loaded versions; 0 keeps all loaded. `used` are the Unix times at
        which models were last used, in seconds. `source` is where the folder's versions come from if they are copies,
        and `writer` writes there; by default it writes to the folder. `remembered` are the callers of models that may
        be gone. Raises ValueError if `path` is a file whose name isn't that of a model.
        """
        super().__init__(
            Loader(load, make_queue, digest),
            max_old_versions=max_old_versions,
            max_bytes=max_bytes,
            observer=observer,
            ready=ready,
            source=source,
        )
        self._path = path
        self._file_name = _name_of(path) if path.is_file() else None
        self._root = path if self._file_name is None else published
        self._queue_limits = queue_limits
        self._sample_share = sample_share
        self._loads = loads
        self._polls = polls
        #: Writes to the repository. What it writes takes effect with the next scan.
        self.writer = writer or FolderWriter(self._root)
        self._settle_seconds = settle_seconds
        #: What is in force of models at the first scan, until their files are right.
        self._in_force: Mapping[str, Mapping[str, Any]] = {}
        self._remembered = remembered or RememberedCallers(published.with_name("callers"), writes=True)
        self._sighted: dict[tuple[str, int], Fingerprint] = {}
        self._disk_problem = ""
        #: Paths in the folder that were reported as misplaced, with what was expected.
        self._misplaced: Mapping[str, str] = {}
        #: Versions in the folder that can't be loaded as they are there, with the reason, and those that were reported.
        self._refused: frozenset[tuple[str, str]] = frozenset()
        self._reported: frozenset[tuple[str, str]] = frozenset()
        self._used = used
        #: Called after a run has published a version (0: none), with the model, the run, and the error if that failed.
        self.run_published: Callable[[str, str, int, ServerError | None], None] = lambda *_: None

    def make_present(self, name: str, version: int | None = None, label: str | None = None) -> Description:
        """Like `describe_one`, and waits until the version's files are here.

        Raises as `lease` and `VersionSource.fetch` do.
        """
        with self._lock:
            record = self._known(name)
            entry = record.entry(version, label, any_state=True)
        self._fetch(entry)
        with self._lock:
            return record.description(entry)

    # Disk.

    def open(
        self,
        catalogue: Mapping[str, Collection[int]] | None = None,
        in_force: Mapping[str, Mapping[str, Any]] = {},
    ) -> None:
        """Scans the disk for the first time. Before, requests for unknown models fail with UnavailableError.

        `catalogue` has the versions of each model that may be found, by default all, and `in_force` what is in force of
        models whose files are wrong now, in another process. Raises OSError if the repository can't be read.
        """
        self._in_force = in_force
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
            self._remembered.refresh()
            names = [only] if only else sorted({*found_models, *self._models})
            for name in names:
                self._update(name, found_models.get(name, {}))
            self._restrict_gone({*self._remembered.models(), *self.restrictions} - self._models.keys())
            with self._lock:
                self._sighted |= {key: one.fingerprint for key, one in found.items()}
                if not only:
                    self._sighted = {key: one.fingerprint for key, one in found.items()}
                    self._scanned = True
            self._bring_up_all(names)
            self._unload_unused()
            if self._source is not None:
                with self._lock:
                    loaded = [one.found for one in self._entries() if one.loaded is not None]
                self._source.note_use([(one.name, one.version) for one in loaded])

    def _bring_up_all(self, names: Sequence[str]) -> None:
        """Loads what is missing of these models. When there are many to load, several at a time."""
        with self._lock:
            missing = sum(one.state is State.AVAILABLE and not one.standby for one in self._entries())
        if missing <= 1 or self.limited:
            for name in names:
                self._bring_up(name)
            return
        # Other processes read their files, while this one builds the models.
        with ThreadPoolExecutor(LOADERS, "load") as pool:
            list(pool.map(self._bring_up, names))

    def refresh(self, name: str, *new: int) -> None:
        """Scans a model after a change by this server. Unless the server polls, only `new` versions count as new."""
        with self._lock:
            record = self._models.get(name)
            known = {*record.versions, *new} if record else {*new}
        self.scan(name, None if self._polls else {name: known})

    def scan_all_of(self, name: str) -> None:
        """Scans a model, and waits until the versions to be loaded are here. Raises as `VersionSource.fetch`.

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

    def publish(
        self,
        name: str,
        file: Path,
        *,
        run: str,
        base_version: int,
        label: str = "",
        expected: int = 0,
        checkpoint: str = "",
    ) -> int:
        """Publishes a file as the next version of a model, loads it, then sets the label. Returns the version number.

        `checkpoint` is the id of the run's checkpoint from which the file was made; empty for the run's result.

        Raises VersionConflictError if the model has a version above `expected` (0: it may), ModelGoneError if it was
        deleted since it had the base version, NotTrainableError if the repository can't be written, and
        VersionFailedError if the new version can't be loaded.
        """
        above = self.highest(name)
        if expected:
            self.check_newest(name, expected)
        facts: dict[str, Any] = {"run": run, "base_version": base_version, "created": time.time()}
        if checkpoint:
            facts["checkpoint"] = checkpoint
        try:
            version = self.writer.publish(
                name,
                file,
                facts,
                above=above,
                expected=expected,
                beside=self._class_labels(name, base_version),
                base=0 if name == self._file_name else base_version,
            )
        except OSError as error:
            raise NotTrainableError(f"the repository can't be written: {error.strerror}") from error
        self.refresh(name, version)
        return self._published(name, version, label)

    def publish_once(
        self,
        name: str,
        file: Path,
        *,
        run: str,
        base_version: int,
        label: str = "",
        expected: int = 0,
        who: str = "",
        checkpoint: str = "",
    ) -> int:
        """Like `publish`, but doesn't repeat steps that were completed before, such as by a server that was killed.

        `who` is the caller, for the audit log, if a call publishes it.
        """
        what = f"{run}/{checkpoint}" if checkpoint else run
        by = f"{what}, called by {who}" if who else what
        version = self.version_of_run(name, run, checkpoint)
        try:
            if not version:
                version = self.publish(
                    name,
                    file,
                    run=run,
                    base_version=base_version,
                    label=label,
                    expected=expected,
                    checkpoint=checkpoint,
                )
            else:
                self._published(name, version, label)
        except ServerError as error:
            self.run_published(name, by, self.version_of_run(name, run, checkpoint), error)
            raise
        self.run_published(name, by, version, None)
        return version

    def _published(self, name: str, version: int, label: str) -> int:
        """Sets the label of a new version. If the version can't be loaded, the label keeps the working version.

        Raises as `publish` does.
        """
        entry = self._find_entry(name, version)
        if entry is not None and entry.state is State.AVAILABLE and not entry.barred:
            # It isn't one of those that stay loaded, such as the newest of a model that is pinned to another version.
            with suppress(NoRoomError):
                self._load_entry(entry, self._known(name).in_force)
        if entry is not None and entry.state is State.FAILED:
            raise VersionFailedError(f"published as version {version}, which can't be loaded: {entry.reason}")
        if label:
            try:
                self.writer.write_label(name, label, version)
            except OSError as error:
                raise NotTrainableError(f"the repository can't be written: {error.strerror}") from error
            self.refresh(name)
        return version

    def _class_labels(self, name: str, version: int) -> Mapping[str, Path]:
        """Returns a version's own files with labels of classes, which a version that is trained from it gets, too."""
        entry, folder = self._find_entry(name, version), self._root / name
        if entry is None:
            return {}
        wanted = self.settings(name).class_labels.values()
        return {file: path for file, path in entry.found.class_labels if file in wanted and path.parent != folder}

    def version_of_run(self, name: str, run: str, checkpoint: str = "") -> int:
        """Returns the version that was published of a run's result, or of its checkpoint; 0 if there is none."""
        with self._lock:
            record = self._models.get(name)
            found = [entry.found for entry in record.versions.values() if entry.found.published] if record else []
        for one in found:
            try:
                manifest = publishing.read_manifest(one.path.parent)
            except publishing.UnreadableFileError:
                continue
            if (manifest.get("run"), manifest.get("checkpoint", "")) == (run, checkpoint):
                return one.version
        return 0

    def highest(self, name: str) -> int:
        """Returns the highest version number that a model has or had; 0 for none. Raises RefusedChangeError."""
        with self._lock:
            record = self._models.get(name)
            versions = tuple(record.versions) if record else ()
        try:
            return max((*versions, read_control(self._root / name).highest))
        except OSError as error:
            # A number that was given before could be given again.
            raise RefusedChangeError(f"model '{name}': {error.strerror}") from error

    def newest(self, name: str) -> int:
        """Returns the highest number of the versions that a model has; 0 for none."""
        with self._lock:
            record = self._models.get(name)
            versions = [number for number, entry in record.versions.items() if not entry.leaving] if record else []
        return max(versions, default=0)

    def check_newest(self, name: str, expected: int) -> None:
        """Raises VersionConflictError if a model has a version above `expected`, or never had that one."""
        if expected > self.highest(name):
            # Another server may have published it a moment ago.
            self.scan(name)
        publishing.check_expected(name, expected, self.newest(name), self.highest(name))

    def check_publishable(self, name: str, base_version: int) -> None:
        """Raises NotTrainableError if nothing can be published that was trained from a version of the model."""
        try:
            if name != self._file_name:
                self.writer.check_there(name, base_version)
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
        if self._source is not None:
            try:
                self.writer.check_writable(name)
            except OSError as error:
                raise RefusedChangeError(f"the repository can't be written: {error.strerror}") from error

    def folder(self, name: str) -> Path:
        """Returns the folder of a model, which needn't exist. Raises ValueError if no model can have this name."""
        if not publishing.valid_name(name):
            raise ValueError(f"no model can have the name {name!r}")
        return self._root / name

    def take(self, name: str, version: int, label: str = "") -> None:
        """Loads a version that was published, and sets a label to it. Raises as `publish` does."""
        self.refresh(name, version)
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
        self._lazy_loading.close()
        with self._lock:
            loaded = [entry.loaded for entry in self._entries() if entry.loaded]
            self._models = {}
            self._choose_anew()
        for version in loaded:
            version.retire()

    # Versions on disk.

    def _find(self, only: str) -> dict[tuple[str, int], FoundVersion] | None:
        """Finds all versions on disk, or those of the model `only`.

        Returns None if the disk can't be read: loaded versions stay in use.
        """
        found: list[FoundVersion] = []
        elsewhere = self._source.versions() if self._source is not None else ()
        try:
            if self._file_name is not None:
                found.append(layout.find_single_file(self._file_name, self._path))
            if self._file_name is None or self._root.is_dir():
                contents = layout.find_in_folder(self._root)
                found += contents.versions
                self._report_misplaced(contents.misplaced)
                self._report_refused(contents.versions)
            # What the folder has comes first. A copy that it lacks may just be replaced.
            found += elsewhere
        except OSError as error:
            if str(error) != self._disk_problem:
                logger.error("can't read the repository; loaded versions stay in use: %s", error)
            self._disk_problem = str(error)
            return None
        self._disk_problem = ""
        return {(one.name, one.version): one for one in reversed(found) if only in ("", one.name)}

    def _report_misplaced(self, misplaced: Mapping[str, str]) -> None:
        """Logs what is misplaced in the folder, once for each path as long as it stays there."""
        for path, expected in islice(misplaced.items(), MAX_REPORTED):
            if path not in self._misplaced:
                logger.warning("'%s' isn't served: %s", path, expected)
        self._misplaced = dict(misplaced)

    def misplaced(self) -> dict[str, str]:
        """Returns what is in the wrong place in the folder, by path, with what was expected; at most MAX_REPORTED."""
        return dict(islice(self._misplaced.items(), MAX_REPORTED))

    def _report_refused(self, versions: Iterable[FoundVersion]) -> None:
        """Logs what is wrong with versions in the folder, once as long as it stays so.

        Files may still be copied into a new folder: what is wrong there counts if the next scan finds it again.
        """
        refused = frozenset((one.label, one.problem) for one in versions if one.problem)
        lasting = refused & self._refused if self._scanned else refused
        for label, problem in sorted(lasting - self._reported)[:MAX_REPORTED]:
            logger.error("%s can't be loaded: %s", label, problem)
        self._refused, self._reported = refused, lasting

    def _update(self, name: str, found: Mapping[int, FoundVersion]) -> None:
        """Records what is on disk of a model: its versions, settings, labels and what calls have set."""
        folder = self._root / name
        with self._lock:
            known = name in self._models
            record = self._models.get(name) or self._new_record(name)
            # Before the files are read, on which both depend.
            before, restrictions = record.choice(), self.restrictions
        # The latter also of a model whose file in the root was deleted: its other versions are open to no more callers.
        beside = (self._root if self._file_name is None else self._path.parent) / f"{name}.toml"
        invalid = record.read(folder, beside)
        with self._lock:
            self._models[name] = record
            for one in found.values():
                self._update_version(record, one)
            for version in [version for version in record.versions if version not in found]:
                if record.versions[version].loaded is None:
                    del record.versions[version]
                else:
                    record.versions[version].leaving = True
            record.loaded = self._loads(name) if record.control.loaded is None else record.control.loaded
            record.bar(keep_loaded=True)
            for entry in record.versions.values():
                if entry.barred:
                    self._unload(entry)
                elif record.unknown and entry.loaded is None:
                    entry.state, entry.reason, entry.tried = State.FAILED, record.problem, layout.NOTHING
                elif entry.loaded is not None and self._queue_limits is not None:
                    entry.loaded.queue.set_limits(*self._queue_limits(record.in_force))
            self.sampled = replaced(self.sampled, name, self._sample_share(name, record.in_force) or None)
            self._move_labels(record, only_ready=self._scanned)
            self.restrictions = replaced(self.restrictions, name, self._restriction(record))
            if not record.versions:
                del self._models[name]
            if record.choice() != before or self.restrictions is not restrictions:
                self._choose_anew()
        if invalid:
            logger.error("files of model '%s' are invalid: %s", name, record.problem)
            self._observer.settings_invalid(name)
        if known and not record.versions:
            self._observer.model_gone(name)

    def _new_record(self, name: str) -> ModelRecord:
        record = ModelRecord(name)
        if name in self._in_force:
            record.set_in_force(self._in_force[name])
        return record

    def _restrict_gone(self, names: Iterable[str]) -> None:
        """Restricts what is left of models that are gone to the callers that they had."""
        with self._lock:
            before = self.restrictions
            for name in names:
                self.restrictions = replaced(self.restrictions, name, self._remembered.of(name))
            if self.restrictions is not before:
                self._choose_anew()

    def _restriction(self, record: ModelRecord) -> Restriction | None:
        """Returns the restriction of a model; None if it is open to all. Remembers what its settings file says."""
        if record.versions and record.unknown:
            return UNREADABLE
        if record.versions and record.has_settings_file:
            callers = record.in_force.callers
            restriction = None if callers is None else Restriction(callers)
            self._remembered.remember(record.name, restriction)
            return restriction
        return self._remembered.of(record.name)

    def _update_version(self, record: ModelRecord, one: FoundVersion) -> None:
        entry = record.versions.get(one.version)
        if one.absent and entry is not None and (entry.loaded is not None or _is_here(entry.found)):
            return  # Its copy was removed, is being replaced, or was fetched a moment ago.
        if entry is None:
            state, reason = (State.FAILED, one.problem) if one.problem else (State.LOADING, "")
            entry = record.versions[one.version] = Entry(one, state, reason, used=self._used.get(one.name, 0.0))
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
        if entry.state is State.AVAILABLE:
            entry.reason = one.delay

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


def _is_here(found: FoundVersion) -> bool:
    return not found.absent and found.path.exists()


def _name_of(path: Path) -> str:
    if path.suffix not in layout.SUFFIXES:
        raise ValueError(f"{path.name} isn't a model file: expected suffix {', '.join(sorted(layout.SUFFIXES))}")
    if not publishing.valid_name(path.stem):
        raise ValueError(f"{path.name}: {layout.NAME_RULE}")
    return path.stem
