"""One client of three servers, each a process: one is killed, one is drained, and calls go on."""

from __future__ import annotations

import re
import shutil
import signal
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

#: Of both transports, as far as they are installed.
TRANSPORTS = ("grpcio", "native" if find_spec("pygrpc_native") else "grpcio")


@contextmanager
def servers(models: Path, folder: Path) -> Iterator[list[tuple[subprocess.Popen[bytes], str]]]:
    """Server processes and their addresses."""
    processes = [_start(models, folder / str(number), transport) for number, transport in enumerate(TRANSPORTS)]
    try:
        yield [(process, _address(process, folder / f"{number}.log")) for number, process in enumerate(processes)]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _start(models: Path, state: Path, transport: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "layerserve_server", str(models), "--host", "127.0.0.1", "--grpc-port", "0"]
    command += ["--metrics-port", "0", "--tuning-seconds", "0", "--drain-seconds", "1"]
    with state.with_suffix(".log").open("wb") as log:
        return subprocess.Popen([*command, "--transport", transport, "--state", str(state)], stderr=log)


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
    shutil.copytree(repository / "dense_here", tmp_path / "models" / "dense_here")
    with servers(tmp_path / "models", tmp_path) as started:
        (killed, _), (drained, _) = started
        addresses = [address for _, address in started] + [f"127.0.0.1:{app.grpc_port}"]
        with Client(",".join(addresses)) as client:
            client.wait_until_ready(model="dense_here")
            callers = Callers(client, 8)
            try:
                callers.go_on()
                killed.kill()
                killed.wait()
                callers.go_on()
                drained.send_signal(signal.SIGTERM)
                while drained.poll() is None:
                    callers.go_on(1)
                callers.go_on()
            finally:
                callers.stop()
            assert not callers.errors
