"""Leases of versions to calls. A version that isn't in memory is loaded on its first call."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias

from layerserve_server.errors import (
    BusyError,
    ServerError,
    UnavailableError,
    UnknownModelError,
    UnknownVersionError,
    VersionFailedError,
)
from layerserve_server.repository.catalogue import Catalogue
from layerserve_server.repository.entry import Entry
from layerserve_server.repository.lazy_loading import RETRY_SECONDS, LazyLoading
from layerserve_server.repository.loader import Loader
from layerserve_server.repository.memory_limit import MemoryLimit
from layerserve_server.repository.rollout import Rollout
from layerserve_server.repository.version import Lease, LoadedVersion
from layerserve_server.repository.version_states import State

if TYPE_CHECKING:
    from layerserve_server.observability.metrics import Metrics

logger = logging.getLogger(__name__)

#: Name of a model, and the version number or the label that a request names, if any.
Choice: TypeAlias = tuple[str, int | None, str | None]

#: Maximum numbers of calls that wait in a thread until a version is loaded: for one version, and for all. More would
#: occupy the threads of other calls.
MAX_WAITING_FOR_LOAD, MAX_WAITING_IN_THREADS = 8, 32
#: Number of times that a request has a version loaded: it may be unloaded again before it is used, and for one that
#: fails to load an older one may take its place.
LOAD_TRIES: Final = 5
#: Maximum pause after a load that no request waits for, in seconds.
MAX_PAUSE_SECONDS: Final = 0.5


class Leases:
    """Leases versions, which stay in memory as long as a call uses them. Thread-safe."""

    def __init__(
        self,
        catalogue: Catalogue,
        memory: MemoryLimit,
        loader: Loader,
        rollout: Rollout,
        observer: Metrics,
    ) -> None:
        self._catalogue = catalogue
        self._memory = memory
        self._loader = loader
        self._rollout = rollout
        self._observer = observer
        self._lazy_loading = LazyLoading(self._load_for_calls, observer.load_awaited)
        self._waiting_in_threads: Counter[Entry] = Counter()
        self._lock = threading.Lock()

    def lease(self, name: str, version: int | None = None, label: str | None = None, *, kept: bool = False) -> Lease:
        """Leases a version: the one with this number or label, or else the newest that is ready.

        Loads an old version on demand. With `kept`, what was kept of a version suffices (see `LoadedVersion.kept`).
        Raises UnknownModelError, UnknownVersionError, UnknownLabelError,
        VersionFailedError, and UnavailableError or BusyError while the version is being loaded.
        """
        entry = self._catalogue.entry(name, version, label)
        for _ in range(LOAD_TRIES):
            loaded = entry.loaded
            lease = _lease_of(loaded, kept=kept)
            if lease is not None:
                return lease
            # It was replaced or retired in between, or isn't loaded.
            entry = self._catalogue.entry(name, version, label)
            loaded = entry.loaded
            if loaded is None or (loaded.kept and not kept):
                try:
                    self._wait_in_thread(entry, whole=not kept)
                except VersionFailedError:
                    if version is not None or label is not None:
                        raise
                    # Another one may have become the default.
        raise UnavailableError(f"{entry.found.label} is being unloaded")

    def lease_loaded(
        self, name: str, version: int | None = None, label: str | None = None, *, kept: bool = False
    ) -> Lease | None:
        """Like `lease`, but never blocks: returns None if the version would have to be loaded.

        With `kept`, what was kept of a version suffices (see `LoadedVersion.kept`).
        """
        chosen = self._catalogue.chosen
        loaded = chosen.get((name, version, label))
        lease = _lease_of(loaded, kept=kept)
        if lease is None:
            loaded = self._catalogue.entry(name, version, label).loaded
            lease = _lease_of(loaded, kept=kept)
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
        *,
        kept: bool = False,
    ) -> None:
        """Has a version loaded for a call, which waits without a thread, and then calls `proceed`.

        With `kept`, what was kept of a version suffices (see `LoadedVersion.kept`).

        `proceed` gets the error if there is no room for the version, and must not block; whether the version was
        loaded, the call sees by `lease_loaded`. `gone` is whether its caller has stopped waiting. Raises as `lease`.
        """
        self._lazy_loading.want(self._catalogue.entry(name, version, label), proceed, gone, whole=not kept)

    # Of canaries.

    def chosen(self, named: Choice, key: Callable[[], str]) -> Choice:
        """Returns the version for a caller that names a model, a version or a label: perhaps the model's canary.

        `key` returns the key by which the caller is recognized again.
        """
        canary = self._catalogue.canaries.get(named[0])
        if canary is None or named[1] is not None or named[2] is not None or not canary.takes(key()):
            return named
        return named[0], canary.version, None

    def lease_chosen(self, chosen: Choice, named: Choice, *, kept: bool = False) -> Lease | None:
        """Like `lease_loaded`, of the chosen version; of the named one if that is a canary that can't answer."""
        if chosen is not named:
            with suppress(ServerError):
                held = self.lease_loaded(*chosen, kept=kept)
                if held is not None or self._waits_for(chosen):
                    return held
        return self.lease_loaded(*named, kept=kept)

    def when_chosen_loaded(
        self,
        chosen: Choice,
        named: Choice,
        proceed: Callable[[Exception | None], None],
        gone: Callable[[], bool],
        *,
        kept: bool = False,
    ) -> None:
        """Like `when_loaded`, of the version that `lease_chosen` would lease."""
        if chosen is not named:
            with suppress(VersionFailedError, UnknownModelError, UnknownVersionError):
                if self._waits_for(chosen):
                    self.when_loaded(*chosen, proceed, gone, kept=kept)
                    return
        self.when_loaded(*named, proceed, gone, kept=kept)

    def _waits_for(self, canary: Choice) -> bool:
        """Whether calls wait until a canary is loaded that isn't, instead of getting the default. Raises as `lease`."""
        if self._memory.limited:
            return True
        loaded = self._catalogue.entry(*canary).loaded
        return loaded is not None and loaded.kept

    def fill(self, stopped: Callable[[], bool]) -> None:
        """Loads versions on standby until the memory is nearly full: those first that were used last.

        Pauses after each, so that requests don't compete with it for long. Without a limit there are none.
        """
        uses = self._memory.uses()
        for name in sorted(self._catalogue.versions(), key=lambda name: -uses.get(name, 0.0)):
            with self._catalogue.lock:
                record = self._catalogue.models.get(name)
                version = None if record is None else record.default()
                entry = None if record is None or version is None else record.versions[version]
            if entry is None or not entry.standby or entry.loaded is not None or entry.found.absent:
                continue
            if stopped():
                return
            began = time.monotonic()
            try:
                self._load_for_calls(entry, whole=False, needed=False)
            except ServerError as error:
                logger.debug("%s isn't loaded before a request comes: %s", entry.found.label, error)
                continue
            time.sleep(min(MAX_PAUSE_SECONDS, time.monotonic() - began))

    def close(self) -> None:
        """Loads no further versions."""
        self._lazy_loading.close()

    def _wait_in_thread(self, entry: Entry, *, whole: bool) -> None:
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
            self._lazy_loading.want(entry, proceed, lambda: False, whole=whole)
            done.result()
        finally:
            with self._lock:
                self._waiting_in_threads[entry] -= 1
                self._waiting_in_threads += Counter()  # without zeros
        with self._catalogue.lock:
            entry.check_usable()

    def _load_for_calls(self, entry: Entry, whole: bool, *, needed: bool = True) -> None:
        """Loads a version that isn't in memory, with its files; all of it if what was kept doesn't suffice (`whole`).

        Raises as `Loader.load` and `Loader.fetch` do.
        """
        with self._catalogue.lock:
            settings = self._catalogue.known(entry.found.name).in_force
            if entry.state is State.FAILED or entry.barred:
                return
            absent = entry.loaded is None
        self._loader.fetch(entry)
        self._loader.load(entry, settings, needed=needed, whole=whole)
        if entry.reason and entry.loaded is None and entry.standby:
            # It can't be loaded. An older version may take its place.
            with self._rollout.scanning:
                self._rollout.bring_up(entry.found.name)
        elif absent and not entry.standby:
            entry.on_demand = True
            self._memory.unload_unused(entry)


def _lease_of(loaded: LoadedVersion | None, *, kept: bool) -> Lease | None:
    """Returns a lease of a version; None if it is retired, or if it isn't there (see `Leases.lease_loaded`)."""
    return loaded.lease() if loaded is not None and (kept or not loaded.kept) else None
