"""Program that uses a store for a server: `python -m layerserve_server.extensions.object_stores.program ADDRESS`.

A process of its own, since the stores' libraries take tens of megabytes and the interpreter's time, and can hang; the
server ends it then. It reads requests as lines of JSON from standard input, does them at the same time, and writes
results as lines to standard output: a listing in parts, and a line now and then while bytes are transferred. It exits
at the end of its input.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from hashlib import sha256
from pathlib import Path
from typing import Any, TextIO

from layerserve.registries.mlflow_address import is_mlflow

from layerserve_server.extensions.object_stores.mlflow_store import MlflowStore
from layerserve_server.extensions.object_stores.objects import StoredObject, StoreError
from layerserve_server.extensions.object_stores.store import FsspecStore

#: Number of requests that are done at the same time.
REQUESTS = 16
#: Number of objects in a part of a listing: the server parses each part in one piece, and does nothing else meanwhile.
PART = 1000
#: Time between two reports that bytes are transferred, in seconds.
REPORT_SECONDS = 1.0


class Program:
    """The store, and the output for results, which its threads share."""

    def __init__(self, address: str, output: TextIO) -> None:
        self._address = address
        self._output = output
        self._store: FsspecStore | MlflowStore | None = None
        self._opening, self._writing = threading.Lock(), threading.Lock()

    def run(self, request: dict[str, Any]) -> None:
        """Does a request and writes its result."""
        number = request["id"]
        reply: dict[str, Any] = {"id": number}
        try:
            if request["do"] == "objects":
                reply["result"] = self._list(number, **request["with"])
            else:
                reply["result"] = self._result(request["do"], request["with"], _Progress(number, self._write))
        except StoreError as error:
            reply |= {"kind": error.kind, "text": error.strerror}
        except Exception as error:
            reply |= {"kind": "away", "text": f"{type(error).__name__}: {error}"}
        self._write(reply)

    def _opened(self) -> FsspecStore | MlflowStore:
        with self._opening:
            if self._store is None:
                self._store = (MlflowStore if is_mlflow(self._address) else FsspecStore)(self._address)
            return self._store

    def _list(self, number: int, below: str, known: str) -> str:
        """Writes a listing, in parts, unless its digest is the one that is known. Returns the digest."""
        found = [astuple(one) for one in self._opened().objects(below)]
        parts = [found[start : start + PART] for start in range(0, len(found), PART)]
        digest = sha256()
        for part in parts:
            digest.update(json.dumps(part).encode())
        if digest.hexdigest() != known:
            for part in parts:
                self._write({"id": number, "part": part})
        return digest.hexdigest()

    def _result(self, method: str, arguments: dict[str, Any], progress: _Progress) -> Any:
        store = self._opened()
        if method == "fetch":
            objects = [StoredObject(**one) for one in arguments["objects"]]
            return store.fetch(objects, arguments["names"], Path(arguments["folder"]), progress)
        if method == "upload":
            return store.upload(Path(arguments["file"]), arguments["path"], progress)
        small: dict[str, Callable[..., Any]] = {
            "read": store.read,
            "create": store.create,
            "write": store.write,
            "delete": store.delete,
        }
        return small[method](**arguments)

    def _write(self, line: dict[str, Any]) -> None:
        with self._writing:
            self._output.write(json.dumps(line) + "\n")
            self._output.flush()


class _Progress:
    """Reports transferred bytes of a request, not too often."""

    def __init__(self, number: int, write: Callable[[dict[str, Any]], None]) -> None:
        self._number, self._write = number, write
        self._reported = time.monotonic()

    def __call__(self, count: int) -> None:
        if time.monotonic() - self._reported > REPORT_SECONDS:
            self._reported = time.monotonic()
            self._write({"id": self._number, "moving": True})


def main() -> None:
    """Does requests until standard input ends."""
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    # It logs each error that it raises, with a traceback. Here they are results.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    # What a library prints is no result.
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # Python's own standard output keeps what is printed until its buffer is full, and `_exit` loses it.
    sys.stdout = sys.stderr
    program = Program(sys.argv[1], output)
    with ThreadPoolExecutor(REQUESTS, thread_name_prefix="request") as pool:
        for line in sys.stdin:
            pool.submit(program.run, json.loads(line))
        # The results of what is in progress have no reader left.
        os._exit(0)


if __name__ == "__main__":
    main()
