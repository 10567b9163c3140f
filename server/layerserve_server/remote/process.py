"""A store that another process uses (`program`), started when needed and ended if it stops to answer."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any

from layerserve_server.errors import safe_text
from layerserve_server.remote.objects import StoredObject, StoreError

#: Time without an answer or a transferred byte after which the process is ended, in seconds.
SILENT_SECONDS = 120.0
#: Time between two looks at the time since then, in seconds.
_CHECK_SECONDS = 0.5


class ProcessStore:
    """Implements `objects.Store`."""

    def __init__(self, address: str, silent_seconds: float = SILENT_SECONDS) -> None:
        self._address = address
        self._silent_seconds = silent_seconds
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._closed = False

    def objects(self, below: str = "") -> list[StoredObject]:
        """Returns all objects, or those below a path."""
        return [StoredObject(**one) for one in self._do("objects", below=below)]

    def fetch(self, objects: Sequence[StoredObject], names: Sequence[str], folder: Path) -> dict[str, str]:
        """Writes objects into files of a folder. Returns the SHA-256 digests of the files, by name."""
        listed = [one.as_json() for one in objects]
        digests: dict[str, str] = self._do("fetch", objects=listed, names=list(names), folder=str(folder.absolute()))
        return digests

    def read(self, path: str, limit: int) -> str:
        """Returns the text of an object of at most `limit` bytes."""
        return str(self._do("read", path=path, limit=limit))

    def create(self, path: str, text: str) -> None:
        """Writes an object that must not exist."""
        self._do("create", path=path, text=text)

    def write(self, path: str, text: str) -> None:
        """Writes or replaces an object, atomically."""
        self._do("write", path=path, text=text)

    def upload(self, file: Path, path: str) -> None:
        """Writes or replaces an object with the content of a file."""
        self._do("upload", file=str(file.absolute()), path=path)

    def delete(self, path: str) -> None:
        """Deletes an object, if it exists."""
        self._do("delete", path=path)

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._closed = True
            if self._process is not None:
                self._process.end("the server is stopping")

    @property
    def pid(self) -> int | None:
        """Process id; None while there is no process."""
        process = self._process
        return process.pid if process is not None and process.lives else None

    def _do(self, method: str, **arguments: Any) -> Any:
        with self._lock:
            if self._closed:
                raise StoreError("away", f"{self._address}: the server is stopping")
            if self._process is None or not self._process.lives:
                self._process = _Process(self._address)
            process = self._process
        return process.do(method, arguments, self._silent_seconds)


class _Waiting:
    """A request whose result isn't there yet."""

    def __init__(self) -> None:
        self.result: Future[Any] = Future()
        self.heard = time.monotonic()


class _Process:
    """One process, and the requests that it does."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._popen = subprocess.Popen(
            (sys.executable, "-m", "layerserve_server.remote.program", address),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # A terminal signals the whole process group; the server ends this process.
            start_new_session=True,
        )
        self._numbers = itertools.count()
        self._waiting: dict[int, _Waiting] = {}
        self._lock = threading.Lock()
        self._ended = ""
        threading.Thread(target=self._read, name="store", daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def lives(self) -> bool:
        """Whether it takes requests."""
        return not self._ended and self._popen.poll() is None

    def do(self, method: str, arguments: dict[str, Any], silent_seconds: float) -> Any:
        """Has it do a request, and returns the result. Raises StoreError."""
        number, waiting = next(self._numbers), _Waiting()
        line = json.dumps({"id": number, "do": method, "with": arguments}) + "\n"
        assert self._popen.stdin is not None
        with self._lock:
            if self._ended:
                raise StoreError("away", f"{self._address}: {self._ended}")
            self._waiting[number] = waiting
            with contextlib.suppress(OSError, ValueError):
                self._popen.stdin.write(line)
                self._popen.stdin.flush()
        while True:
            try:
                return waiting.result.result(min(_CHECK_SECONDS, silent_seconds))
            except FutureTimeoutError:
                if time.monotonic() - waiting.heard > silent_seconds:
                    self.end(f"no answer for {silent_seconds:g} s")

    def end(self, reason: str) -> None:
        """Ends it. Its requests fail with the reason."""
        with self._lock:
            self._ended = self._ended or reason
            waiting, self._waiting = self._waiting, {}
        self._popen.kill()
        for one in waiting.values():
            one.result.set_exception(StoreError("away", f"{self._address}: {self._ended}"))

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            reply = json.loads(line)
            with self._lock:
                waiting = self._waiting.get(reply["id"])
                if waiting is None:
                    continue
                waiting.heard = time.monotonic()
                if "moving" in reply:
                    continue
                del self._waiting[reply["id"]]
            if "kind" in reply:
                waiting.result.set_exception(StoreError(reply["kind"], safe_text(reply["text"])))
            else:
                waiting.result.set_result(reply["result"])
        self.end("the process that uses the store ended")
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
