"""A store that another process uses (`program`), started when needed and replaced if a request gets no answer."""

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
from functools import partial
from pathlib import Path
from typing import Any

from layerserve_server.errors import safe_text
from layerserve_server.extensions.object_stores.objects import StoredObject, StoreError
from layerserve_server.system_memory import memory_of

#: Time without an answer or a transferred part after which a request fails, in seconds.
SILENT_SECONDS = 120.0
#: Memory of the process with which it is ended: its libraries keep all that comes in answer to a request, in bytes.
MAX_BYTES = 2 << 30
#: Time between two looks at both, in seconds.
_CHECK_SECONDS = 0.5
#: Methods that change nothing in the store.
_READING = ("objects", "fetch", "read")
_ENDED = "the process that uses the store ended"


class ProcessStore:
    """Implements `objects.Store`."""

    def __init__(self, address: str, silent_seconds: float = SILENT_SECONDS, max_bytes: int = MAX_BYTES) -> None:
        self._address = address
        self._max_bytes = max_bytes
        self._silent_seconds = silent_seconds
        self._lock = threading.Lock()
        self._process: _Process | None = None
        #: Those before it, which end with the requests that they still do.
        self._earlier: list[_Process] = []
        self._closed = False
        #: The last listing of all objects, and its digest.
        self._listed: tuple[str, list[StoredObject]] = "", []

    def objects(self, below: str = "") -> list[StoredObject]:
        """Returns all objects, or those below a path. If all are as before, they are the same list as before."""
        known, before = ("", []) if below else self._listed
        parts: list[Any] = []
        digest: str = self._do("objects", parts, below=below, known=known)
        if digest == known:
            return before
        objects = [StoredObject(*one) for one in parts]
        if not below:
            self._listed = digest, objects
        return objects

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
            for process in (*self._earlier, self._process):
                if process is not None:
                    process.end("the server is stopping")

    @property
    def pid(self) -> int | None:
        """Process id; None while there is no process."""
        process = self._process
        return process.pid if process is not None and process.lives else None

    def _do(self, method: str, parts: list[Any] | None = None, /, **arguments: Any) -> Any:
        with self._lock:
            if self._closed:
                raise StoreError("away", f"{self._address}: the server is stopping")
            process = self._process
            request = process.add(parts) if process is not None and process.lives else None
            if process is None or request is None:
                self._earlier = [one for one in (*self._earlier, process) if one is not None and one.lives]
                self._process = process = _Process(self._address, self._max_bytes)
                request = process.add(parts)
        if request is None:
            raise StoreError("away", f"{self._address}: {_ENDED}")
        return process.do(request, method, arguments, self._silent_seconds)


class _Request:
    """A request whose result isn't there yet."""

    def __init__(self, number: int, parts: list[Any] | None) -> None:
        self.number = number
        #: Receives what comes before the result.
        self.parts = parts
        self.result: Future[Any] = Future()
        self.heard = time.monotonic()


class _Process:
    """One process, and the requests that it does.

    After a request to read that gets no answer it takes no others, since the request goes on in it. It ends when those
    that it does have their results: an object that can't be read costs the others nothing.
    """

    def __init__(self, address: str, max_bytes: int) -> None:
        self._address = address
        self._max_bytes = max_bytes
        self._popen = subprocess.Popen(
            (sys.executable, "-m", "layerserve_server.extensions.object_stores.program", address),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # A terminal signals the whole process group; the server ends this process.
            start_new_session=True,
        )
        self._numbers = itertools.count()
        self._requests: dict[int, _Request] = {}
        self._lock, self._writing = threading.Lock(), threading.Lock()
        #: Whether it takes no more requests.
        self._retired = False
        threading.Thread(target=self._read, name="store", daemon=True).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    @property
    def lives(self) -> bool:
        """Whether the process runs."""
        return self._popen.poll() is None

    def add(self, parts: list[Any] | None) -> _Request | None:
        """Returns a new request, until whose result the process goes on; None if it takes no more."""
        with self._lock:
            if self._retired:
                return None
            request = _Request(next(self._numbers), parts)
            self._requests[request.number] = request
            return request

    def do(self, request: _Request, method: str, arguments: dict[str, Any], silent_seconds: float) -> Any:
        """Has it do a request, and returns the result. Raises StoreError."""
        line = json.dumps({"id": request.number, "do": method, "with": arguments}) + "\n"
        assert self._popen.stdin is not None
        with self._writing, contextlib.suppress(OSError, ValueError):
            self._popen.stdin.write(line)
            self._popen.stdin.flush()
        while True:
            try:
                return request.result.result(min(_CHECK_SECONDS, silent_seconds))
            except FutureTimeoutError:
                if time.monotonic() - request.heard > silent_seconds:
                    # What has failed mustn't be written later.
                    fail = partial(self._give_up, request) if method in _READING else self.end
                    fail(f"no answer for {silent_seconds:g} s")
                elif memory_of(self.pid) > self._max_bytes:
                    self.end(f"the process that uses the store takes more than {self._max_bytes >> 20} MiB of memory")

    def end(self, reason: str) -> None:
        """Ends it. Its requests fail with the reason."""
        with self._lock:
            self._retired = True
            requests, self._requests = self._requests, {}
        self._popen.kill()
        for one in requests.values():
            one.result.set_exception(self._error(reason))

    def _give_up(self, request: _Request, reason: str) -> None:
        """Has a request fail."""
        with self._lock:
            self._retired = True
            given_up = self._requests.pop(request.number, None) is not None
        if given_up:
            request.result.set_exception(self._error(reason))
        self._end_if_done()

    def _end_if_done(self) -> None:
        with self._lock:
            done = self._retired and not self._requests
        if done:
            self._popen.kill()

    def _error(self, reason: str) -> StoreError:
        return StoreError("away", f"{self._address}: {reason}")

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            reply = json.loads(line)
            with self._lock:
                request = self._requests.get(reply["id"])
                if request is None:
                    continue
                request.heard = time.monotonic()
                if "moving" in reply:
                    continue
                if "part" in reply and request.parts is not None:
                    request.parts += reply["part"]
                    continue
                del self._requests[reply["id"]]
            if "kind" in reply:
                request.result.set_exception(StoreError(reply["kind"], safe_text(reply["text"])))
            else:
                request.result.set_result(reply["result"])
            self._end_if_done()
        self.end(_ENDED)
        self._popen.wait()
        for pipe in (self._popen.stdin, self._popen.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
