"""What a store holds: its objects, as listed, and the errors of using it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

#: Maximum number of objects of a version, and of folders above each.
MAX_FILES, MAX_DEPTH = 10_000, 8
#: Why a store can't do something. `away`: it doesn't answer, later it may. `missing`: it has no such object. `changed`:
#: an object changed while it was read. `damaged`: what arrived isn't the object. `refused`: a limit is exceeded.
#: `full`: the copies have no room. `exists`: an object that was to be created is there. `unsupported`: a store of this
#: kind can't do it.
Kind = Literal["away", "missing", "changed", "damaged", "refused", "full", "exists", "unsupported"]


class StoreError(OSError):
    """A store can't be read or written. `kind` is the reason, `strerror` its text."""

    def __init__(self, kind: Kind, text: str) -> None:
        super().__init__(errno.EIO, text)
        self.kind: Kind = kind

    def __str__(self) -> str:
        return str(self.strerror)


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object of a store.

    `path` is relative to the store's address, `size` in bytes, and `identity` changes with the content. `md5` and
    `sha256` are hexadecimal digests; empty where the store has none.
    """

    path: str
    size: int
    identity: str
    md5: str = ""
    sha256: str = ""

    def as_json(self) -> dict[str, Any]:
        """Returns its fields, for JSON."""
        return asdict(self)


class Store(Protocol):
    """A folder of objects, addressed by paths relative to it. Thread-safe. All methods raise StoreError."""

    def objects(self, below: str = "") -> list[StoredObject]:
        """Returns all objects, or those below a path. If all are as before, they may be the same list as before."""

    def fetch(self, objects: Sequence[StoredObject], names: Sequence[str], folder: Path) -> dict[str, str]:
        """Writes objects into files of a folder. Returns the SHA-256 digests of the files, by name.

        `names` are the files' paths relative to `folder`. On an error files may be left.
        """

    def read(self, path: str, limit: int) -> str:
        """Returns the text of an object of at most `limit` bytes."""

    def create(self, path: str, text: str) -> None:
        """Writes an object that must not exist: if it does, the error's kind is `exists`."""

    def write(self, path: str, text: str) -> None:
        """Writes or replaces an object, atomically."""

    def upload(self, file: Path, path: str) -> None:
        """Writes or replaces an object with the content of a file."""

    def delete(self, path: str) -> None:
        """Deletes an object, if it exists."""

    def close(self) -> None:
        """Ends what is in progress."""


#: Called with a number of bytes that were transferred.
Progress = Callable[[int], None]
