"""Eight clients predict while versions are uploaded, rolled back, labelled and deleted: managed_swaps.py [--swaps N].

Real servers, over both transports, with one process and with two. Fails if a request fails, an answer isn't that of the
version that it names, the rows of an answer are of several versions, or a change isn't in effect in every process when
its call has returned.
"""

from __future__ import annotations

import argparse
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
from layergraph import Input, Model
from layergraph.initializers import Constant
from layergraph.layers import Dense
from layerserve import Client

CLIENTS, ROWS = 8, 5
#: Connections that are opened after a change, so that every process answers some of them.
PROBES = 8
SERVERS = (("grpcio", 1), ("native", 1), ("grpcio", 2), ("native", 2))
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


def write_model(path: Path, value: float) -> Path:
    """Writes a model that answers `value` for every row."""
    inputs = Input((4,), name="x")
    layer = Dense(2, name="y", kernel_initializer="zeros", bias_initializer=Constant(value))
    path.parent.mkdir(parents=True, exist_ok=True)
    Model(inputs, layer(inputs)).save(path)
    return path


class Server:
    """A server process. A context manager."""

    def __init__(self, models: Path, transport: str, workers: int) -> None:
        options = ["--transport", transport, "--workers", str(workers), "--tuning-seconds", "0"]
        options += ["--host", "127.0.0.1", "--grpc-port", "0", "--metrics-port", "-1", "--drain-seconds", "0"]
        command = [sys.executable, "-m", "layerserve_server", str(models), *options]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if found := re.search(r"gRPC on \S+:(\d+)", line):
                self.address = f"127.0.0.1:{found[1]}"
                break
        # Else it would wait when the pipe is full.
        threading.Thread(target=self._process.stderr.read, daemon=True).start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)


class Callers:
    """Clients that ask for the default and for labels. `values` has the answer of each version."""

    def __init__(self, address: str, values: dict[int, float]) -> None:
        self._address, self._values = address, values
        self._stop = threading.Event()
        self.problems: list[str] = []
        self.answers: Counter[int] = Counter()
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _call(self, number: int) -> None:
        label = (None, None, "stable", "canary")[number % 4]
        rows = np.zeros((ROWS, 4), np.float32)
        with Client(self._address, options=OPTIONS) as client:
            while not self._stop.is_set():
                try:
                    found = client.predict_named("m", rows, label=label)
                except Exception as error:
                    self.problems.append(f"label {label}: {type(error).__name__}: {error}")
                    continue
                if not (found["y"] == self._values[found.version]).all():
                    self.problems.append(f"version {found.version} answered {found['y'].tolist()}")
                self.answers[found.version] += 1

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def in_effect(address: str, default: int, labels: dict[str, int]) -> list[str]:
    """Asks over new connections. Returns what isn't as expected."""
    problems = []
    for _ in range(PROBES):
        with Client(address, options=OPTIONS) as client:
            for label, expected in ((None, default), *labels.items()):
                got = client.predict_named("m", np.zeros((1, 4), np.float32), label=label).version
                if got != expected:
                    problems.append(f"label {label}: version {got} answered after the change, expected {expected}")
    return problems


def run(transport: str, workers: int, swaps: int, seed: int) -> int:
    """Makes the changes on one server. Returns the number of problems."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        models, new = Path(folder) / "models", Path(folder) / "new"
        values = {version: float(version) for version in range(1, swaps + 3)}
        for version in (1, 2):
            write_model(models / "m" / str(version) / "model.keras", values[version])
        files = [write_model(new / f"{version}.keras", values[version]) for version in range(3, swaps + 3)]
        problems, seconds = [], []
        with Server(models, transport, workers) as server, Client(server.address, timeout=120) as client:
            labels = {"stable": 1, "canary": 2}
            for label, version in labels.items():
                client.set_label("m", label, version)
            callers = Callers(server.address, values)
            for version, file in enumerate(files, 3):
                began = time.monotonic()
                change = client.upload("m", file)
                seconds.append(time.monotonic() - began)
                default = version
                if version % 3 == 0:
                    default = client.roll_back("m").version or 0
                    problems += in_effect(server.address, default, labels)
                    client.unpin("m")
                    default = version
                if version % 4 == 0:
                    label = draw.choice(("stable", "canary"))
                    labels[label] = draw.choice([one.version for one in change.versions if one.version > version - 5])
                    client.set_label("m", label, labels[label])
                if version % 5 == 0:
                    gone = [one.version for one in change.versions if one.version not in (default, *labels.values())]
                    change = client.delete_version("m", draw.choice(gone))
                problems += change.lagging
                problems += in_effect(server.address, default, labels)
            callers.close()
        problems += callers.problems
    answers = f"{sum(callers.answers.values())} answers of {len(callers.answers)} versions"
    took = f"{sorted(seconds)[len(seconds) // 2]:.2f} s (median), {max(seconds):.2f} s (longest)"
    print(f"{transport}, {workers} process{'es' * (workers > 1)}: {swaps} swaps, {answers}, {len(problems)} problems")
    print(f"  an upload takes {took}")
    for problem in problems[:10]:
        print(f"  {problem}")
    return len(problems)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=50, help="number of versions that are uploaded")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    sys.exit(1 if sum(run(*server, arguments.swaps, arguments.seed) for server in SERVERS) else 0)


if __name__ == "__main__":
    main()
