"""A store through fsspec, in this process. A server has it in a process of its own: see `program` and `process`."""

from __future__ import annotations

import hashlib
import os
import re
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from layerserve_server.datasets.data_store import VERSION_KEYS
from layerserve_server.disk import replace_file
from layerserve_server.extensions.object_stores import retries
from layerserve_server.extensions.object_stores.addresses import EXCLUSIVE, scheme_of
from layerserve_server.extensions.object_stores.objects import Progress, StoredObject, StoreError
from layerserve_server.repository.layout import SUFFIXES

#: Maximum number of objects of a store.
MAX_OBJECTS = 200_000
#: Size of the parts in which an object is read, in bytes.
CHUNK = 4 << 20
#: Number of objects of a version that are transferred at the same time.
TRANSFERS = 4
_PLAIN_MD5 = re.compile(r"[0-9a-f]{32}")
#: Options for stores whose own waiting times are longer than a server should wait.
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 20, "retries": {"max_attempts": 0}}},
}
_OPTIONS["s3a"] = _OPTIONS["s3"]


def _ignore(count: int) -> None:
    pass


class FsspecStore:
    """Implements `objects.Store`."""

    def __init__(self, address: str) -> None:
        """Raises StoreError."""
        self._address = address
        self._scheme = scheme_of(address)
        with _as_store_errors(address):
            # Imported here, since only servers with a remote root need it.
            import fsspec
            from fsspec.core import url_to_fs

            retries.prepare(self._scheme)
            options = _OPTIONS.get(self._scheme, {})
            # Credentials and endpoints come from the store's own variables and files, and from fsspec's.
            options = {key: value for key, value in options.items() if key not in _configured(fsspec, self._scheme)}
            self._files, root = url_to_fs(address, use_listings_cache=False, skip_instance_cache=True, **options)
            retries.limit(self._files)
            _limit_listings(self._files, address)
        self._root = root.rstrip("/")
        #: The only file that is served; empty for a folder.
        self._only = ""
        if Path(self._root).suffix in SUFFIXES:
            self._root, _, self._only = self._root.rpartition("/")

    def objects(self, below: str = "") -> list[StoredObject]:
        """Returns all objects, or those below a path."""
        with _as_store_errors(self._address):
            self._files.invalidate_cache()
            start = self._full(below or self._only)
            try:
                found: Mapping[str, Mapping[str, Any]] = self._files.find(start, detail=True)
            except FileNotFoundError:
                raise StoreError("away", f"{self._address}: no such bucket or folder") from None
            _check_count(len(found), self._address)
            if not found and not below and not self._has_root():
                raise StoreError("away", f"{self._address}: no such bucket or folder")
            return [
                _described(path.removeprefix(self._root).lstrip("/"), about, self._scheme)
                for path, about in found.items()
                if about.get("type") != "directory" and not path.endswith("/")
            ]

    def fetch(
        self, objects: Sequence[StoredObject], names: Sequence[str], folder: Path, progress: Progress = _ignore
    ) -> dict[str, str]:
        """Writes objects into files of a folder. Returns the SHA-256 digests of the files, by name."""
        # Threads of its own: objects that don't arrive would hold those of other versions.
        pool = ThreadPoolExecutor(TRANSFERS, thread_name_prefix="transfer")
        try:
            tasks = [
                pool.submit(self._fetch_one, one, folder / name, progress)
                for one, name in zip(objects, names, strict=True)
            ]
            return {name: task.result() for name, task in zip(names, tasks, strict=True)}
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def read(self, path: str, limit: int) -> str:
        """Returns the text of an object of at most `limit` bytes."""
        with _as_store_errors(self._where(path)), self._files.open(self._full(path), "rb", cache_type="none") as file:
            content: bytes = file.read(limit + 1)
        if len(content) > limit:
            raise StoreError("refused", f"{self._where(path)}: got more than {limit} bytes")
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            raise StoreError("damaged", f"{self._where(path)}: isn't a text in UTF-8") from None

    def create(self, path: str, text: str) -> None:
        """Writes an object that must not exist."""
        if self._scheme not in EXCLUSIVE:
            raise StoreError(
                "unsupported",
                f"{self._scheme}:// can't create an object only if it doesn't exist: nothing is published",
            )
        with _as_store_errors(self._where(path)):
            if self._scheme == "file":
                Path(self._full(path)).parent.mkdir(parents=True, exist_ok=True)
                with open(self._full(path), "xb") as file:
                    file.write(text.encode())
            else:
                self._files.pipe_file(self._full(path), text.encode(), mode="create")

    def write(self, path: str, text: str) -> None:
        """Writes or replaces an object, atomically."""
        with _as_store_errors(self._where(path)):
            if self._scheme != "file":
                self._files.pipe_file(self._full(path), text.encode())
                return
            target = Path(self._full(path))
            target.parent.mkdir(parents=True, exist_ok=True)
            replace_file(target, text, flushed=True)

    def upload(self, file: Path, path: str, progress: Progress = _ignore) -> None:
        """Writes or replaces an object with the content of a file."""
        from fsspec.callbacks import Callback

        class Counted(Callback):  # type: ignore[misc]
            def relative_update(self, inc: int = 1) -> None:
                progress(inc)

            def absolute_update(self, value: int) -> None:
                progress(value)

        with _as_store_errors(self._where(path)):
            self._files.put_file(str(file), self._full(path), callback=Counted())
            arrived, expected = self._files.info(self._full(path))["size"], file.stat().st_size
        if arrived != expected:
            raise StoreError("damaged", f"{self._where(path)}: got {arrived} bytes, expected {expected}")

    def delete(self, path: str) -> None:
        """Deletes an object, if it exists."""
        try:
            with _as_store_errors(self._where(path)):
                self._files.rm_file(self._full(path))
        except StoreError as error:
            if error.kind != "missing":
                raise

    def close(self) -> None:
        """Does nothing: what is in progress ends with its caller."""

    def _has_root(self) -> bool:
        """Whether an empty folder exists; in stores without folders, whether its bucket or repository does."""
        if self._scheme in ("file", "memory"):
            return bool(self._files.exists(self._root))
        parts = 2 if self._scheme == "hf" else 1
        return bool(self._files.exists("/".join(self._root.split("/")[:parts])))

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _where(self, path: str) -> str:
        return f"{self._address.rstrip('/')}/{path}"

    def _fetch_one(self, one: StoredObject, target: Path, progress: Progress) -> str:
        """Reads an object into a new file. Returns its SHA-256 digest."""
        digests = self._copy(one, target, progress)
        if one.md5 and digests["md5"] != one.md5:
            # The ETag of an encrypted object isn't its MD5 digest, but a second transfer has the same errors only by
            # the worst of luck.
            target.unlink()
            if self._copy(one, target, progress) != digests:
                raise StoreError("damaged", f"{self._where(one.path)}: its MD5 digest differs from the store's")
        if one.sha256 and digests["sha256"] != one.sha256:
            raise StoreError("damaged", f"{self._where(one.path)}: its SHA-256 digest differs from the store's")
        return digests["sha256"]

    def _copy(self, one: StoredObject, target: Path, progress: Progress) -> dict[str, str]:
        where = self._where(one.path)
        digests = {"md5": hashlib.md5(usedforsecurity=False), "sha256": hashlib.sha256()}
        target.parent.mkdir(parents=True, exist_ok=True)
        path = self._full(one.path)
        got = 0
        with _as_store_errors(where), target.open("xb") as file:
            if one.size:
                with self._files.open(path, "rb", cache_type="none", block_size=CHUNK) as source:
                    while got < one.size and (chunk := source.read(min(CHUNK, one.size - got))):
                        file.write(chunk)
                        got += len(chunk)
                        for digest in digests.values():
                            digest.update(chunk)
                        progress(len(chunk))
            file.flush()
            os.fsync(file.fileno())
            # The library of hf:// keeps what it has listed in any case.
            self._files.invalidate_cache(path)
            now = _described(one.path, self._files.info(path), self._scheme)
        if now.identity != one.identity or now.size != one.size:
            raise StoreError("changed", f"{where}: changed while it was read")
        if got != one.size:
            raise StoreError("damaged", f"{where}: got {got} bytes, expected {one.size}")
        return {name: digest.hexdigest() for name, digest in digests.items()}


