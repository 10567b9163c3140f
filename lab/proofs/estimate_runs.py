"""Compares estimates of runs with the runs: `make -C lab estimates`, or ARGS='NAME ... --small --rounds 3'.

The guide's ten models at its sizes, except for a video with small frames, with validation, a last partial batch and a
best epoch to publish. The time must be within 30 % of the truth, memory and disk space never below it. Memory is that
of the run's process without mapped files, measured every few milliseconds; disk space is the largest size of the run's
folder. The truth of the time is what passes between the events `queued` and `finished`.
"""

from __future__ import annotations

import argparse
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from guide_runs import COMPILED, SIZES
from layerserve import Client, ModelInfo, RunFinished, RunQueued
from layerserve.estimates import RunEstimate
from layerserve_server.system_memory import memory_of
from layerserve_server.training.budget import folder_bytes
from layerserve_server.training.runs.folder import CHILD_LOCK
from layerserve_zoo.zoo import ZOO

#: How far the time may be from the truth, as a factor.
TOLERANCE = 1.3


@dataclass(frozen=True)
class Truth:
    """What a run has taken: seconds, and at most bytes of memory and of its folder."""

    seconds: float
    memory: int
    disk: int


class Watch:
    """Watches the next run of a server: the memory of its process and the size of its folder."""

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._earlier = set(runs.glob("2*"))
        self.memory = self.disk = 0
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=watch) for watch in (self._watch_memory, self._watch_disk)]

    def _folder(self) -> Path | None:
        return next((path for path in self._runs.glob("2*") if path not in self._earlier), None)

    def _watch_memory(self) -> None:
        pid = 0
        while not self._ended.wait(0.004):
            folder = self._folder() if not pid else None
            if folder is not None and (held := folder / CHILD_LOCK).exists():
                pid = int(held.read_text().partition(" ")[0] or 0)
            if pid:
                self.memory = max(self.memory, memory_of(pid))

    def _watch_disk(self) -> None:
        while not self._ended.wait(0.02):
            if (folder := self._folder()) is not None:
                self.disk = max(self.disk, folder_bytes(folder))

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def serving(models: Path) -> Iterator[Client]:
    """A server of a folder of models, in a process of its own, and a client of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "layerserve_server", str(models), "--grpc-port", str(port), "--metrics-port", "-1"]
    server = subprocess.Popen([*command, "--log-level", "warning"])
    try:
        with Client(f"127.0.0.1:{port}", timeout=600) as client:
            client.wait_until_ready(timeout=120)
            yield client
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def rows_for(info: ModelInfo, rows: int, *, numbers: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Random inputs and targets of a model, by name: ids below 100 where integers are wanted, numbers or one class."""
    rng = np.random.default_rng(4)
    x, y = {}, {}
    for spec in info.inputs:
        shape = (rows, *(axis or 20 for axis in spec.shape[1:]))
        drawn = rng.integers(0, 16, shape) if "int" in spec.dtype else rng.standard_normal(shape)
        x[spec.name] = drawn.astype(spec.dtype)
    for spec in info.outputs:
        *shape, last = (rows, *(axis or 20 for axis in spec.shape[1:]))
        classes = rng.integers(0, max(2, last), shape)
        if numbers:
            y[spec.name] = rng.standard_normal((*shape, last)).astype("float32")
        else:
            y[spec.name] = np.eye(last, dtype="float32")[classes] if last > 1 else classes[..., None].astype("float32")
    return x, y


def settings_of(name: str, outputs: int) -> dict[str, Any]:
    """What a model is compiled with, as arguments of `train`."""
    settings = COMPILED[name]
    if settings is None:
        return {}
    optimizer, loss, metric = settings
    return {"optimizer": optimizer, "loss": [loss] * outputs, "metrics": [[metric]] * outputs if metric else None}


def compared(client: Client, models: Path, info: ModelInfo, rows: int) -> tuple[RunEstimate, Truth]:
    """The estimate of a run, made before it, and the truth of it."""
    while any(each.choosing_engine for each in client.models()):
        time.sleep(0.5)  # Tuning waits for runs, but one of its steps may take longer than a small run.
    name = info.name
    compiled = settings_of(name, len(info.outputs))
    x, y = rows_for(info, rows, numbers=compiled.get("loss", [""])[0] == "mse")
    run = {"version": 1, "epochs": 3, "batch_size": 4, "validation_split": 0.25, "publish": "best", **compiled}
    estimate = client.estimates.train(name, x, y, **run)
    assert not estimate.problems, estimate.problems
    with Watch(models / ".layerserve" / "runs") as watch:
        times = {type(event): event.time.timestamp() for event in client.train(name, x, y, **run)}
    return estimate, Truth(times[RunFinished] - times[RunQueued], watch.memory, watch.disk)


def main() -> int:
    """Compares the models; the exit status is 1 if an estimate is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="models; default: all ten")
    parser.add_argument("--small", action="store_true", help="the small models")
    parser.add_argument("--rows", type=int, default=42)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    names = arguments.names or list(ZOO)
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        for name in names:
            path = models / name / "1" / "model.keras"
            path.parent.mkdir(parents=True)
            sizes = ZOO[name].small if arguments.small else SIZES.get(name, {})
            ZOO[name].build(**sizes).save(path)
        with serving(models) as client:
            print("| model | seconds, estimated | truth | ratio | memory, ratio | disk, ratio |")
            print("|---|---|---|---|---|---|")
            first = [client.model(name, version=1) for name in names]
            for info in first * arguments.rounds:
                name = info.name
                estimate, truth = compared(client, models, info, arguments.rows)
                assert estimate.seconds is not None
                assert estimate.memory_bytes is not None
                assert estimate.disk_bytes is not None
                ratio = estimate.seconds.total / truth.seconds
                memory, disk = estimate.memory_bytes / truth.memory, estimate.disk_bytes / truth.disk
                if not (1 / TOLERANCE <= ratio <= TOLERANCE and memory >= 1 and disk >= 1):
                    wrong.append(name)
                times = f"{estimate.seconds.total:.2f} | {truth.seconds:.2f} | {ratio:.2f}"
                print(f"| {name} | {times} | {memory:.2f} | {disk:.2f} |", flush=True)
    print(f"{len(names) * arguments.rounds} estimates, {len(wrong)} wrong" + (f": {wrong}" if wrong else ""))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
