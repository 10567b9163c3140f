"""A thousand models on a server that has room for fifty: many_models.py [--models N] [--room N] [--workers N] ...

Measures the time until all are listed and the server is ready, at the first start and at the next; the time of first
requests; the memory under random requests; and requests to models in use beside those that have others loaded. Every
answer is compared with what its model computes. Prints a table, and ends with status 1 if a goal is missed.
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
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from layergraph import Input, Model
from layergraph.initializers import Constant
from layergraph.layers import Dense
from layerserve import Client
from layerserve_server.repository.version import GRAPH_BYTES

#: Time until all models are listed and the server is ready, in seconds.
READY_SECONDS = 10.0
#: 99th percentile of requests to models in use while others are loaded, in seconds.
HOT_SECONDS = 0.05
#: 99th percentile of first requests, in seconds.
COLD_SECONDS = 1.0
#: Every so many models are larger: 1,000 by 1,000 weights.
LARGER_EVERY, LARGER = 50, 1000
ROWS = np.ones((2, 16), np.float32)
HOT_MODELS, HOT_PAUSE = 5, 0.01
#: Random requests: threads, and seconds.
CALLERS, SECONDS = 4, 15.0


def write_models(folder: Path, count: int) -> None:
    """Writes models that answer their number for every row."""
    for number in range(count):
        larger = number % LARGER_EVERY == LARGER_EVERY - 1
        inputs = Input((16,), name="x")
        hidden = Dense(LARGER if larger else 32, activation="relu")(inputs)
        if larger:
            hidden = Dense(LARGER, activation="relu")(hidden)
        last = Dense(2, name="y", kernel_initializer="zeros", bias_initializer=Constant(float(number)))
        path = folder / name_of(number) / "1" / "model.keras"
        path.parent.mkdir(parents=True)
        Model(inputs, last(hidden)).save(path)


def name_of(number: int) -> str:
    """Returns the name of a model."""
    return f"m{number:04}"


class Server:
    """A server process, which is ready when this returns after `seconds`. A context manager."""

    def __init__(self, models: Path, room: int, count: int, options: Sequence[str]) -> None:
        flags = ["--max-model-bytes", str(room), "--host", "127.0.0.1", "--grpc-port", "0", "--metrics-port", "0"]
        command = [sys.executable, "-m", "layerserve_server", str(models), *flags, "--drain-seconds", "0", *options]
        began = time.monotonic()
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if found := re.search(r"gRPC on \S+:(\d+).*metrics on (\S+);", line):
                self.address, self._metrics = f"127.0.0.1:{found[1]}", found[2]
                break
        # Else it would wait when the pipe is full.
        threading.Thread(target=self._process.stderr.read, daemon=True).start()
        try:
            with Client(self.address, timeout=60) as client:
                client.wait_until_ready(60)
                assert len({info.name for info in client.models() if info.served_by_default}) == count
        except BaseException:
            self._process.kill()
            raise
        self.seconds = time.monotonic() - began

    def metric(self, name: str) -> float:
        """Returns the sum of the values of a metric."""
        page = urllib.request.urlopen(self._metrics, timeout=10).read().decode()
        return sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if re.match(rf"{name}[ {{]", line))

    def resident(self) -> int:
        """Returns the process's private memory, in bytes: without the mapped weights, which the system may take."""
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        return 1024 * int(re.search(r"RssAnon:\s+(\d+)", text)[1])  # type: ignore[index]

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)


def ask(client: Client, number: int) -> float:
    """Sends a request, compares the answer, and returns its time in seconds."""
    began = time.monotonic()
    answer = client.predict(name_of(number), ROWS)
    seconds = time.monotonic() - began
    if not (np.asarray(answer) == number).all():
        raise AssertionError(f"model {number}: got {answer}")
    return seconds


def in_threads(count: int, work: Callable[[int], None]) -> None:
    """Runs work in threads. Raises the first error of one."""
    errors: list[Exception] = []

    def run(number: int) -> None:
        try:
            work(number)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        raise error


def percentile(times: Sequence[float], share: float) -> float:
    """Returns a percentile in seconds."""
    return float(np.quantile(times, share))


