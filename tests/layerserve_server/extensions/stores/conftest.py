"""A store in memory whose answers tests choose, mirrors of it, and an S3-compatible server."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from layerserve_server.extensions.object_stores.objects import StoredObject, StoreError
from layerserve_server.extensions.stores.cache import Cache
from layerserve_server.extensions.stores.mirror import Mirror


@dataclass
class FakeStore:
    """Objects in memory."""

    content: dict[str, bytes] = field(default_factory=dict)
    #: Raised by every method, as long as it is set.
    error: StoreError | None = None
    #: Raised by `fetch`, as long as it is set.
    fetch_error: StoreError | None = None
    #: Raised by `read`, by path.
    read_errors: dict[str, StoreError] = field(default_factory=dict)
    #: Paths of objects that `read` waits for, until `gate` is set.
    silent: set[str] = field(default_factory=set)
    #: Set while fetches may go on.
    gate: threading.Event = field(default_factory=threading.Event)
    fetched: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    def put(self, path: str, text: str) -> None:
        self.content[path] = text.encode()

    def objects(self, below: str = "") -> list[StoredObject]:
        self._check()
        return [
            StoredObject(path, len(text), hashlib.sha256(text).hexdigest())
            for path, text in self.content.items()
            if path.startswith(f"{below}/" if below else "")
        ]

    def fetch(self, objects: Sequence[StoredObject], names: Sequence[str], folder: Path) -> dict[str, str]:
        assert self.gate.wait(30)
        self._check()
        if self.fetch_error is not None:
            raise self.fetch_error
        digests = {}
        for one, name in zip(objects, names, strict=True):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(self.content[one.path])
            digests[name] = hashlib.sha256(self.content[one.path]).hexdigest()
            self.fetched.append(one.path)
        return digests

    def read(self, path: str, limit: int) -> str:
        self._check()
        if path in self.silent:
            assert self.gate.wait(30)
        if path in self.read_errors:
            raise self.read_errors[path]
        if path not in self.content:
            raise StoreError("missing", f"{path}: no such object")
        return self.content[path][:limit].decode()

    def create(self, path: str, text: str) -> None:
        self._check()
        if path in self.content:
            raise StoreError("exists", f"{path}: exists")
        self.put(path, text)

    def write(self, path: str, text: str) -> None:
        self._check()
        self.put(path, text)

    def upload(self, file: Path, path: str) -> None:
        self._check()
        self.content[path] = file.read_bytes()

    def delete(self, path: str) -> None:
        self._check()
        self.content.pop(path, None)

    def close(self) -> None:
        self.gate.set()

    def _check(self) -> None:
        if self.error is not None:
            raise self.error


@dataclass
class Seen:
    """What a mirror reported."""

    answers: list[bool] = field(default_factory=list)
    fetched: list[tuple[str, int]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    cached: list[int] = field(default_factory=list)

    def store_listed(self, answered: bool) -> None:
        self.answers.append(answered)

    def version_fetched(self, model: str, size: int, seconds: float) -> None:
        self.fetched.append((model, size))

    def fetch_failed(self, model: str) -> None:
        self.failed.append(model)

    def cache_changed(self, size: int) -> None:
        self.cached.append(size)


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def make_mirror(tmp_path: Path, store: FakeStore, seen: Seen) -> Iterator[Callable[..., Mirror]]:
    """Mirrors of the store in tmp_path/cache, one after the other. They list only when a test has them."""
    made: list[Mirror] = []

    def make(open: bool = True, **options: Any) -> Mirror:
        for earlier in made:
            earlier.stop()
        made.clear()
        options = {"settle_seconds": 0.0, "poll_seconds": 3600, **options}
        mirror = Mirror("memory://models", store, Cache(tmp_path / "cache"), seen, **options)
        made.append(mirror)
        if open:
            mirror.open()
        return mirror

    yield make
    for mirror in made:
        mirror.stop()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Any]:
    for package in ("s3fs", "moto", "flask", "flask_cors"):
        pytest.importorskip(package)
    from s3_server import S3Server

    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def s3(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An S3-compatible server with an empty bucket, which libraries find by their variables."""
    s3_server.reset()
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server
