"""The copies of a store in a process that doesn't fetch: it asks the main process to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from layerserve_server.errors import UnavailableError, VersionFailedError
from layerserve_server.extensions.stores.cache import Cache
from layerserve_server.extensions.stores.copies import absent_versions
from layerserve_server.extensions.stores.mirror import TICK_SECONDS, WAIT_SECONDS
from layerserve_server.repository.layout import FoundVersion


class ReadOnlyMirror:
    """Implements `VersionSource` by the files that another process's Mirror writes. Thread-safe."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._lock = threading.Lock()
        self._read_at = -1
        self._versions: list[FoundVersion] = []

    def versions(self) -> list[FoundVersion]:
        """Returns the versions of the store."""
        with self._lock:
            time_of_listing = self._cache.listing_time()
            if time_of_listing != self._read_at:
                if (known := self._cache.read_listing()) is not None:
                    listing, problems = known
                    self._versions = absent_versions(listing.versions, problems, self._cache)
                self._read_at = time_of_listing
            return self._versions

    def want(self, name: str, version: int) -> None:
        """Does nothing: the main process wants the same versions."""

    def fetch(self, name: str, version: int) -> None:
        """Asks the main process for a version, and waits until it is there. Raises as `VersionSource.fetch` does."""
        key, label = (name, version), f"model '{name}' version {version}"
        end = time.monotonic() + WAIT_SECONDS
        self._cache.ask(key)
        while time.monotonic() < end:
            if key in self._cache.kept():
                return
            (problem,) = [one.problem for one in self.versions() if (one.name, one.version) == key] or [""]
            if problem:
                raise VersionFailedError(f"{label} can't be fetched: {problem}")
            time.sleep(TICK_SECONDS)
        raise UnavailableError(f"{label} is being fetched from the store; try again in a moment")

    def note_use(self, versions: Iterable[tuple[str, int]]) -> None:
        """Records when versions were used, so that their copies are removed last."""
        self._cache.use(versions)
