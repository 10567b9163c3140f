"""Serves from emulators of stores: stores.py [--azurite PROGRAM] [STORE ...], of gs, az and hf (default: all).

gs needs the packages gcsfs and gcp-storage-emulator, az adlfs and azurite's program azurite-blob, and hf
huggingface_hub; the hub is a stand-in in this process. Each store is behind a proxy that can be away. Checks with real
server processes that what is put into the store is served and followed, that one server publishes, labels and deletes
there and another follows, that a store that is away costs no prediction and is reported within seconds, and how a
server starts then.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import numpy as np
from hub_server import REPOSITORY, HubServer
from layergraph import Input, Model
from layergraph.initializers import Constant
from layergraph.layers import Dense
from layerserve import Client
from layerserve.errors import LayerserveError
from s3_server import Proxy

BUCKET = "bucket"
X = np.ones((1, 4), np.float32)
#: Time in which a change has to be followed, and in which a store that is away has to be reported, in seconds.
FOLLOW_SECONDS, REPORT_SECONDS = 30.0, 15.0
#: The account of azurite, whose key is in its documentation.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Emulator:
    """A store behind a proxy. `put` writes an object as another user of the store does."""

    address: str
    writable = True

    def __init__(self, port: int) -> None:
        self.proxy = Proxy(("127.0.0.1", port))
        self.url = f"http://127.0.0.1:{self.proxy.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def put(self, path: str, content: bytes) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.proxy.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def run(self, port: int, *command: str) -> None:
        """Starts the emulator's program, and waits until it answers."""
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: connects(port), "the emulator answers")


class Google(Emulator):
    address = f"gs://{BUCKET}/models"

    def __init__(self, port: int) -> None:
        super().__init__(port)
        code = "from gcp_storage_emulator.__main__ import main; main()"
        options = ("start", "--host=127.0.0.1", f"--port={port}", "--in-memory", f"--default-bucket={BUCKET}")
        self.run(port, sys.executable, "-c", code, *options)
        self.environment = {"STORAGE_EMULATOR_HOST": self.url, "FSSPEC_GS_TOKEN": "anon"}
        self._direct = f"http://127.0.0.1:{port}"

    def put(self, path: str, content: bytes) -> None:
        query = urlencode({"uploadType": "media", "name": f"models/{path}"})
        url = f"{self._direct}/upload/storage/v1/b/{BUCKET}/o?{query}"
        urlopen(Request(url, content, {"Content-Type": "application/octet-stream"}), timeout=30).close()


class Azure(Emulator):
    address = f"az://{BUCKET}/models"

    def __init__(self, port: int, program: str) -> None:
        super().__init__(port)
        options = ("--inMemoryPersistence", "--skipApiVersionCheck", "--silent")
        self.run(port, program, "--blobHost", "127.0.0.1", "--blobPort", str(port), *options)
        self.environment = {"AZURE_STORAGE_CONNECTION_STRING": self._account(self.proxy.port)}
        from azure.storage.blob import BlobServiceClient

        self._container = BlobServiceClient.from_connection_string(self._account(port)).create_container(BUCKET)

    @staticmethod
    def _account(port: int) -> str:
        endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={endpoint};"

    def put(self, path: str, content: bytes) -> None:
        self._container.upload_blob(f"models/{path}", content, overwrite=True)


class Hub(Emulator):
    address = f"hf://{REPOSITORY}"
    writable = False

    def __init__(self) -> None:
        self._hub = HubServer()
        super().__init__(self._hub.port)
        self.environment = {"HF_ENDPOINT": self.url, "HF_HUB_DISABLE_TELEMETRY": "1"}

    def put(self, path: str, content: bytes) -> None:
        self._hub.files[path] = content

    def close(self) -> None:
        super().close()
        self._hub.close()


class Server:
    """A server process of a store, and a client of it. A context manager."""

    def __init__(self, store: Emulator, state: Path) -> None:
        self._log = state.with_suffix(".log")
        options = [
            "--state",
            str(state),
            "--remote-poll-seconds",
            "0.5",
            "--poll-seconds",
            "0.2",
            "--metrics-port",
            "-1",
        ]
        options += ["--host", "127.0.0.1", "--grpc-port", "0", "--drain-seconds", "0", "--tuning-seconds", "0"]
        command = [sys.executable, "-m", "layerserve_server", store.address, *options]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, stderr=log, env={**os.environ, **store.environment})
        until(lambda: "gRPC on " in self.log or self._process.poll() is not None, "the server listens or ends")
        port = self.log.partition("gRPC on ")[2].split()[0].rpartition(":")[2].strip(",;") if not self.ended else "0"
        self.client = Client(f"127.0.0.1:{port}", timeout=90)

    @property
    def log(self) -> str:
        """What the server has logged."""
        return self._log.read_text()

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def answer(self, **choice: Any) -> tuple[int, float] | None:
        """Returns the version that answers, and its value; None if none does."""
        try:
            outputs = self.client.predict_named("m", {"x": X}, **choice)
        except LayerserveError:
            return None
        return outputs.version, float(outputs["y"][0, 0])

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._process.terminate()
        self._process.wait(60)


