"""Trains on much data with little memory: `make -C lab large-data GB=10`.

The client makes the rows as it sends them. At no time may the server's process take more than SERVER_BYTES beyond what
it took before, nor the training process more than its budget. Pages of mapped files don't count, since the system takes
them back when it needs them. The disk must hold the data once.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
from layergraph import Input, Model
from layergraph.layers import Dense
from layerserve import Client, Resources, ServerFile
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from layerserve_server.system_memory import memory_of

#: What the server may take for the data that passes through it, and the training process for everything.
SERVER_BYTES = 200 * 2**20
TRAINING_BYTES = 2**30
WIDTH = 4096
ROW_BYTES = WIDTH * 4


class Rows:
    """A large array that is made as it is sliced."""

    dtype = np.dtype("float32")

    def __init__(self, rows: int) -> None:
        self.shape = (rows, WIDTH)

    def __getitem__(self, rows: slice) -> np.ndarray[Any, Any]:
        first, last, _ = rows.indices(self.shape[0])
        return np.full((last - first, WIDTH), first % 7 / 7, self.dtype)


class Peak:
    """Watches the memory of this process."""

    def __init__(self) -> None:
        self.before = memory_of(os.getpid())
        self.most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            self.most = max(self.most, memory_of(os.getpid()) - self.before)

    def __enter__(self) -> Peak:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def save_model(path: Path) -> None:
    path.mkdir(parents=True)
    x = Input((WIDTH,))
    model = Model(x, Dense(1)(x))
    model.compile("sgd", "mse")
    model.save(path / "model.keras")


def main(gigabytes: float) -> None:
    rows = int(gigabytes * 10**9 / ROW_BYTES)
    y = np.zeros((rows, 1), "float32")
    with tempfile.TemporaryDirectory() as folder:
        models, data = Path(folder) / "models", Path(folder) / "data"
        save_model(models / "wide" / "1")
        data.mkdir()
        # A file with a hole takes no disk.
        np.lib.format.open_memmap(data / "x.npy", "w+", np.float32, (rows, WIDTH)).flush()
        np.save(data / "y.npy", y)
        settings = Settings(
            path=models,
            host="127.0.0.1",
            grpc_port=0,
            metrics_port=-1,
            data_root=data,
            max_run_bytes=int(2 * gigabytes * 10**9) + 1,
        )
        with App(settings) as app, Client(f"127.0.0.1:{app.grpc_port}") as client:
            client.predict("wide", np.zeros((1, WIDTH), "float32"))
            for how, given in {
                "sent": (Rows(rows), y),
                "read by the server": (ServerFile("x.npy"), ServerFile("y.npy")),
            }.items():
                with Peak() as peak:
                    run = client.train(
                        "wide",
                        *given,
                        batch_size=256,
                        publish=False,
                        resources=Resources(max_memory_bytes=TRAINING_BYTES),
                        validation_split=0.1,
                        optimizer={"class_name": "SGD", "config": {"learning_rate": 1e-5}},
                        loss="mse",
                    ).wait()
                most = peak.most
                print(f"{gigabytes:g} GB {how}: server took {most / 2**20:.0f} MiB more, loss {run.history['loss']}")
                assert most < SERVER_BYTES, f"the server took {most} bytes, expected less than {SERVER_BYTES}"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(float((sys.argv[1:] or ["10"])[0]))
