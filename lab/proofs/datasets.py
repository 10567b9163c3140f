"""Uploads a dataset once, through three cuts and two kills of the server, for ten runs: `make -C lab datasets ARGS=2`.

A proxy between client and server counts the bytes that the client sends, and cuts the connection. One call of
`upload_dataset` must end well, and may send no byte twice but those that were in flight at a cut or a kill. The ten
runs train on splits of the dataset and send next to nothing. The argument is the size of the dataset, in gigabytes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from layergraph import Input, Model
from layergraph.layers import Dense
from layerserve import Client, Split

WIDTH = 4096
ROW_BYTES = WIDTH * 4
RUNS = 10
#: Shares of the dataset at which the connection is cut, and at which the server is killed.
CUTS, KILLS = (0.15, 0.45, 0.85), (0.3, 0.7)
#: What may be in flight at an interruption, in bytes: buffers of sockets, and messages that gRPC has taken.
IN_FLIGHT = 16 << 20
#: What messages and frames add to their bytes, as a share, and what a run may send, in bytes.
OVERHEAD, RUN_BYTES = 0.01, 64 << 10


class Rows:
    """A large array that is made as it is sliced."""

    dtype = np.dtype("float32")

    def __init__(self, rows: int) -> None:
        self.shape = (rows, WIDTH)

    def __getitem__(self, rows: slice) -> np.ndarray[Any, Any]:
        first, last, _ = rows.indices(self.shape[0])
        numbers = np.arange(first, last, dtype="float32")[:, None] % 97
        return np.broadcast_to(numbers / 97, (last - first, WIDTH))


class Server:
    """A server of a repository, in a process that can be killed. Each start has another port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = 0
        self.start()

    def start(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "layerserve_server", str(self._folder / "models")]
        flags = ["--grpc-port", str(port), "--metrics-port", "-1", "--training-nice", "0", "--drain-seconds", "0"]
        self.process = subprocess.Popen([*command, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with Client(f"127.0.0.1:{port}") as client:
            client.wait_until_ready(120)
        self.port = port

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


class Proxy:
    """Passes bytes on between clients and the server, counts those of the clients, and cuts connections."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.sent = 0
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Ends all connections."""
        for one in tuple(self._open):
            self._open.discard(one)
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            try:
                server = socket.create_connection(("127.0.0.1", self._server.port))
            except OSError:
                client.close()
                continue
            self._open |= {client, server}
            for source, target, counts in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pass, args=(source, target, counts), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
                if counts:
                    self.sent += len(data)
        except OSError:
            pass
        for one in (source, target):
            self._open.discard(one)
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


def save_model(path: Path) -> None:
    path.mkdir(parents=True)
    x = Input((WIDTH,))
    model = Model(x, Dense(1)(x))
    model.compile("sgd", "mse")
    model.save(path / "model.keras")


class Sending:
    """How much of the dataset the client has sent, as a share."""

    def __init__(self) -> None:
        self.share = 0.0

    def __call__(self, phase: str, done: int, total: int) -> None:
        self.share = done / total if phase == "sending" else 0.0


def interrupt(proxy: Proxy, server: Server, sending: Sending, done: list[str], ended: threading.Event) -> None:
    """Cuts the connection and kills the server when these shares of the dataset are sent."""
    events = sorted([*((share, "cut") for share in CUTS), *((share, "kill") for share in KILLS)])
    for share, what in events:
        while sending.share < share:
            if ended.wait(0.001):
                return
        done.append(what)
        if what == "cut":
            proxy.cut()
        else:
            server.kill()
            server.start()
            proxy.cut()


def main(gigabytes: float) -> None:
    rows = int(gigabytes * 10**9 / ROW_BYTES)
    y = np.arange(rows, dtype="float32")[:, None] % 97 / 97
    with tempfile.TemporaryDirectory() as folder:
        save_model(Path(folder) / "models" / "wide" / "1")
        server = Server(Path(folder))
        proxy = Proxy(server)
        try:
            with Client(proxy.address, timeout=600) as client:
                upload(proxy, server, client, rows, y)
        finally:
            server.stop()


def upload(proxy: Proxy, server: Server, client: Client, rows: int, y: np.ndarray[Any, Any]) -> None:
    sending, done, ended = Sending(), list[str](), threading.Event()
    interrupting = threading.Thread(target=interrupt, args=(proxy, server, sending, done, ended))
    interrupting.start()
    began = time.monotonic()
    dataset = client.datasets.upload(x=Rows(rows), y=y, progress=sending)
    ended.set()
    interrupting.join()
    sent, seconds = proxy.sent, time.monotonic() - began
    more = sent - dataset.bytes
    print(f"{dataset.bytes} bytes uploaded in {seconds:.0f} s with {', '.join(done)}; {sent} sent, {more} more")
    assert len(done) == len(CUTS) + len(KILLS), done
    assert more <= len(done) * IN_FLIGHT + OVERHEAD * dataset.bytes, more
    again = client.datasets.upload(x=Rows(rows), y=y)
    assert again.id == dataset.id
    assert proxy.sent - sent < RUN_BYTES, proxy.sent - sent
    splits = {f"part {number}": 1 / RUNS for number in range(RUNS)}
    for split in splits:
        before = proxy.sent
        run = client.train(
            "wide",
            dataset,
            split=Split(split, splits, seed=7),
            batch_size=256,
            publish=False,
            optimizer={"class_name": "SGD", "config": {"learning_rate": 1e-5}},
            loss="mse",
        ).wait()
        print(f"run on {split}: loss {run.history['loss']}, {proxy.sent - before} bytes sent")
        assert proxy.sent - before < RUN_BYTES, proxy.sent - before
    client.datasets.delete(dataset.id)
    assert not client.datasets.list()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(float((sys.argv[1:] or ["2"])[0]))
