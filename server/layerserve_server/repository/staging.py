"""A new version while it is uploaded: a hidden folder in the repository, which becomes a version's by a rename."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from layerserve_server.disk import replace_file, sync
from layerserve_server.errors import (
    IncompleteDataError,
    InvalidRequestError,
    RefusedChangeError,
    TooLargeError,
    safe_text,
)
from layerserve_server.folder_owner import UnfinishedFolder
from layerserve_server.repository import layout, publishing
from layerserve_server.repository.control import CONTROL
from layerserve_server.repository.layout import LABELS, MANIFEST, FoundVersion
from layerserve_server.repository.model_settings import (
    MAX_BYTES,
    SETTINGS_FILE,
    ModelSettings,
    ModelSettingsError,
    parse_settings,
)

#: Maximum number of files of a version.
MAX_FILES: Final = 1024
#: A path of a file: names that don't begin with a dot, up to four.
_NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9._@+=-]{0,199}"
_PATH: Final = re.compile(rf"{_NAME}(/{_NAME}){{0,3}}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
#: Files that the server itself writes.
_OWN: Final = frozenset({MANIFEST, LABELS, CONTROL})
#: Folder of the version in the hidden one: a number, so that its golden file is found as in a published one.
_INNER: Final = "1"


@dataclass(frozen=True, slots=True)
class DeclaredFile:
    """A file that will be uploaded: its path, size in bytes and SHA-256 in hexadecimal."""

    path: str
    bytes: int
    sha256: str


class Staging:
    """Receives the files of a new version, in their order. `discard` must be called at the end."""

    def __init__(self, root: Path, name: str, files: Sequence[DeclaredFile], max_bytes: int) -> None:
        """`root` is the repository's folder, `max_bytes` the maximum total size.

        Raises InvalidRequestError, TooLargeError, and RefusedChangeError if the folder can't be written.
        """
        _check(name, files)
        self.bytes = sum(file.bytes for file in files)
        if self.bytes > max_bytes:
            raise TooLargeError(
                f"files: got {self.bytes} bytes in total, but the server takes up to {max_bytes} (setting "
                "'max_upload_bytes')"
            )
        self.name = name
        self._root = root
        self._files = files
        self._position = -1
        self._file: BinaryIO | None = None
        self._written = 0
        self._digest = hashlib.sha256()
        try:
            root.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(root).free
            if self.bytes > free:
                raise TooLargeError(f"files: got {self.bytes} bytes in total, but the disk has {free} free")
            self._own = UnfinishedFolder(root)
            self.folder = self._own.path / _INNER
            self.folder.mkdir()
        except OSError as error:
            raise unwritable(error) from error

    def add(self, index: int, data: bytes) -> None:
        """Writes the next bytes of a file. Raises InvalidRequestError, IncompleteDataError, RefusedChangeError."""
        if not 0 <= index < len(self._files):
            raise InvalidRequestError(f"file {index}: got a chunk, but the spec declares {len(self._files)} files")
        if index < self._position:
            raise InvalidRequestError(f"file {index}: got a chunk after one of file {self._position}")
        try:
            while self._position < index:
                self._next()
            file = self._files[index]
            if self._written + len(data) > file.bytes:
                raise InvalidRequestError(f"file '{file.path}': got more than the {file.bytes} bytes that are declared")
            assert self._file is not None
            self._file.write(data)
        except OSError as error:
            raise unwritable(error) from error
        self._digest.update(data)
        self._written += len(data)

    def complete(self) -> None:
        """Ends the last file. Raises IncompleteDataError if a file is cut off or doesn't have its digest."""
        try:
            while self._position < len(self._files):
                self._next()
        except OSError as error:
            raise unwritable(error) from error

    def settings(self, kind: type[ModelSettings]) -> tuple[ModelSettings, bytes] | None:
        """Takes the uploaded settings of the model out of the version: returns them with the file's content.

        `kind` is the type of settings. None if there are none. Raises InvalidRequestError if they are wrong.
        """
        path = self.folder / SETTINGS_FILE
        if not path.exists():
            return None
        content = path.read_bytes()
        path.unlink()
        try:
            return parse_settings(content, SETTINGS_FILE, kind), content
        except ModelSettingsError as error:
            raise InvalidRequestError(str(error)) from error

    def write_manifest(self, facts: Mapping[str, Any]) -> FoundVersion:
        """Writes the manifest, with `facts`, and returns the version, whose number is 0 for now.

        Raises InvalidRequestError if the files are no version.
        """
        labels = layout.labels_of_model(self._root / self.name)
        found = layout.find_version(self.name, 0, self.folder, labels)
        digests = {file.path: file for file in self._files}
        main = found.path.relative_to(self.folder).as_posix() if found.path != self.folder else ""
        if found.problem or main not in digests:
            expected = "expected a model.keras or model.h5, or the files of another layout"
            raise InvalidRequestError(f"files: {found.problem or 'no model file is among them'}; {expected}")
        manifest = {**facts, "file": main, "bytes": digests[main].bytes, "sha256": digests[main].sha256}
        try:
            replace_file(self.folder / MANIFEST, publishing.json_bytes(manifest), flushed=True)
            for path in sorted(self.folder.rglob("*"), reverse=True):
                sync(path)
            sync(self.folder)
        except OSError as error:
            raise unwritable(error) from error
        return layout.find_version(self.name, 0, self.folder, labels)

    def discard(self) -> None:
        """Removes what wasn't published."""
        if self._file is not None:
            # On a full disk closing fails, too, as it writes what is still buffered.
            with contextlib.suppress(OSError):
                self._file.close()
        self._own.remove()

    def _next(self) -> None:
        """Ends the current file, and begins the next one, if there is one. Raises OSError, IncompleteDataError."""
        if self._file is not None:
            self._file.close()
            self._file = None
            file = self._files[self._position]
            if self._written < file.bytes:
                raise IncompleteDataError(f"file '{file.path}': got {self._written} bytes, expected {file.bytes}")
            if self._digest.hexdigest() != file.sha256:
                raise IncompleteDataError(
                    f"file '{file.path}': got SHA-256 {self._digest.hexdigest()}, expected {file.sha256}"
                )
        self._position += 1
        self._written, self._digest = 0, hashlib.sha256()
        if self._position < len(self._files):
            path = self.folder / self._files[self._position].path
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("xb")


