"""Loading of versions: a version's file is read aside, and then takes the place of the one in memory."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from layerserve_server.errors import VersionFailedError
from layerserve_server.repository import layout
from layerserve_server.repository.catalogue import Catalogue
from layerserve_server.repository.entry import Entry, Facts
from layerserve_server.repository.layout import FoundVersion
from layerserve_server.repository.memory_limit import MemoryLimit, NoRoomError
from layerserve_server.repository.model_settings import ModelSettings
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.repository.version_reader import VersionReader, failure_text
from layerserve_server.repository.version_source import VersionSource
from layerserve_server.repository.version_states import Event

if TYPE_CHECKING:
    from layerserve_server.observability.metrics import Metrics

logger = logging.getLogger(__name__)


class Loader:
    """Loads versions into memory. Thread-safe: one load of a version at a time."""

    def __init__(
        self,
        catalogue: Catalogue,
        memory: MemoryLimit,
        reader: VersionReader,
        observer: Metrics,
        *,
        source: VersionSource | None = None,
        ready: Callable[[LoadedVersion], None] | None = None,
    ) -> None:
        """`source` is where versions come from that aren't here. `ready` is called with each version that was read.

        A version that was kept is read from its file when a call needs that: importing torch takes seconds and memory.
        """
        self._catalogue = catalogue
        self._memory = memory
        self._reader = reader
        self._observer = observer
        self._source = source
        self._ready = ready

    def fetch(self, entry: Entry) -> None:
        """Waits until a version's files are in the folder. Raises as `VersionSource.fetch` does."""
        found = entry.found
        if self._source is None or not found.absent:
            return
        self._source.fetch(found.name, found.version)
        with self._catalogue.lock:
            if entry.found.absent:
                entry.found = layout.find_version(found.name, found.version, found.path)

    def load(self, entry: Entry, settings: ModelSettings, *, needed: bool = True, whole: bool = False) -> None:
        """Loads a version's file and replaces the loaded one. On failure keeps that and records the reason.

        What was kept of a version suffices, unless all of it is wanted (`whole`).

        Raises NoRoomError, after which it is as before; only if it is `needed`, other versions make room.
        """
        with entry.loading:
            found = entry.found
            before = entry.loaded
            suffices = before is not None and not (whole and before.kept and before.is_of(found, settings))
            if suffices and not entry.changed(settings):
                return
            began = time.monotonic()
            with self._catalogue.lock:
                if entry.loaded is None:
                    entry.happened(Event.LOAD)
                    self._catalogue.choose_anew()
            try:
                with self._memory.room(found, entry.expected_bytes, needed=needed):
                    loaded = self._read(found, settings, first=before is None)
                    self._memory.add(loaded)
            except NoRoomError:
                with self._catalogue.lock:
                    entry.happened(Event.POSTPONE)
                    self._catalogue.choose_anew()
                raise
            except Exception as error:
                self._note_failure(entry, found, settings, error)
                return
            # Before the lock: whether rows are independent may have to be computed.
            facts = Facts.of(loaded)
            with self._catalogue.lock:
                entry.facts, entry.used = facts, entry.used_at
                if not needed:
                    # In the order of use it is where it was.
                    loaded.last_used = time.monotonic() - max(0.0, time.time() - entry.used)
                previous, entry.loaded = entry.loaded, loaded
                entry.tried, entry.tried_with = found.fingerprint, settings
                entry.retries, entry.retry_at = 0, math.inf
                if previous is not None and previous.kept:
                    loaded.ready_time = previous.ready_time
                entry.happened(Event.LOADED, "")
                self._catalogue.choose_anew()
                gone = self._catalogue.find_entry(found.name, found.version) is not entry
        seconds = time.monotonic() - began
        if previous is None or not previous.kept:
            self._observer.version_loaded(found.name, found.version, seconds)
        if previous is not None:
            previous.retire()
        if gone:
            loaded.retire()
            return
        what = {"seconds": round(seconds, 3), "file": found.path.name, "kept": loaded.kept}
        logger.info("%s is ready", found.label, extra=what)
        if self._ready is not None and not loaded.kept:
            self._ready(loaded)

    def _read(self, found: FoundVersion, settings: ModelSettings, *, first: bool) -> LoadedVersion:
        kept = self._reader.read_kept(found, settings, self._memory.released) if first else None
        return kept or self._reader.read(found, settings, self._memory.released)

    def load_if_room(self, entry: Entry, settings: ModelSettings) -> None:
        """Loads a version in a scan. If there is no room, the version is on standby, or the one in use stays."""
        try:
            self.load(entry, settings)
        except NoRoomError as error:
            logger.warning("%s isn't loaded now: %s", entry.found.label, error)
            entry.standby = True

    def test(self, found: FoundVersion, settings: ModelSettings) -> None:
        """Loads a version that isn't published, and drops it.

        Raises VersionFailedError if that fails, and BusyError if there is no room for it.
        """

        def released(loaded: LoadedVersion) -> None:
            self._observer.version_released(loaded.name, loaded.version)

        try:
            with self._memory.room(found, found.size, needed=True):
                loaded = self._reader.read(found, settings, released)
        except NoRoomError:
            raise
        except Exception as error:
            reason, expected = failure_text(error)
            if not expected:
                logger.exception("an uploaded version of model '%s' failed to load", found.name)
            raise VersionFailedError(f"model '{found.name}': the uploaded version can't be loaded: {reason}") from error
        loaded.retire()

    def _note_failure(self, entry: Entry, found: FoundVersion, settings: ModelSettings, error: Exception) -> None:
        reason, expected = failure_text(error)
        logger.error("%s failed to load: %s", found.label, reason, exc_info=None if expected else error)
        self._observer.version_failed(found.name, found.version)
        with self._catalogue.lock:
            of_settings = entry.tried == found.fingerprint
            if entry.loaded is not None and entry.loaded.kept and entry.loaded.is_of(found, settings):
                # What was kept answers for a file that can be loaded only.
                self._memory.unload(entry)
            entry.tried, entry.tried_with = found.fingerprint, settings
            entry.retry_at = math.inf
            if entry.retries < settings.load_retries:
                entry.retry_at = time.monotonic() + settings.load_retry_seconds * 2**entry.retries
                entry.retries += 1
                reason += f" (to be tried again; {settings.load_retries - entry.retries + 1} tries are left)"
            self._catalogue.choose_anew()
            if entry.loaded is not None:
                what = (
                    "the model's settings have changed and it can't be loaded with them"
                    if of_settings
                    else "its file has changed and can't be loaded"
                )
                reason = f"{what}; the previous one stays in use: {reason}"
            entry.happened(Event.LOAD_FAILED, reason)