def model_file(folder: Path, value: float) -> Path:
    """Writes a model that answers `value`."""
    path = folder / f"{value:g}.keras"
    inputs = Input((4,), name="x")
    layer = Dense(2, name="y", kernel_initializer="zeros", bias_initializer=Constant(value))
    Model(inputs, layer(inputs)).save(path)
    return path


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def until(condition: Callable[[], Any], what: str, seconds: float = FOLLOW_SECONDS) -> float:
    """Waits for a condition. Returns the time that it took, in seconds; exits if it takes too long."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            sys.exit(f"failed: not within {seconds:g} s: {what}")
        time.sleep(0.05)
    return time.monotonic() - began


def check(condition: bool, what: str) -> None:
    """Exits unless the condition holds."""
    if not condition:
        sys.exit(f"failed: {what}")


def prove(store: Emulator, folder: Path) -> None:
    """Checks one store."""

    def shown(what: str, seconds: float) -> None:
        print(f"  {what}: {seconds:.1f} s")

    store.put("m/1/model.keras", model_file(folder, 1).read_bytes())
    with Server(store, folder / "a") as server, Server(store, folder / "b") as other:
        shown("served", until(lambda: server.answer() == (1, 1), "version 1 is served"))
        store.put("m/2/model.keras", model_file(folder, 2).read_bytes())
        store.put("m/labels.json", b'{"stable": 1}')
        shown("a new version is followed", until(lambda: server.answer() == (2, 2), "version 2 is served"))
        until(lambda: server.answer(label="stable") == (1, 1), "a label is followed")
        store.put("m/2/model.keras", model_file(folder, 3).read_bytes())
        shown("changed objects are followed", until(lambda: server.answer() == (2, 3), "version 2 is another"))
        latest = (2, 3.0)
        if store.writable:
            check(server.client.upload("m", model_file(folder, 4)).version == 3, "an upload is version 3")
            server.client.set_label("m", "stable", 2)
            shown("published versions are followed", until(lambda: other.answer() == (3, 4), "the other serves it"))
            until(lambda: other.answer(label="stable") == (2, 3), "the other moves the label")
            server.client.delete_version("m", 3, force=True)
            until(lambda: other.answer() == (2, 3), "the other doesn't serve the deleted version")
        else:
            refused(server, folder, "can't create an object only if it doesn't exist")
        store.proxy.leave()
        listed = until(lambda: "can't list the store" in server.log, "that the store is away is logged", REPORT_SECONDS)
        shown("a store that is away is reported", listed)
        for _ in range(50):
            check(server.answer() == latest, "what is loaded serves on")
        if store.writable:
            began = time.monotonic()
            refused(server, folder, "the repository can't be written")
            shown("an upload is refused while it is away", time.monotonic() - began)
        with Server(store, folder / "empty") as without:
            check(without.ended and "can't read the models" in without.log, "a server without copies doesn't start")
    with Server(store, folder / "b") as again:
        shown("a server with copies starts", until(lambda: again.answer() == latest, "the copies are served"))
        store.put("m/9/model.keras", model_file(folder, 9).read_bytes())
        store.proxy.come_back()
        shown("a store that is back is followed", until(lambda: again.answer() == (9, 9), "version 9 is served", 90))


def refused(server: Server, folder: Path, text: str) -> None:
    """Checks that an upload is refused with a text."""
    try:
        server.client.upload("m", model_file(folder, 5))
    except LayerserveError as error:
        check(text in str(error), f"an upload is refused with {text!r}, but got: {error}")
    else:
        check(False, "an upload is refused")


def main() -> None:
    """Checks the stores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stores", nargs="*", default=[], help="of gs, az and hf")
    parser.add_argument("--azurite", default="azurite-blob", help="program of azurite")
    arguments = parser.parse_args()
    packages = {"gs": ("gcsfs", "gcp_storage_emulator"), "az": ("adlfs",), "hf": ("huggingface_hub",)}
    for name in arguments.stores or packages:
        if missing := [package for package in packages[name] if find_spec(package) is None]:
            sys.exit(f"{name} needs {', '.join(missing)}")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        print(name, flush=True)
        store = Google(port) if name == "gs" else Azure(port, arguments.azurite) if name == "az" else Hub()
        try:
            with tempfile.TemporaryDirectory() as folder:
                prove(store, Path(folder))
        finally:
            store.close()
    print("all stores serve, are followed, and may be away")


if __name__ == "__main__":
    main()