def unwritable(error: OSError) -> RefusedChangeError:
    """Returns the error of a repository that can't be written."""
    return RefusedChangeError(f"the repository can't be written: {error.strerror}")


def check_name(name: str) -> None:
    """Raises InvalidRequestError if no model can have this name."""
    if not publishing.valid_name(name):
        raise InvalidRequestError(
            f"name: got '{safe_text(name, 150)}', expected letters, digits, '.', '_' and '-', beginning with a letter "
            "or digit"
        )


def _check(name: str, files: Sequence[DeclaredFile]) -> None:
    check_name(name)
    if not 0 < len(files) <= MAX_FILES:
        raise InvalidRequestError(f"files: got {len(files)}, expected 1 to {MAX_FILES}")
    paths = [file.path for file in files]
    folders = {path[:at] for path in paths for at, character in enumerate(path) if character == "/"}
    for file in files:
        shown = safe_text(file.path, 150)
        if not _PATH.fullmatch(file.path):
            raise InvalidRequestError(
                f"path '{shown}': expected up to four names of letters, digits and '._@+=-', with '/' between them, "
                "none of which begins with a dot"
            )
        if file.path in _OWN:
            raise InvalidRequestError(f"path '{shown}': the server writes this file itself")
        if paths.count(file.path) > 1 or file.path in folders:
            raise InvalidRequestError(f"path '{shown}': given more than once")
        if file.bytes < 0:
            raise InvalidRequestError(f"file '{shown}': got {file.bytes} bytes, expected a size")
        if not _SHA256.fullmatch(file.sha256):
            raise InvalidRequestError(f"file '{shown}': got no SHA-256, expected 64 hexadecimal digits in lower case")
        if file.path == SETTINGS_FILE and file.bytes > MAX_BYTES:
            raise TooLargeError(f"file '{shown}': got {file.bytes} bytes, expected up to {MAX_BYTES}")
