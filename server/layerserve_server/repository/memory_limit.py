"""The versions in memory, and the limit of what they take: those that were used least recently make room for others."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from layerserve_server.errors import BusyError, VersionFailedError
from layerserve_server.repository import layout
from layerserve_server.repository.catalogue import Catalogue
from layerserve_server.repository.entry import Entry
from layerserve_server.repository.layout import FoundVersion
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.repository.version_states import Event

if TYPE_CHECKING:
    from layerserve_server.observability.metrics import Metrics

logger = logging.getLogger(__name__)

#: Time for which a version that was loaded isn't unloaded to make room, in seconds: it shall answer at least the
#: requests for which it was loaded.
SETTLED_SECONDS: Final = 0.5
#: Maximum time that a load waits until others have ended with the versions that are to make room, and the interval
#: between two looks, in seconds.
ROOM_SECONDS: Final = 5.0
_LOOK_SECONDS: Final = 0.02
#: Number of uses after which a version is worth the time and memory of finding its fastest engine.
OFTEN: Final = 100
#: Share of the limit up to which versions are loaded before a request comes for them.
FILLED: Final = 0.9
#: A file may have, beside the weights, an optimizer's state of up to three times their size. So a file that is larger
#: than the limit may hold a version that isn't, but not one that is larger than this multiple.
_FILE_TIMES: Final = 4


class NoRoomError(BusyError):
    """The versions in memory can't make room for another one now."""


