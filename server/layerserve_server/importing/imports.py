"""Model files as folders that another process has read, kept in the state folder and found again by their content.

```
paths/KEY.json    for each path of a model: its files (size, times, sha256), and its import
SIZE-DIGEST/      an import, an artifact: see `layergraph.archive.imported`
```
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from layerserve_server.artifacts.artifacts import Artifacts
from layerserve_server.disk import json_object, replace_file, sha256
from layerserve_server.importing.importer import reading
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.records import DAMAGED

if TYPE_CHECKING:
    from layergraph import Model
    from layergraph.archive import ModelArchive

logger = logging.getLogger(__name__)

#: A file that changed less than this before it was read may change again within the same time stamp, in seconds.
RACY_SECONDS: Final = 2.0
#: Age after which an import that no path refers to is removed, and time between two searches for them, in seconds.
UNUSED_SECONDS: Final = 3600.0
#: Number of times that a file is read that changes meanwhile.
_TRIES: Final = 3
#: Names of entries of paths, and of imports. Others are never removed: the folder may be a link to one that has more
#: in it.
_ENTRY: Final = re.compile(r"[0-9a-f]{64}\.json")
_IMPORT: Final = re.compile(r"[0-9]+-[0-9a-f]{64}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What changes with a file's content: inode, size, and times of the last changes, in nanoseconds since 1970."""

    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> FileFacts:
        """Raises OSError."""
        status = path.stat()
        return cls(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Imports:
    """Loads models from their imports, which are made when needed. Processes may share the folder. Thread-safe."""

    def __init__(self, folder: Path, jobs: Jobs, spare: Path | None = None) -> None:
        """`spare` is used where `folder` can't be written, and a temporary folder where neither can be."""
        self.folder = folder
        self._jobs = jobs
        self.spare = spare
        self._own: tempfile.TemporaryDirectory[str] | None = None
        self._warned = False
        #: Digests of files, by path.
        self._digests: dict[Path, tuple[FileFacts, str]] = {}
        self._cleaned = -math.inf
        #: What was read, by the folder below which it is kept.
        self._stores: dict[Path, Artifacts] = {}

    def load(self, path: Path) -> Model:
        """Loads the model in the file or folder `path`. Raises ModelFileError, and OSError if it can't be read."""
        # Imported here, since it imports torch.
        from layergraph.archive.finding import find_model

        found = find_model(path).absolute()
        for folder in (self.folder, self.spare):
            try:
                if folder is not None:
                    return self._load(folder, found)
            except OSError as error:
                (logger.debug if self._warned else logger.warning)(
                    "can't keep what is read of %s in %s, which would make later loads faster: %s",
                    found.name,
                    folder,
                    error,
                )
                self._warned = True
        if self._own is None:
            self._own = tempfile.TemporaryDirectory(prefix="layerserve-imports-")
        return self._load(Path(self._own.name), found)

    def close(self) -> None:
        """Removes imports that couldn't be kept in the state folder."""
        if self._own is not None:
            self._own.cleanup()

    def sha256(self, path: Path) -> str:
        """Returns a file's SHA-256 digest, in hexadecimal. Doesn't read a file that hasn't changed. Raises OSError."""
        facts = FileFacts.of(path)
        if path not in self._digests:
            # An earlier process may have written it down.
            self._known(path.absolute(), self._entry(self.folder, path.absolute()))
        known = self._digests.get(path)
        if known is None or known[0] != facts:
            known = self._digests[path] = facts, sha256(path)
        return known[1]

    def _load(self, folder: Path, found: Path) -> Model:
        (folder / "paths").mkdir(parents=True, exist_ok=True)
        entry = self._entry(folder, found)
        model = self._mapped(folder, found, entry)
        if model is None:
            with self._store(folder).locked(entry.stem):
                # Another process may have read it meanwhile.
                model = self._mapped(folder, found, entry)
                tries = _TRIES
                while model is None:
                    tries -= 1
                    model = self._read(folder, found, entry, last_try=not tries)
        return model

    def _store(self, folder: Path) -> Artifacts:
        return self._stores.setdefault(
            folder,
            Artifacts(folder, None, unused_seconds=UNUSED_SECONDS),
        )

    @staticmethod
    def _entry(folder: Path, found: Path) -> Path:
        return folder / "paths" / f"{_digest(str(found))}.json"

    def _mapped(self, folder: Path, found: Path, entry: Path) -> Model | None:
        """Loads a model that has been read before; None if it hasn't, or its file has changed."""
        from layergraph.archive import DEFAULT_LIMITS
        from layergraph.archive.imported.opening import open_import
        from layergraph.errors import ModelFileError
        from layergraph.models.loading import load_archive

        name = self._known(found, entry) or self._same_content(folder, found, entry)
        store = self._store(folder)
        if name is None or not store.is_whole(name):
            return None
        try:
            return load_archive(open_import(store.path(name), found, DEFAULT_LIMITS))
        except ModelFileError as error:
            # Damaged, or it needs other arrays than for an earlier release.
            logger.info("reading %s again: %s", found.name, error)
            shutil.rmtree(store.path(name), ignore_errors=True)
            return None

    def _known(self, found: Path, entry: Path) -> str | None:
        """The import of a path whose files haven't changed since it was written down."""
        try:
            known = json_object(entry.read_bytes())
            facts = {Path(path): FileFacts(*numbers) for path, numbers in known["facts"].items()}
            name, digests = known["import"], {Path(path): digest for path, digest in known["sha256"].items()}
            if found not in facts or not _IMPORT.fullmatch(name) or not all(map(_SHA256.fullmatch, digests.values())):
                return None
            if known["racy"] or any(FileFacts.of(path) != before for path, before in facts.items()):
                return None
            self._digests |= {path: (facts[path], digest) for path, digest in digests.items()}
            return str(name)
        except DAMAGED:
            return None

    def _same_content(self, folder: Path, found: Path, entry: Path) -> str | None:
        """The import of another path, or time, whose only file had the same content."""
        began, facts = time.time(), FileFacts.of(found)
        if not any(name.startswith(f"{facts.size}-") for name in os.listdir(folder)):
            return None
        name = _name(facts.size, {"": self.sha256(found)})
        if not self._store(folder).path(name).is_dir():
            return None
        self._write_down(entry, name, [found], {found: facts}, began)
        return name

    def _read(self, folder: Path, found: Path, entry: Path, *, last_try: bool) -> Model | None:
        """Has a file read by the other process, and keeps the import. None if the file has changed meanwhile."""
        from layergraph.archive import DEFAULT_LIMITS
        from layergraph.archive.imported.opening import open_import
        from layergraph.errors import CorruptFileError
        from layergraph.models.loading import load_archive

        began, before = time.time(), FileFacts.of(found)
        store = self._store(folder)
        with store.making() as unfinished:
            # The file's digest meanwhile: it takes as long as reading.
            with ThreadPoolExecutor(1) as beside:
                hashed = beside.submit(self.sha256, found)
                with reading(self._jobs, found, unfinished) as read:
                    archive = open_import(unfinished, found, DEFAULT_LIMITS, read.arrays)
                    facts = {path: FileFacts.of(path) for path in _dependencies(archive)} | {found: before}
                    model = load_archive(archive)
                hashed.result()
            if any(FileFacts.of(path) != one for path, one in facts.items()):
                if last_try:
                    raise CorruptFileError(found, "was changed while it was read")
                return None
            place = found.parent
            digests = {str(file.relative_to(place)): self.sha256(file) for file in archive.files}
            size = sum(facts[file].size for file in archive.files)
            name = _name(size, digests if len(digests) > 1 else {"": digests[found.name]})
            store.put(unfinished, name)
            self._write_down(entry, name, archive.files, facts, began)
        return model

    def _write_down(
        self,
        entry: Path,
        name: str,
        files: Sequence[Path],
        facts: Mapping[Path, FileFacts],
        began: float,
    ) -> None:
        content = {
            "path": str(files[0]),
            "import": name,
            "facts": {str(path): astuple(one) for path, one in facts.items()},
            "sha256": {str(file): self.sha256(file) for file in files},
            "racy": max(max(one.modified, one.changed) for one in facts.values()) / 1e9 > began - RACY_SECONDS,
        }
        replace_file(entry, json.dumps(content))
        self._remove_unused(entry.parents[1])

    def _remove_unused(self, folder: Path) -> None:
        """Removes entries and digests of paths that are gone, and imports that no path has."""
        if time.monotonic() - self._cleaned < UNUSED_SECONDS:
            return
        self._cleaned = time.monotonic()
        for path in tuple(self._digests):
            if not path.exists():
                self._digests.pop(path, None)
        used = set()
        for entry in (folder / "paths").iterdir():
            if not _ENTRY.fullmatch(entry.name):
                continue
            with suppress(*DAMAGED):
                known = json_object(entry.read_bytes())
                if Path(known["path"]).exists():
                    used.add(known["import"])
                else:
                    entry.unlink()
        self._store(folder).sweep(used)


def _dependencies(archive: ModelArchive) -> list[Path]:
    """The files of a model; for several also their folders, since other files in them could be preferred."""
    files = list(archive.files)
    return files + sorted({file.parent for file in files}) if len(files) > 1 else files


def _name(size: int, digests: Mapping[str, str]) -> str:
    """Name of the import of files of `size` bytes, by the files' digests, which depends on what reads them, too."""
    from layergraph.archive.imported.form import FORMAT

    return f"{size}-{_digest(json.dumps([FORMAT, _release(), sorted(digests.items())]))}"


@cache
def _release() -> str:
    """This release. Cached, as finding it takes as long as mapping a small model."""
    return version("layerserve")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


@contextmanager
def temporary_imports() -> Iterator[Imports]:
    """Imports that are removed at the end, for a command."""
    with tempfile.TemporaryDirectory(prefix="layerserve-imports-") as folder:
        jobs = Jobs()
        imports = Imports(Path(folder), jobs)
        try:
            yield imports
        finally:
            imports.close()
            jobs.close()
