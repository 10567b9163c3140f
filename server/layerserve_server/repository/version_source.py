"""Where the versions of a repository come from, if its folder holds copies from a store elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from layerserve_server.repository.layout import FoundVersion


class VersionSource(Protocol):
    """A store, and the fetching of its versions into the repository's folder. Thread-safe."""

    def versions(self) -> Iterable[FoundVersion]:
        """Returns the versions of the store, each as one that isn't in the folder; doesn't block."""

    def want(self, name: str, version: int) -> None:
        """Has a version fetched; doesn't block. It is in the folder later, or `versions` has the problem."""

    def fetch(self, name: str, version: int) -> None:
        """Waits until a version is in the folder.

        Raises UnavailableError if that takes long or the store doesn't answer, VersionFailedError if it can't be.
        """

    def note_use(self, versions: Iterable[tuple[str, int]]) -> None:
        """Called after each scan with the versions in memory, whose files are to stay."""
