"""A model in MLflow, in this process. A server has it in a process of its own: see `program` and `process`.

It looks like a folder of a store: `NAME/VERSION/` has the files of the version that the address names, and
`NAME/labels.json` its alias. A registered version has a `manifest.json`, since its files are complete. Of the model,
only the file with its layers and weights is read, never its code.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from layerserve.registries.mlflow_address import LATEST, URIS, error_text, read_address
from layerserve.registries.mlflow_files import (
    MAX_MLMODEL_BYTES,
    MLMODEL,
    FlavorError,
    data_folder,
    served_name,
    version_files,
)

from layerserve_server.disk import replace_file, sha256, sync
from layerserve_server.extensions.object_stores import retries
from layerserve_server.extensions.object_stores.objects import MAX_DEPTH, MAX_FILES, Progress, StoredObject, StoreError
from layerserve_server.repository.layout import LABELS, MANIFEST

#: Number of files that are transferred at the same time.
TRANSFERS = 4
#: Kinds of errors that are about one version.
_OF_VERSION = ("damaged", "refused", "missing")
#: Time between two looks at how much of a file has arrived, in seconds.
LOOK_SECONDS = 1.0


def _ignore(count: int) -> None:
    pass


@dataclass(frozen=True, slots=True)
class _Version:
    """A version that the address names now.

    Its files are in the folder `base` of `uri`, which ends with a slash unless it is empty. `mark` changes with the
    version.
    """

    number: int
    uri: str
    mark: str
    base: str = ""


class MlflowStore:
    """Implements `objects.Store`. It is read only."""

    def __init__(self, address: str) -> None:
        """Raises StoreError."""
        self._address = address
        self._named = read_address(address)
        if not any(map(os.environ.get, URIS)):
            raise StoreError("away", f"{address}: {URIS[0]} isn't set; set it to the address of MLflow's server")
        retries.prepare("mlflow")
        with self._as_store_errors():
            # Imported here, since only servers of such an address need it.
            from mlflow import MlflowClient

            self._client = MlflowClient()
        self._name = served_name(self._named.name)
        if not self._name:
            raise StoreError(
                "refused", f"{address}: got name {self._named.name!r}, expected one with a letter or digit"
            )

    def objects(self, below: str = "") -> list[StoredObject]:
        """Returns the files of the version that the address names now, or those below a path.

        A version that can't be served has one object, `MLmodel`: fetching it raises the reason.
        """
        version = self._version()
        try:
            found = [one for one, _ in self._files(version).values()]
        except StoreError as error:
            if error.kind not in _OF_VERSION:
                raise
            found = [StoredObject(self._path(version, MLMODEL), 0, str(error))]
        if self._registered:
            # Also of one that can't be served: otherwise its alias would name an unknown version.
            found.append(self._manifest(version))
        if self._named.alias:
            text = self._labels(version)
            found.append(StoredObject(f"{self._name}/{LABELS}", len(text), text))
        return [one for one in found if one.path.startswith(f"{below}/" if below else "")]

    def fetch(
        self, objects: Sequence[StoredObject], names: Sequence[str], folder: Path, progress: Progress = _ignore
    ) -> dict[str, str]:
        """Writes files of a version into a folder. Returns the SHA-256 digests of the files, by name."""
        (number,) = {int(PurePosixPath(one.path).parts[1]) for one in objects}
        version = self._version(number)
        known, manifest = self._files(version), self._manifest(version)
        files = [(one, folder / name) for one, name in zip(objects, names, strict=True) if one != manifest]
        if any(one.path not in known or known[one.path][0] != one for one, _ in files):
            raise StoreError("changed", f"{version.uri}: changed since it was listed")
        done = threading.Event()
        threading.Thread(target=_watch, args=(folder, done, progress), name="progress", daemon=True).start()
        # Threads of its own: files that don't arrive would hold those of other requests.
        pool = ThreadPoolExecutor(TRANSFERS, thread_name_prefix="transfer")
        try:
            repository = self._repository(version)
            tasks = [
                pool.submit(self._fetch_one, repository, version.base + known[one.path][1], one, target)
                for one, target in files
            ]
            for task in tasks:
                task.result()
        finally:
            done.set()
            pool.shutdown(wait=False, cancel_futures=True)
        if self._files(version) != known:
            raise StoreError("changed", f"{version.uri}: changed while it was read")
        if manifest in objects:
            replace_file(folder / MANIFEST, manifest.identity, flushed=True)
        return {name: sha256(folder / name) for name in names}

    def read(self, path: str, limit: int) -> str:
        """Returns the labels."""
        if path != f"{self._name}/{LABELS}" or not self._named.alias:
            raise StoreError("missing", f"{self._address}: has no {path}")
        return self._labels(self._version())

    def create(self, path: str, text: str) -> None:
        """Raises StoreError, as the other methods that write do."""
        raise self._read_only()

    def write(self, path: str, text: str) -> None:
        """See `create`."""
        raise self._read_only()

    def upload(self, file: Path, path: str, progress: Progress = _ignore) -> None:
        """See `create`."""
        raise self._read_only()

    def delete(self, path: str) -> None:
        """See `create`."""
        raise self._read_only()

    def close(self) -> None:
        """Does nothing: what is in progress ends with its caller."""

    @property
    def _registered(self) -> bool:
        return bool(self._named.version or self._named.alias)

    def _read_only(self) -> StoreError:
        return StoreError("unsupported", f"{self._address} is read only")

    def _version(self, number: int = 0) -> _Version:
        """Returns the version that the address names, or else the one with this number."""
        named = self._named
        with self._as_store_errors():
            if named.run:
                self._client.get_run(named.run)
                # Where the library lists the whole run, all paths are relative to it.
                return _Version(1, f"runs:/{named.run}", "", named.text.removeprefix(f"runs:/{named.run}/") + "/")
            if not self._registered:
                found = self._client.get_logged_model(named.name)
                self._check_ready(named.name, found.status)
                return _Version(1, named.text, str(found.creation_timestamp))
            if number or named.version:
                found = self._client.get_model_version(named.name, str(number or named.version))
            elif named.alias == LATEST:
                found = self._latest()
            else:
                found = self._client.get_model_version_by_alias(named.name, named.alias)
        self._check_ready(f"version {found.version}", found.status)
        number = int(found.version)
        return _Version(number, f"models:/{named.name}/{number}", str(found.creation_timestamp))

    def _check_ready(self, what: str, status: object) -> None:
        if status != "READY":
            raise StoreError("away", f"{self._address}: {what} is {status}, expected READY")

    def _latest(self) -> Any:
        """Returns the newest version of the model."""
        quoted = self._named.name.replace("'", "\\'")
        found = self._client.search_model_versions(f"name='{quoted}'", max_results=1, order_by=["version_number DESC"])
        if not found:
            raise StoreError("missing", f"{self._address}: the model has no versions")
        return found[0]

    def _repository(self, version: _Version) -> Any:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with self._as_store_errors():
            return get_artifact_repository(version.uri)

    def _files(self, version: _Version) -> dict[str, tuple[StoredObject, str]]:
        """Returns the files of a version: objects with their paths in the MLflow model, by their own."""
        repository = self._repository(version)
        with self._as_store_errors():
            beside = dict(_listed(repository, version.base, deep=False))
        if MLMODEL not in beside:
            found = ", ".join(sorted(beside)[:5]) or "none"
            raise StoreError("damaged", f"{version.uri}: files: got {found}, expected {MLMODEL}")
        text = self._mlmodel(repository, version)
        try:
            folder = data_folder(text)
            with self._as_store_errors():
                below = _listed(repository, version.base, folder, deep=True)
                sizes = {**beside, **dict(islice(below, MAX_FILES + 1))}
            files = {**version_files(folder, sizes), MLMODEL: MLMODEL}
        except FlavorError as error:
            raise StoreError("refused", f"{version.uri}: {error}") from None
        # The text has the id of the model, and the time at which it was logged.
        mark = f"{version.mark} {hashlib.sha256(text.encode()).hexdigest()}"
        objects = [StoredObject(self._path(version, name), sizes[path], mark) for name, path in files.items()]
        return {one.path: (one, path) for one, path in zip(objects, files.values(), strict=True)}

    def _mlmodel(self, repository: Any, version: _Version) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = self._download(repository, version.base + MLMODEL, Path(folder))
            with path.open("rb") as file:
                content = file.read(MAX_MLMODEL_BYTES + 1)
        if len(content) > MAX_MLMODEL_BYTES:
            raise StoreError("refused", f"{version.uri}: {MLMODEL}: got more than {MAX_MLMODEL_BYTES} bytes")
        return content.decode("utf-8", "replace")

    def _fetch_one(self, repository: Any, path: str, one: StoredObject, target: Path) -> None:
        """Writes a file."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as folder:
            arrived = self._download(repository, path, Path(folder))
            # Some of MLflow's stores don't know sizes.
            if (size := arrived.stat().st_size) != one.size and one.size:
                raise StoreError("damaged", f"{self._address}: {path}: got {size} bytes, expected {one.size}")
            arrived.rename(target)
        sync(target)

    def _download(self, repository: Any, path: str, folder: Path) -> Path:
        """Has the library write a file somewhere in a folder. Returns where."""
        with self._as_store_errors():
            arrived = Path(repository.download_artifacts(path, dst_path=str(folder)))
        if arrived.is_symlink() or not arrived.is_file() or not arrived.resolve().is_relative_to(folder.resolve()):
            raise StoreError("damaged", f"{self._address}: {path}: isn't a file")
        return arrived

    def _path(self, version: _Version, name: str) -> str:
        return f"{self._name}/{version.number}/{name}"

    def _manifest(self, version: _Version) -> StoredObject:
        """Returns the object without a file in MLflow. Its text is its identity, too."""
        text = json.dumps({"mlflow": version.uri, "created": version.mark})
        return StoredObject(self._path(version, MANIFEST), len(text), text)

    def _labels(self, version: _Version) -> str:
        return json.dumps({served_name(self._named.alias): version.number})

    @contextmanager
    def _as_store_errors(self) -> Iterator[None]:
        """Turns whatever the library raises into a StoreError."""
        try:
            yield
        except StoreError:
            raise
        except MemoryError:
            raise StoreError("refused", f"{self._address}: takes too much memory") from None
        except Exception as error:
            missing = getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")
            raise StoreError("missing" if missing else "away", f"{self._address}: {error_text(error)}") from error


def _listed(
    repository: Any, base: str, folder: str = "", *, deep: bool, depth: int = MAX_DEPTH
) -> Iterator[tuple[str, int]]:
    """Yields the files of a folder below `base` with their sizes, in bytes; if `deep`, those of its folders, too."""
    for one in repository.list_artifacts((base + folder).rstrip("/") or None):
        path = str(one.path).removeprefix(base)
        if not one.is_dir:
            yield path, int(one.file_size or 0)
        elif deep and depth:
            yield from _listed(repository, base, path, deep=True, depth=depth - 1)


def _watch(folder: Path, done: threading.Event, progress: Progress) -> None:
    """Reports what arrives in a folder, until it is done: the library doesn't."""
    before = 0
    while not done.wait(LOOK_SECONDS):
        with suppress(OSError):
            now = sum(path.lstat().st_size for path in folder.rglob("*"))
            if now != before:
                progress(max(0, now - before))
            before = now