def _limit_listings(files: Any, address: str) -> None:
    """Ends a listing of S3's library when it has too many objects: one without an end would take all memory."""
    listed = getattr(files, "_iterdir", None)
    if listed is None:
        return

    async def limited(*arguments: Any, **options: Any) -> AsyncIterator[Any]:
        count = 0
        async for one in listed(*arguments, **options):
            count += 1
            _check_count(count, address)
            yield one

    files._iterdir = limited


def _check_count(count: int, address: str) -> None:
    if count > MAX_OBJECTS:
        raise StoreError("refused", f"{address}: got {count} objects or more, expected up to {MAX_OBJECTS}")


def _described(path: str, about: Mapping[str, Any], scheme: str) -> StoredObject:
    """Converts fsspec's description of an object, which differs from store to store."""
    identity = next((f"{key}={_plain(about[key])}" for key in VERSION_KEYS if about.get(key) not in (None, "")), "")
    if identity.startswith(("mtime", "created")):
        identity += f" ino={about.get('ino', '')}"
    lfs = about.get("lfs") or {}
    md5 = str(about.get("ETag", "")).strip('"') if scheme in ("s3", "s3a") else ""
    if about.get("md5Hash"):
        md5 = b64decode(str(about["md5Hash"])).hex()
    elif isinstance(content := _content_md5(about), (bytes, bytearray)):
        md5 = bytes(content).hex()
    return StoredObject(
        path=path,
        size=int(about.get("size") or 0),
        identity=identity.replace('"', ""),
        md5=md5 if _PLAIN_MD5.fullmatch(md5) else "",
        sha256=str(lfs.get("sha256", "") if isinstance(lfs, Mapping) else getattr(lfs, "sha256", "")),
    )


