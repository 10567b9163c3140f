"""Data files in a store that fsspec reads, such as s3://bucket/data, in place of a folder as the data root.

Credentials and endpoints come from the store's own variables and files.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, BinaryIO, cast

from layerserve.values.table_files.formats import is_hidden

from layerserve_server.errors import InvalidRequestError, NotTrainableError

Stamp = tuple[int, ...]

#: Keys of fsspec's descriptions of objects that differ between versions of an object; the surest first.
VERSION_KEYS = ("ETag", "etag", "blob_id", "generation", "md5Hash", "LastModified", "last_modified", "mtime", "created")


class StoreReadError(OSError):
    """A store can't be read, now. A run that ends with it may be resumed."""


def is_address(folder: str) -> bool:
    """Whether the data root is a store."""
    return "://" in folder


def listed(address: str, folder: str, label: str) -> dict[str, Stamp]:
    """Returns the Parquet files below a folder, by their paths in it, with their stamps. `label` names it in errors.

    Raises as `opened` does.
    """
    with _errors(label):
        files, root = _store(address)
        files.invalidate_cache()
        start = f"{root}/{folder}".rstrip("/")
        found: Mapping[str, Mapping[str, Any]] = files.find(start, detail=True)
        stamps = {path.removeprefix(start).lstrip("/"): _stamp(about) for path, about in found.items()}
    return {path: stamp for path, stamp in stamps.items() if path.endswith(".parquet") and not is_hidden(path)}


def stamp(address: str, path: str, label: str) -> Stamp:
    """Returns the size of a file in bytes, and a number for its version. Raises as `opened` does."""
    with _errors(label):
        files, root = _store(address)
        files.invalidate_cache()
        return _stamp(files.info(f"{root}/{path}"))


@contextlib.contextmanager
def opened(address: str, path: str, label: str) -> Iterator[BinaryIO]:
    """Opens a file.

    Raises InvalidRequestError if it doesn't exist, NotTrainableError if a package is missing, and StoreReadError, which
    reading it also does.
    """
    with _errors(label):
        files, root = _store(address)
        # Without read-ahead: the parts of columns are read where they are.
        file = files.open(f"{root}/{path}", "rb", cache_type="none")
    with file:
        yield cast("BinaryIO", _StoredFile(file, label))


class _StoredFile:
    """An open file of a store, with the errors of this module."""

    def __init__(self, file: Any, label: str) -> None:
        self._file = file
        self._label = label

    def read(self, size: int = -1) -> bytes:
        with _errors(self._label):
            found: bytes = self._file.read(size)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@lru_cache(1)
def _store(address: str) -> tuple[Any, str]:
    """Returns fsspec's file system, and the path of the address in it."""
    try:
        # Imported here, since few servers need it. Not before a process is forked: it has threads.
        from fsspec.core import url_to_fs

        files, root = url_to_fs(address, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        raise NotTrainableError(f"the data root {address} requires another package: {error}") from error
    return files, root.rstrip("/")


def _stamp(about: Mapping[str, Any]) -> Stamp:
    version = next((about[key] for key in VERSION_KEYS if about.get(key) not in (None, "")), "")
    if isinstance(version, datetime):
        version = version.timestamp()  # listings and descriptions of objects have it in different forms
    # Of 6 bytes, as JSON's numbers are exact up to 2^53 in all languages.
    digest = hashlib.sha256(str(version).strip('"').encode()).digest()[:6]
    return int(about.get("size") or 0), int.from_bytes(digest, "big")


@contextlib.contextmanager
def _errors(label: str) -> Iterator[None]:
    """Turns what a store's library raises into errors of the server."""
    try:
        yield
    except (NotTrainableError, MemoryError):
        raise
    except FileNotFoundError:
        raise InvalidRequestError(f"{label}: no such object in the store") from None
    except Exception as error:  # of many kinds
        text = f"{label}: the store can't be read: {str(error) or type(error).__name__}"
        raise StoreReadError(errno.EIO, text) from error