class MemoryLimit:
    """The versions in memory: makes room for one that is to be loaded, and unloads what isn't needed. Thread-safe.

    With a limit, a version that isn't in memory is on standby: it can be the default, and a request for it loads it.
    """

    def __init__(self, catalogue: Catalogue, observer: Metrics, *, max_bytes: int, max_old_versions: int) -> None:
        """`max_bytes` is the limit of the memory of all versions; 0 for none.

        `max_old_versions` is the number of versions that stay in memory after requests have named them.
        """
        self._catalogue = catalogue
        self._observer = observer
        self._max_bytes = max_bytes
        self._max_old_versions = max_old_versions
        #: Versions that aren't freed yet, retired ones included.
        self.living: set[LoadedVersion] = set()
        #: Bytes for versions that are being loaded.
        self._reserved = 0
        self._freed = threading.Condition(catalogue.lock)

    @property
    def limited(self) -> bool:
        """Whether there is a limit, so that versions are loaded when requests come for them."""
        return self._max_bytes > 0

    def loaded_bytes(self) -> int:
        """Returns the memory of all versions, in bytes."""
        with self._catalogue.lock:
            return sum(one.memory_bytes for one in self.living)

    def uses(self) -> Mapping[str, float]:
        """Returns when each model was last used, as Unix times in seconds."""
        with self._catalogue.lock:
            return {
                name: used
                for name, record in self._catalogue.models.items()
                if (used := max((entry.used_at for entry in record.versions.values()), default=0.0))
            }

    @contextmanager
    def room(self, found: FoundVersion, size: int, *, needed: bool) -> Iterator[None]:
        """Keeps room for a version of about `size` bytes while it is loaded.

        Only if it is `needed` by requests, others make room for it. Raises NoRoomError if there is none, and
        VersionFailedError if the version is larger than the limit.
        """
        if not self.limited:
            yield
            return
        if found.size > _FILE_TIMES * self._max_bytes:
            raise VersionFailedError(self._too_large(found.size, "its file has"))
        size = min(size, self._max_bytes)
        self._reserve(found, size, needed=needed)
        try:
            yield
        finally:
            with self._catalogue.lock:
                self._reserved -= size

    def _reserve(self, found: FoundVersion, size: int, *, needed: bool) -> None:
        limit = self._max_bytes if needed else int(FILLED * self._max_bytes)
        until = time.monotonic() + ROOM_SECONDS
        with self._freed:
            while self.loaded_bytes() + self._reserved + size > limit:
                if needed and self._evict_one():
                    continue
                left = until - time.monotonic()
                if not needed or left <= 0:
                    raise NoRoomError(
                        f"{found.label} needs {size} bytes, and the loaded models, which are in use, have "
                        f"{self.loaded_bytes() + self._reserved} of {self._max_bytes}",
                        1.0,
                    )
                self._freed.wait(min(left, _LOOK_SECONDS))
            self._reserved += size

    def _too_large(self, size: int, has: str) -> str:
        return f"{has} {size} bytes, more than all models may take: setting 'max_model_bytes' is {self._max_bytes}"

    def worth_tuning(self) -> Sequence[LoadedVersion]:
        """Returns versions in memory that have been used often, each once: other engines take time and memory."""
        with self._catalogue.lock:
            found = [one for one in self.living if one.uses >= OFTEN and not one.tuned and not one.retired]
            for one in found:
                one.tuned = True
        return found

    def shrink(self) -> None:
        """Unloads versions that aren't in use while more is in memory than the limit: engines may have been added."""
        with self._catalogue.lock:
            for one in self.living:
                one.measure()
            while self.limited and self.loaded_bytes() + self._reserved > self._max_bytes and self._evict_one():
                pass

    def _evict_one(self) -> bool:
        """Unloads the version that was used least recently of those that may go. Returns whether there was one."""
        now = time.monotonic()
        idle = [
            (entry.loaded.last_used, number, entry)
            for record in self._catalogue.models.values()
            if not record.in_force.keep_loaded
            for number, entry in record.versions.items()
            if entry.loaded is not None and now - entry.loaded.loaded_at > SETTLED_SECONDS
        ]
        return any(self._evict(entry) for _, _, entry in sorted(idle, key=lambda one: one[:2]))

    def _evict(self, entry: Entry) -> bool:
        """Unloads a version unless it is in use; the next request for it loads it."""
        loaded = entry.loaded
        if loaded is None or entry.leaving or not loaded.retire(only_unused=True):
            return False
        entry.used, entry.loaded = entry.used_at, None
        entry.happened(Event.EVICT)
        entry.tried, entry.standby = layout.NOTHING, True
        self._catalogue.choose_anew()
        self._observer.version_evicted(loaded.name)
        return True

    def unload_unused(self, keep: Entry | None = None) -> None:
        """Unloads versions that the policy doesn't keep, that have no label, and aren't among the last used others."""
        with self._catalogue.lock:
            old: list[Entry] = []
            for record in self._catalogue.models.values():
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
                key=lambda entry: (entry is keep, entry.loaded.last_used if entry.loaded else -math.inf), reverse=True
            )
            kept = on_demand[: self._max_old_versions] if keep is None else on_demand[: max(1, self._max_old_versions)]
            for entry in old:
                if entry not in kept:
                    self.unload(entry)

    def unload(self, entry: Entry) -> None:
        """Unloads a version. Calls that have leased it go on with it."""
        entry.used = entry.used_at
        loaded, entry.loaded, entry.on_demand = entry.loaded, None, False
        entry.tried = layout.NOTHING
        self._catalogue.choose_anew()
        if loaded is not None:
            entry.happened(Event.UNLOAD)
            loaded.retire()

    def add(self, loaded: LoadedVersion) -> None:
        """Counts a version that was read, until it is released. Raises VersionFailedError if it exceeds the limit."""
        with self._catalogue.lock:
            self.living.add(loaded)
        if self.limited and loaded.memory_bytes > self._max_bytes:
            loaded.retire()
            raise VersionFailedError(self._too_large(loaded.memory_bytes, "it takes"))

    def released(self, loaded: LoadedVersion) -> None:
        """Called when the last lease of a retired version has ended."""
        logger.info("%s is unloaded", loaded.found.label)
        with self._freed:
            self.living.discard(loaded)
            self._freed.notify_all()
            entry = self._catalogue.find_entry(loaded.name, loaded.version)
            if entry is not None and entry.loaded not in (None, loaded):
                return  # It was replaced by a changed file of the same version.
            if entry is not None:
                entry.happened(Event.RELEASE)
        self._observer.version_released(loaded.name, loaded.version)
