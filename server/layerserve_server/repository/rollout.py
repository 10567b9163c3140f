"""The rollout of what a scan has recorded: missing versions are loaded, and only then made the default or a label's."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from layerserve_server.errors import VersionFailedError
from layerserve_server.repository.catalogue import Catalogue, replaced
from layerserve_server.repository.entry import Entry
from layerserve_server.repository.loader import Loader
from layerserve_server.repository.memory_limit import MemoryLimit
from layerserve_server.repository.record import ModelRecord
from layerserve_server.repository.version_source import VersionSource
from layerserve_server.repository.version_states import Event, State

if TYPE_CHECKING:
    from layerserve_server.observability.metrics import Metrics

#: Number of models that are loaded at the same time after a scan.
LOADERS: Final = 4


class Rollout:
    """Loads the versions that the settings keep loaded, and decides which answer. Thread-safe.

    With a limit of memory, only a version that is in memory is replaced at once. Others are put on standby, and the
    first request loads them.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        memory: MemoryLimit,
        loader: Loader,
        observer: Metrics,
        source: VersionSource | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._memory = memory
        self._loader = loader
        self._observer = observer
        self._source = source
        #: Held during a scan of the disk and the loads that follow.
        self.scanning = threading.Lock()

    def ensure_loaded(self, name: str, version: int) -> None:
        """Loads a version unless it is loaded, or loads it again if its last try failed. It is kept as in `lease`.

        Raises UnknownModelError, UnknownVersionError, VersionFailedError, NotLoadedError if it may not be loaded, and
        as `VersionSource.fetch` does.
        """
        with self._catalogue.lock:
            entry = self._catalogue.known(name).entry(version, None, any_state=True)
        if entry.state is State.READY and not entry.barred:
            entry.on_demand = True
            return  # Without waiting for a scan, which may be loading another version.
        if not entry.barred:
            self._loader.fetch(entry)
        with self.scanning:
            with self._catalogue.lock:
                record = self._catalogue.known(name)
                entry = record.entry(version, None, any_state=True)
                if entry.state is State.FAILED and not (entry.found.problem or record.unknown):
                    entry.happened(Event.RETRY)
                entry.check_usable()
            if entry.loaded is None:
                self._loader.load(entry, record.in_force)
            with self._catalogue.lock:
                entry.check_usable()
                entry.on_demand = entry.standby = True
                if entry.loaded is not None:
                    entry.loaded.last_used = time.monotonic()

    def load_default(self, name: str) -> None:
        """Loads the version that answers requests which name none, if it is on standby: whether it can be, is known
        then. Raises NoRoomError.
        """
        while (loading := self._default_on_standby(name)) is not None:
            with suppress(VersionFailedError):
                self.ensure_loaded(name, loading)
            if self._default_on_standby(name) == loading:
                return
            with self.scanning:
                self.bring_up(name)

    def _default_on_standby(self, name: str) -> int | None:
        with self._catalogue.lock:
            record = self._catalogue.models.get(name)
            version = None if record is None else record.default()
            if record is None or version is None or record.versions[version].loaded is not None:
                return None
            return version

    def retry(self) -> None:
        """Loads versions again that failed to load, where their settings say so and it is time."""
        with self.scanning:
            with self._catalogue.lock:
                due = [entry for entry in self._catalogue.entries() if entry.retry_at <= time.monotonic()]
                for entry in due:
                    entry.happened(Event.RETRY)
            for name in sorted({entry.found.name for entry in due}):
                self.bring_up(name)

    def bring_up_all(self, names: Sequence[str]) -> None:
        """Brings up these models. When there are many versions to load, several at a time."""
        with self._catalogue.lock:
            missing = sum(one.state is State.AVAILABLE and not one.standby for one in self._catalogue.entries())
        if missing <= 1 or self._memory.limited:
            for name in names:
                self.bring_up(name)
            return
        # Other processes read their files, while this one builds the models.
        with ThreadPoolExecutor(LOADERS, "load") as pool:
            list(pool.map(self.bring_up, names))

    def bring_up(self, name: str) -> None:
        """Loads the versions that the policy keeps loaded, and reloads loaded ones whose file or settings have changed.

        If one of them can't be loaded, 'latest' takes an older one. Called with `scanning` held.
        """
        with self._catalogue.lock:
            record = self._catalogue.models.get(name)
            if record is None:
                self._catalogue.canaries = replaced(self._catalogue.canaries, name, None)
                return
            settings, target = record.in_force, record.target
            entries = [(number, entry) for number in record.order() if not (entry := record.versions[number]).leaving]
            # Kept loaded, too: their requests would have to wait.
            named = {*record.file_labels.values(), *record.routed()}
            default = record.default()
            # Nothing in memory is to be replaced, so that nothing is loaded either, before a request comes.
            waits = (
                self._memory.limited
                and not settings.keep_loaded
                and (default is None or record.versions[default].loaded is None)
            )
        count = settings.latest_versions if settings.version_policy == "latest" else len(entries)
        kept: list[int] = []
        coming: list[int] = []
        for number, entry in entries:
            if entry.barred:
                continue
            if self._source is not None and entry.found.absent:
                # Older ones that are here serve meanwhile, but none is fetched for that.
                wanted = settings.serves(number) and (number == target or len(kept) + len(coming) < count)
                if (wanted or number in named) and (waits or entry.standby) and entry.state is not State.FAILED:
                    entry.standby = True
                    kept += [number] * wanted
                elif (wanted or number in named) and entry.state is State.AVAILABLE:
                    self._source.want(name, number)
                    coming.append(number)
                continue
            changed = entry.loaded is not None and entry.changed(settings)
            # An older version isn't taken in place of the target: it wouldn't become the default.
            reserved = target is not None and target not in kept
            wanted = settings.serves(number) and (number == target or len(kept) + reserved < count)
            missing = (wanted or number in named) and entry.state is State.AVAILABLE
            if missing and (waits or (entry.standby and not settings.keep_loaded)):
                entry.standby = True
            elif changed or missing:
                self._loader.load_if_room(entry, settings)
            if wanted and entry.answers:
                kept.append(number)
                entry.on_demand = False
        self._serve(record, kept, coming)

    def _serve(self, record: ModelRecord, kept: Collection[int], coming: Sequence[int]) -> None:
        """Serves the versions that are kept: unloads what is gone or barred, and moves labels, default and canary.

        `coming` are those that are still being fetched.
        """
        name, catalogue = record.name, self._catalogue
        with catalogue.lock:
            before = record.choice()
            for number in [number for number, entry in record.versions.items() if entry.leaving]:
                self._memory.unload(record.versions.pop(number))
            gone = not record.versions and catalogue.models.pop(name, None) is not None
            record.kept, record.coming = frozenset(kept), tuple(coming)
            if kept:
                record.bar(keep_loaded=False)
                for entry in record.versions.values():
                    if entry.barred:
                        self._memory.unload(entry)
            record.move_labels(only_ready=True)
            record.last_default = record.default()
            if record.choice() != before:
                catalogue.choose_anew()
            catalogue.canaries = replaced(catalogue.canaries, name, record.canary())
        if gone:
            self._observer.model_gone(name)

    def coming(self, name: str) -> list[Entry]:
        """Returns the versions of a model that are to be loaded, and are being fetched."""
        with self._catalogue.lock:
            record = self._catalogue.models.get(name)
            return [] if record is None else [record.versions[version] for version in record.coming]
