"""The versions of a server's models in memory: they are loaded aside, replaced, leased to requests, and unloaded."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from contextlib import suppress

from layerserve_server.errors import BusyError, ServerError, UnavailableError, VersionFailedError
from layerserve_server.repository import layout
from layerserve_server.repository.catalogue import replaced
from layerserve_server.repository.entry import Entry, Facts, State
from layerserve_server.repository.layout import FoundVersion
from layerserve_server.repository.lazy_loading import RETRY_SECONDS, LazyLoading
from layerserve_server.repository.loading import Loader, failure_text
from layerserve_server.repository.memory_limit import NoRoomError, RepositoryObserver, Residents
from layerserve_server.repository.model_settings import ModelSettings
from layerserve_server.repository.record import ModelRecord
from layerserve_server.repository.version import Lease, LoadedVersion
from layerserve_server.repository.version_source import VersionSource

logger = logging.getLogger(__name__)

#: Maximum numbers of calls that wait in a thread until a version is loaded: for one version, and for all. More would
#: occupy the threads of other calls.
MAX_WAITING_FOR_LOAD, MAX_WAITING_IN_THREADS = 8, 32
#: Number of times that a request has a version loaded: it may be unloaded again before it is used, and for one that
#: fails to load an older one may take its place.
LOAD_TRIES = 5
#: Maximum pause after a load that no request waits for, in seconds.
MAX_PAUSE_SECONDS = 0.5


class LoadedModels(Residents):
    """The models of a catalogue in memory. Thread-safe.

    `lease` uses versions in memory; old versions, and with a limit of memory all, are loaded on their first request.
    What a scan has recorded is brought up: what is missing is loaded, and only then made the default or the version of
    a label. With a limit this holds where a version in memory is to be replaced; others are put on standby.
    """

    def __init__(
        self,
        loader: Loader,
        *,
        max_old_versions: int,
        max_bytes: int,
        observer: RepositoryObserver,
        ready: Callable[[LoadedVersion], None] | None,
        source: VersionSource | None,
    ) -> None:
        """See `Repository`."""
        super().__init__(max_old_versions=max_old_versions, max_bytes=max_bytes, observer=observer)
        self._loader = loader
        self._ready = ready
        self._source = source
        self._lazy_loading = LazyLoading(self._load_for_calls, observer.load_awaited)
        self._waiting_in_threads: Counter[Entry] = Counter()
        #: Held during a scan of the disk and the loads that follow.
        self._scanning = threading.Lock()

    def lease(self, name: str, version: int | None = None, label: str | None = None) -> Lease:
        """Leases a version: the one with this number or label, or else the newest that is ready.

        Loads an old version on demand. Raises UnknownModelError, UnknownVersionError, UnknownLabelError,
        VersionFailedError, and UnavailableError or BusyError while the version is being loaded.
        """
        entry = self._entry(name, version, label)
        for _ in range(LOAD_TRIES):
            loaded = entry.loaded
            lease = loaded.lease() if loaded is not None else None
            if lease is not None:
                return lease
            # It was replaced or retired in between, or isn't loaded.
            entry = self._entry(name, version, label)
            if entry.loaded is None:
                try:
                    self._load_on_demand(entry)
                except VersionFailedError:
                    if version is not None or label is not None:
                        raise
                    # Another one may have become the default.
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

    def when_loaded(
        self,
        name: str,
        version: int | None,
        label: str | None,
        proceed: Callable[[Exception | None], None],
        gone: Callable[[], bool],
    ) -> None:
        """Has a version loaded for a call, which waits without a thread, and then calls `proceed`.

        `proceed` gets the error if there is no room for the version, and must not block; whether the version was
        loaded, the call sees by `lease_loaded`. `gone` is whether its caller has stopped waiting. Raises as `lease`.
        """
        self._lazy_loading.want(self._entry(name, version, label), proceed, gone)

    def fill(self, stopped: Callable[[], bool]) -> None:
        """Loads versions on standby until the memory is nearly full: those first that were used last.

        Pauses after each, so that requests don't compete with it for long. Without a limit there are none.
        """
        with self._lock:
            names = sorted(
                self._models, key=lambda name: -max(one.used_at for one in self._models[name].versions.values())
            )
        for name in names:
            with self._lock:
                record = self._models.get(name)
                version = None if record is None else record.default()
                entry = None if record is None or version is None else record.versions[version]
            if entry is None or not entry.standby or entry.loaded is not None or entry.found.absent:
                continue
            if stopped():
                return
            began = time.monotonic()
            try:
                self._load_for_calls(entry, needed=False)
            except ServerError as error:
                logger.debug("%s isn't loaded before a request comes: %s", entry.found.label, error)
                continue
            time.sleep(min(MAX_PAUSE_SECONDS, time.monotonic() - began))

    def ensure_loaded(self, name: str, version: int) -> None:
        """Loads a version unless it is loaded, or loads it again if its last try failed. It is kept as in `lease`.

        Raises UnknownModelError, UnknownVersionError, VersionFailedError, NotLoadedError if it may not be loaded, and
        as `VersionSource.fetch` does.
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
                if entry.state is State.FAILED and not (entry.found.problem or record.unknown):
                    entry.state = State.AVAILABLE
                entry.check_usable()
            if entry.loaded is None:
                self._load_entry(entry, record.in_force)
            with self._lock:
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
            with self._scanning:
                self._bring_up(name)

    def _default_on_standby(self, name: str) -> int | None:
        with self._lock:
            record = self._models.get(name)
            version = None if record is None else record.default()
            if record is None or version is None or record.versions[version].loaded is not None:
                return None
            return version

    def test(self, found: FoundVersion, settings: ModelSettings) -> None:
        """Loads a version that isn't published, and drops it.

        Raises VersionFailedError if that fails, and BusyError if there is no room for it.
        """

        def released(loaded: LoadedVersion) -> None:
            self._observer.version_released(loaded.name, loaded.version)

        try:
            with self._room(found, found.size, needed=True):
                loaded = self._loader.read(found, settings, released)
        except NoRoomError:
            raise
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
            default = record.default()
            # Nothing in memory is to be replaced, so that nothing is loaded either, before a request comes.
            waits = (
                self.limited
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
                self._load_if_room(entry, settings)
            if wanted and entry.answers:
                kept.append(number)
                entry.on_demand = False
        self._serve(record, kept, coming)

    def _serve(self, record: ModelRecord, kept: Collection[int], coming: Sequence[int]) -> None:
        """Serves the versions that are kept: unloads what is gone or barred, moves labels, default, canary and shadow.

        `coming` are those that are still being fetched.
        """
        name = record.name
        with self._lock:
            before = record.choice()
            for number in [number for number, entry in record.versions.items() if entry.leaving]:
                self._unload(record.versions.pop(number))
            gone = not record.versions and self._models.pop(name, None) is not None
            record.kept, record.coming = frozenset(kept), tuple(coming)
            if kept:
                record.bar(keep_loaded=False)
                for entry in record.versions.values():
                    if entry.barred:
                        self._unload(entry)
            self._move_labels(record, only_ready=True)
            record.last_default = record.default()
            if record.choice() != before:
                self._choose_anew()
            self.canaries = replaced(self.canaries, name, record.canary())
            self.shadows = replaced(self.shadows, name, record.shadow())
        if gone:
            self._observer.model_gone(name)

    @staticmethod
    def _move_labels(record: ModelRecord, *, only_ready: bool) -> None:
        """Moves labels to the versions that the file names; with `only_ready`, not before these are loaded.

        A label also moves if the version to which it points can't answer.
        """
        before, record.labels = record.labels, {}
        for label, version in record.file_labels.items():
            old, new = record.versions.get(before.get(label, 0)), record.versions.get(version)
            missing = new is not None and new.loaded is None and not new.standby
            waits = only_ready and missing and old is not None and old.loaded is not None
            record.labels[label] = before[label] if waits else version

    def _load_if_room(self, entry: Entry, settings: ModelSettings) -> None:
        """Loads a version in a scan. If there is no room, the version is on standby, or the one in use stays."""
        try:
            self._load_entry(entry, settings)
        except NoRoomError as error:
            logger.warning("%s isn't loaded now: %s", entry.found.label, error)
            entry.standby = True

    def _load_entry(self, entry: Entry, settings: ModelSettings, *, needed: bool = True) -> None:
        """Loads a version's file and replaces the loaded one. On failure keeps that and records the reason.

        Raises NoRoomError, after which it is as before; only if it is `needed`, other versions make room.
        """
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
                loaded = self._read(entry, found, settings, needed=needed)
            except NoRoomError:
                with self._lock:
                    if entry.state is State.LOADING:
                        entry.state = State.AVAILABLE
                        self._choose_anew()
                raise
            except Exception as error:
                self._note_failure(entry, found, settings, error)
                return
            # Before the lock: whether rows are independent may have to be computed.
            facts = Facts.of(loaded)
            with self._lock:
                entry.facts, entry.used = facts, entry.used_at
                if not needed:
                    # In the order of use it is where it was.
                    loaded.last_used = time.monotonic() - (time.time() - entry.used)
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

    def _read(self, entry: Entry, found: FoundVersion, settings: ModelSettings, *, needed: bool) -> LoadedVersion:
        with self._room(found, entry.expected_bytes, needed=needed):
            loaded = self._loader.read(found, settings, self._released)
            with self._lock:
                self._living.add(loaded)
            try:
                self._check_fits(loaded)
            except VersionFailedError:
                loaded.retire()
                raise
            return loaded

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
        """Waits until a version is loaded for a call, in the call's thread. Raises as `lease` does."""
        with self._lock:
            all_waiting = sum(self._waiting_in_threads.values())
            waiting = self._waiting_in_threads[entry]
            if waiting >= MAX_WAITING_FOR_LOAD or all_waiting >= MAX_WAITING_IN_THREADS:
                self._observer.load_awaited("refused", 0.0)
                what = (
                    f"{waiting} calls are waiting for it" if waiting else f"{all_waiting} calls are waiting for others"
                )
                raise BusyError(f"{entry.found.label} is being loaded and {what}", RETRY_SECONDS)
            self._waiting_in_threads[entry] += 1
        done: Future[None] = Future()

        def proceed(error: Exception | None) -> None:
            done.set_exception(error) if error is not None else done.set_result(None)

        try:
            self._lazy_loading.want(entry, proceed, lambda: False)
            done.result()
        finally:
            with self._lock:
                self._waiting_in_threads[entry] -= 1
                self._waiting_in_threads += Counter()  # without zeros
        with self._lock:
            entry.check_usable()

    def _load_for_calls(self, entry: Entry, *, needed: bool = True) -> None:
        """Loads a version that isn't in memory, with its files. Raises NoRoomError, as `VersionSource.fetch` does."""
        with self._lock:
            settings = self._known(entry.found.name).in_force
            if entry.state is State.FAILED or entry.barred:
                return
        self._fetch(entry)
        self._load_entry(entry, settings, needed=needed)
        if entry.reason and entry.loaded is None and entry.standby:
            # It can't be loaded. An older version may take its place.
            with self._scanning:
                self._bring_up(entry.found.name)
        elif not entry.standby:
            entry.on_demand = True
            self._unload_unused(entry)

    def _fetch(self, entry: Entry) -> None:
        """Waits until a version's files are in the folder. Raises as `VersionSource.fetch` does."""
        found = entry.found
        if self._source is None or not found.absent:
            return
        self._source.fetch(found.name, found.version)
        with self._lock:
            if entry.found.absent:
                entry.found = layout.find_version(found.name, found.version, found.path)
