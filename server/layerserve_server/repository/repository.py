"""The models of a server: scans record what is on disk, and the parts of the repository load, lease and publish it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from layerserve_server.access.reserved import UNREADABLE, Restriction
from layerserve_server.errors import VersionFailedError
from layerserve_server.repository import layout
from layerserve_server.repository.catalogue import Catalogue, replaced
from layerserve_server.repository.entry import Description, Entry
from layerserve_server.repository.folder import RepositoryFolder
from layerserve_server.repository.layout import FoundVersion
from layerserve_server.repository.leases import Leases
from layerserve_server.repository.loader import Loader
from layerserve_server.repository.memory_limit import MemoryLimit
from layerserve_server.repository.model_settings import DEFAULTS, ModelSettings
from layerserve_server.repository.publisher import Publisher
from layerserve_server.repository.record import ModelRecord
from layerserve_server.repository.remembered_callers import RememberedCallers
from layerserve_server.repository.rollout import Rollout
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.repository.version_reader import VersionReader
from layerserve_server.repository.version_states import Event, State
from layerserve_server.repository.writer import FolderWriter, Writer

if TYPE_CHECKING:
    from layerserve_server.observability.metrics import Metrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RepositoryOptions:
    """What the settings of the server say of its models."""

    #: Number of versions that stay in memory after requests have named them.
    max_old_versions: int = 2
    #: Limit of the memory of loaded versions, in bytes; 0 keeps all loaded.
    max_bytes: int = 0
    #: Whether the files are followed.
    polls: bool = True
    #: Whether a model is loaded that no call has loaded or unloaded.
    loads: Callable[[str], bool] = lambda name: True
    #: The settings of a model without any. Those of files have the same type.
    defaults: ModelSettings = DEFAULTS
    #: Maximum numbers of rows of a batch and of a queue, for a model's settings; None for those of its queue.
    queue_limits: Callable[[ModelSettings], tuple[int, int]] | None = None


class Repository:
    """The models in a folder, or a single model file with the versions that training publishes of it. Thread-safe.

    Only scans read the disk, one at a time. What is wanted of a model is on disk: its files, settings, labels, and what
    calls have set (`control`). A scan records it in the catalogue, and then rolls it out.
    """

    def __init__(
        self,
        folder: RepositoryFolder,
        reader: VersionReader,
        observer: Metrics,
        options: RepositoryOptions = RepositoryOptions(),
        *,
        remembered: RememberedCallers,
        ready: Callable[[LoadedVersion], None] | None = None,
        writer: Writer | None = None,
        used: Mapping[str, float] = {},
    ) -> None:
        """`remembered` are the callers of models that may be gone, and `ready` is called with each loaded version.

        `writer` writes to the repository, by default to its folder. `used` are the Unix times at which models were last
        used, in seconds.
        """
        self.folder = folder
        self._options = options
        #: The settings of a model without any.
        self.defaults = options.defaults
        self._observer = observer
        self._remembered = remembered
        self._used = used
        #: What is known of the models.
        self.catalogue = Catalogue()
        #: What is in memory.
        self.memory = MemoryLimit(
            self.catalogue, observer, max_bytes=options.max_bytes, max_old_versions=options.max_old_versions
        )
        #: Loads versions.
        self.loader = Loader(
            self.catalogue,
            self.memory,
            reader,
            observer,
            source=folder.source,
            ready=ready,
        )
        #: Loads what the settings keep loaded, and decides which versions answer.
        self.rollout = Rollout(self.catalogue, self.memory, self.loader, observer, folder.source)
        #: Leases versions to calls.
        self.leases = Leases(self.catalogue, self.memory, self.loader, self.rollout, observer)
        #: Publishes versions.
        self.publisher = Publisher(
            self.catalogue, folder, self.loader, writer or FolderWriter(folder.root), self.scan, self.refresh
        )
        #: What is in force of models at the first scan, until their files are right.
        self._in_force: Mapping[str, Mapping[str, Any]] = {}

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
        if not self.catalogue.scanned:
            raise OSError(f"can't read the repository: {self.folder.problem}")

    def scan(self, only: str = "", catalogue: Mapping[str, Collection[int]] | None = None) -> None:
        """Scans the disk: loads new and changed versions that should be served, and unloads removed ones.

        With `only`, this happens for the model of this name alone. With a `catalogue`, other versions than those in it
        count as not there.
        """
        with self.rollout.scanning:
            found = self.folder.find(only)
            if found is None:
                return
            if catalogue is not None:
                found = {key: one for key, one in found.items() if one.version in catalogue.get(one.name, ())}
            found_models: dict[str, dict[int, FoundVersion]] = {}
            for one in found.values():
                found_models.setdefault(one.name, {})[one.version] = one
            self._remembered.refresh()
            names = [only] if only else sorted({*found_models, *self.catalogue.models})
            for name in names:
                self._update(name, found_models.get(name, {}))
            self._restrict_gone()
            self.folder.note(found, everything=not only)
            self.catalogue.scanned = self.catalogue.scanned or not only
            self.rollout.bring_up_all(names)
            self.memory.unload_unused()
            if self.folder.source is not None:
                with self.catalogue.lock:
                    loaded = [one.found for one in self.catalogue.entries() if one.loaded is not None]
                self.folder.source.note_use([(one.name, one.version) for one in loaded])

    def refresh(self, name: str, *new: int) -> None:
        """Scans a model after a change by this server. Unless the server polls, only `new` versions count as new."""
        known = {*self.catalogue.versions().get(name, ()), *new}
        self.scan(name, None if self._options.polls else {name: known})

    def scan_all_of(self, name: str) -> None:
        """Scans a model, and waits until the versions to be loaded are here. Raises as `VersionSource.fetch`.

        One that can't be fetched is shown as failed, and an older one may take its place.
        """
        self.scan(name)
        while coming := self.rollout.coming(name):
            for entry in coming:
                with suppress(VersionFailedError):
                    self.loader.fetch(entry)
            self.scan(name)

    def make_present(self, name: str, version: int | None = None, label: str | None = None) -> Description:
        """Like `Catalogue.describe_one`, and waits until the version's files are here.

        Raises as `Leases.lease` and `VersionSource.fetch` do.
        """
        with self.catalogue.lock:
            record = self.catalogue.known(name)
            entry = record.entry(version, label, any_state=True)
        self.loader.fetch(entry)
        with self.catalogue.lock:
            return record.description(entry)

    def close(self) -> None:
        """Retires every version."""
        self.leases.close()
        for version in self.catalogue.clear():
            version.retire()

    # What a scan records.

    def _update(self, name: str, found: Mapping[int, FoundVersion]) -> None:
        """Records what is on disk of a model: its versions, settings, labels and what calls have set."""
        catalogue = self.catalogue
        with catalogue.lock:
            known = name in catalogue.models
            record = catalogue.models.get(name) or self._new_record(name)
            # Before the files are read, on which both depend.
            before, restrictions = record.choice(), catalogue.restrictions
        # Settings beside it also of a model whose file in the root was deleted: its other versions are open to no more
        # callers.
        invalid = record.read(self.folder.root / name, self.folder.beside(name))
        with catalogue.lock:
            catalogue.models[name] = record
            for one in found.values():
                self._update_version(record, one)
            for version in [version for version in record.versions if version not in found]:
                if record.versions[version].loaded is None:
                    del record.versions[version]
                else:
                    record.versions[version].leaving = True
            record.loaded = self._options.loads(name) if record.control.loaded is None else record.control.loaded
            record.bar(keep_loaded=True)
            for entry in record.versions.values():
                if entry.barred:
                    self.memory.unload(entry)
                elif record.unknown and entry.loaded is None:
                    entry.happened(Event.REFUSE, record.problem)
                    entry.tried = layout.NOTHING
                elif entry.loaded is not None and self._options.queue_limits is not None:
                    entry.loaded.queue.set_limits(*self._options.queue_limits(record.in_force))
            record.move_labels(only_ready=catalogue.scanned)
            catalogue.restrictions = replaced(catalogue.restrictions, name, self._restriction(record))
            if not record.versions:
                del catalogue.models[name]
            if record.choice() != before or catalogue.restrictions is not restrictions:
                catalogue.choose_anew()
        if invalid:
            logger.error("files of model '%s' are invalid: %s", name, record.problem)
            self._observer.settings_invalid(name)
        if known and not record.versions:
            self._observer.model_gone(name)

    def _new_record(self, name: str) -> ModelRecord:
        record = ModelRecord(name, self.catalogue.routes, self.defaults)
        if name in self._in_force:
            record.set_in_force(self._in_force[name])
        return record

    def _update_version(self, record: ModelRecord, one: FoundVersion) -> None:
        entry = record.versions.get(one.version)
        if one.absent and entry is not None and (entry.loaded is not None or _is_here(entry.found)):
            return  # Its copy was removed, is being replaced, or was fetched a moment ago.
        if entry is None:
            entry = record.versions[one.version] = Entry(one, State.LOADING, used=self._used.get(one.name, 0.0))
        entry.leaving = False
        if one.problem:
            # A loaded version stays in use.
            entry.happened(Event.REFUSE, one.problem)
            if entry.loaded is None:
                entry.found = one
            return
        if entry.tried != one.fingerprint:
            if not self.folder.settled(one):
                return
            entry.found, entry.retries = one, 0
        elif not entry.changed(record.in_force):
            return
        if not entry.loading.locked():
            entry.happened(Event.ADMIT)
        if entry.state is State.AVAILABLE:
            entry.reason = one.delay

    def _restrict_gone(self) -> None:
        """Restricts what is left of models that are gone to the callers that they had."""
        catalogue = self.catalogue
        with catalogue.lock:
            before = catalogue.restrictions
            for name in {*self._remembered.models(), *before} - catalogue.models.keys():
                catalogue.restrictions = replaced(catalogue.restrictions, name, self._remembered.of(name))
            if catalogue.restrictions is not before:
                catalogue.choose_anew()

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


def _is_here(found: FoundVersion) -> bool:
    return not found.absent and found.path.exists()