def _plain(value: object) -> object:
    """A time as a number: the same store has it in different forms when it lists and when it describes an object."""
    return value.timestamp() if isinstance(value, datetime) else value


def _content_md5(about: Mapping[str, Any]) -> object:
    settings = about.get("content_settings")
    return settings.get("content_md5") if isinstance(settings, Mapping) else getattr(settings, "content_md5", None)


def _configured(fsspec: Any, scheme: str) -> Mapping[str, Any]:
    """Options that the user has given to fsspec, by its files or variables (`FSSPEC_S3_...`)."""
    configured: Mapping[str, Any] = fsspec.config.conf.get(scheme, {})
    return configured


@contextmanager
def _as_store_errors(where: str) -> Iterator[None]:
    """Turns whatever a store's library raises into a StoreError."""
    try:
        yield
    except StoreError:
        raise
    except FileExistsError:
        raise StoreError("exists", f"{where}: exists") from None
    except FileNotFoundError:
        raise StoreError("missing", f"{where}: no such object") from None
    except NotImplementedError as error:
        raise StoreError("unsupported", f"{where}: {str(error) or 'the store does not support this'}") from error
    except MemoryError:
        raise StoreError("refused", f"{where}: takes too much memory") from None
    except Exception as error:
        # fsspec's FileExpired, and botocore's PreconditionFailed.
        kind = "changed" if type(error).__name__ == "FileExpired" or "PreconditionFailed" in str(error) else "away"
        text = str(error) or type(error).__name__
        raise StoreError("changed" if kind == "changed" else "away", f"{where}: {text}") from error
