"""Where the versions of a repository come from, if its folder holds copies from a store elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from layerserve_server.repository.layout import FoundVersion


class Origin(Protocol):
    """A store, and the fetching of its versions into the repository's folder. Thread-safe."""

    def absent(self) -> Iterable[FoundVersion]:
        """Returns the versions of the store that aren't in the folder; doesn't block."""

    def want(self, name: str, version: int) -> None:
        """Has a version fetched; doesn't block. It is in the folder later, or `absent` has the problem."""

    def fetch(self, name: str, version: int) -> None:
        """Waits until a version is in the folder.

        Raises UnavailableError if that takes long or the store doesn't answer, VersionFailedError if it can't be.
        """

    def note_use(self, versions: Iterable[tuple[str, int]]) -> None:
        """Called after each scan with the versions in memory, whose files are to stay."""

    def check_writable(self) -> None:
        """Raises OSError if nothing can be published."""

    def publish(self, name: str, file: Path, facts: Mapping[str, Any], *, above: int) -> int:
        """Publishes as `publishing.publish` does, in the store and in the folder. Raises OSError."""

    def write_label(self, name: str, label: str, version: int) -> None:
        """Sets a label as `publishing.write_label` does, in the store and in the folder. Raises OSError."""