def random_requests(server: Server, count: int, seconds: float) -> tuple[int, float]:
    """Asks models at random. Returns the number of requests, and the largest memory of models in bytes."""
    until, asked, largest = time.monotonic() + seconds, [0] * CALLERS, [0.0]

    def call(number: int) -> None:
        chosen = random.Random(number)
        with Client(server.address, timeout=60) as client:
            while time.monotonic() < until:
                ask(client, chosen.randrange(count))
                asked[number] += 1

    def watch(_: int) -> None:
        while time.monotonic() < until:
            largest[0] = max(largest[0], server.metric("layerserve_loaded_bytes"))
            time.sleep(0.1)

    in_threads(CALLERS + 1, lambda number: call(number) if number < CALLERS else watch(number))
    return sum(asked), largest[0]


def hot_requests(server: Server, count: int, seconds: float, others: int) -> tuple[list[float], int]:
    """Asks a few models again and again, beside threads that ask others at random. Returns times, and loads."""
    until, times = time.monotonic() + seconds, []
    with Client(server.address, timeout=60) as client:
        for number in range(HOT_MODELS):
            ask(client, number)
    before = server.metric("layerserve_model_loads_total")

    def hot(_: int) -> None:
        with Client(server.address, timeout=60) as client:
            number = 0
            while time.monotonic() < until:
                number = (number + 1) % HOT_MODELS
                times.append(ask(client, number))
                time.sleep(HOT_PAUSE)

    def cold(number: int) -> None:
        chosen = random.Random(number)
        with Client(server.address, timeout=60) as client:
            while time.monotonic() < until:
                ask(client, chosen.randrange(HOT_MODELS, count))
                time.sleep(HOT_PAUSE)

    in_threads(1 + others, lambda number: cold(number) if number else hot(number))
    return times, int(server.metric("layerserve_model_loads_total") - before)


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--room", type=int, default=50, help="number of small models for which there is room")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--folder", type=Path, help="folder for the models, which are made if it has none")
    options, others = parser.parse_known_args()
    room, count, missed = options.room * (GRAPH_BYTES + 4096), options.models, []

    def line(what: str, value: str, goal: str = "", *, good: bool = True) -> None:
        print(f"| {what} | {value} | {goal}{'' if good else ' MISSED'} |", flush=True)
        if not good:
            missed.append(what)

    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        if not (folder / name_of(0)).exists():
            write_models(folder, count)
        print("| what | measured | goal |\n|---|---|---|")
        state = Path(made) / "state"
        start = ["--state", str(state), *others]
        with Server(folder, room, count, start) as server:
            good = server.seconds <= READY_SECONDS
            line("first start: listed and ready", f"{server.seconds:.1f} s", f"{READY_SECONDS:g} s", good=good)
            with Client(server.address, timeout=60) as client:
                never = [ask(client, number) for number in random.Random(0).sample(range(count // 2, count), 100)]
            good = percentile(never, 0.99) <= COLD_SECONDS
            text = f"{1e3 * percentile(never, 0.5):.0f} ms, p99 {1e3 * percentile(never, 0.99):.0f} ms"
            line("first request to a model that was never read", text, f"p99 {COLD_SECONDS:g} s", good=good)
            random_requests(server, count, options.seconds)
        with Server(folder, room, count, start) as server:
            good = server.seconds <= READY_SECONDS
            line("restart: listed and ready", f"{server.seconds:.1f} s", f"{READY_SECONDS:g} s", good=good)
            before = server.resident()
            asked, largest = random_requests(server, count, options.seconds)
            loads, gone = (int(server.metric(f"layerserve_model_{what}_total")) for what in ("loads", "evictions"))
            line("random requests, loads, evictions", f"{asked:,}, {loads:,}, {gone:,}")
            line("memory of models", f"{largest / 2**20:.1f} MiB", f"{room / 2**20:.1f} MiB", good=largest <= room)
            line("growth of the process's private memory", f"{(server.resident() - before) / 2**20:.0f} MiB")
            alone, _ = hot_requests(server, count, options.seconds, 0)
            line(
                "models in use, alone",
                f"p50 {1e3 * percentile(alone, 0.5):.1f}, p99 {1e3 * percentile(alone, 0.99):.1f} ms",
            )
            beside, loads = hot_requests(server, count, options.seconds, 2)
            p99 = percentile(beside, 0.99)
            text = f"p50 {1e3 * percentile(beside, 0.5):.1f}, p99 {1e3 * p99:.1f} ms"
            per_second = loads / options.seconds
            goal, good = f"p99 {1e3 * HOT_SECONDS:g} ms", p99 <= HOT_SECONDS
            line(f"models in use, beside {per_second:.0f} loads a second", text, goal, good=good)
    if missed:
        sys.exit(f"missed: {', '.join(missed)}")


if __name__ == "__main__":
    main()
