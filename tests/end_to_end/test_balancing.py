"""One client of three servers: one is killed, one is drained, and calls go on."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from layerserve import Client
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings

#: Another one than that of the servers of this process, if there are two.
TRANSPORT = "native" if find_spec("pygrpc_native") else "grpcio"


@contextmanager
def server_process(models: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server and its address."""
    command = [sys.executable, "-m", "layerserve_server", str(models), "--host", "127.0.0.1", "--grpc-port", "0"]
    command += ["--metrics-port", "0", "--tuning-seconds", "0", "--transport", TRANSPORT, "--state", str(folder)]
    command += ["--no-warm-training"]
    log = folder.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(command, stderr=output)
    try:
        yield process, _address(process, log)
    finally:
        process.kill()
        process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Waits until a server has printed its address."""
    while process.poll() is None:
        if found := re.search(r"gRPC on (127\.0\.0\.1:\d+)", log.read_text("utf-8")):
            return found[1]
        time.sleep(0.02)
    raise AssertionError(log.read_text("utf-8"))


class Callers:
    """Threads that predict without a pause, until they are stopped."""

    def __init__(self, client: Client, count: int) -> None:
        self.answered = 0
        self.errors: list[Exception] = []
        self._client = client
        self._rows = np.zeros((1, 64), np.float32)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _call(self) -> None:
        while not self._stop.is_set():
            try:
                self._client.predict("dense_here", self._rows)
                self.answered += 1
            except Exception as error:
                self.errors.append(error)

    def go_on(self, calls: int = 300) -> None:
        """Waits for more answers. Raises the first error of a call."""
        until, end = self.answered + calls, time.monotonic() + 30
        while self.answered < until and not self.errors and time.monotonic() < end:
            time.sleep(0.01)
        if self.errors:
            raise self.errors[0]
        assert self.answered >= until

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_calls_go_on_when_a_server_is_killed_and_another_is_drained(app: App, repository: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(repository / "dense_here", models / "dense_here")
    settings = Settings(path=models, host="127.0.0.1", grpc_port=0, metrics_port=-1, state=tmp_path / "drained")
    with (
        server_process(models, tmp_path / "killed") as (killed, address),
        App(settings) as drained,
        Client(",".join((address, *(f"127.0.0.1:{one.grpc_port}" for one in (drained, app))))) as client,
    ):
        client.wait_until_ready(model="dense_here")
        callers = Callers(client, 8)
        try:
            callers.go_on()
            killed.kill()
            killed.wait()
            callers.go_on()
            drained.stop(grace=1.0)
            callers.go_on()
        finally:
            callers.stop()
        assert not callers.errors
