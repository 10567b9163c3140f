"""Seconds from Train's first message to a run's first step: `python lab/benchmarks/bench_run_start.py [--rounds N]`.

A server with its settings as shipped, and runs of 64 rows, one after the other: with nothing beside them, while eight
callers send Predict one after another, and while every core is busy with something else of full priority.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
from layerserve import Client, RunStarted, StepProgress
from loads import inputs, write_models
from servers import Served, running

CALLERS = 8
ROWS = 64


@contextmanager
def callers(served: Served) -> Iterator[None]:
    """Callers of Predict, each with one request after another."""
    ended = threading.Event()

    def call() -> None:
        with Client(f"127.0.0.1:{served.port}", timeout=120) as client:
            while not ended.is_set():
                client.predict("small", inputs("small")[""])

    threads = [threading.Thread(target=call) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@contextmanager
def busy(served: Served) -> Iterator[None]:
    """A loop on every core, in a session of its own, so that it has a share of its own."""
    command = [sys.executable, "-c", "while True: pass"]
    loops = [subprocess.Popen(command, start_new_session=True) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


LOADS: dict[str, Callable[[Served], AbstractContextManager[None]]] = {
    "nothing": lambda served: nullcontext(),
    f"{CALLERS} callers of Predict": callers,
    "a busy loop on each core": busy,
}


def first_step(client: Client) -> tuple[float, float]:
    """Seconds to the events of the start and of the first step of a run."""
    draw = np.random.default_rng(0)
    x, y = draw.random((ROWS, 784), np.float32), np.eye(10, dtype=np.float32)[draw.integers(0, 10, ROWS)]
    began = time.monotonic()
    run = client.train("small", x, y, optimizer="adam", loss="categorical_crossentropy", publish=False)
    started = 0.0
    for event in run:
        if isinstance(event, RunStarted):
            started = time.monotonic() - began
        if isinstance(event, StepProgress):
            seconds = time.monotonic() - began
            run.wait()
            return started, seconds
    raise AssertionError("the run ended without a step")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder), ["small"])
        with (
            running("grpcio", Path(folder), "small") as served,
            Client(f"127.0.0.1:{served.port}", timeout=600) as client,
        ):
            first = first_step(client)[1]
            print(f"the first run after the server's start: {first:.2f} s\n")
            print("| beside | first step: median (least to most) of the runs, seconds | started: median |")
            print("|---|---|---|")
            for name, load in LOADS.items():
                with load(served):
                    found = [first_step(client) for _ in range(arguments.rounds)]
                starts, steps = ([one[part] for one in found] for part in (0, 1))
                text = f"{statistics.median(steps):.2f} ({min(steps):.2f} to {max(steps):.2f})"
                print(f"| {name} | {text} | {statistics.median(starts):.2f} |", flush=True)
    print(f"\nload average {os.getloadavg()[0]:.1f} at the end, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
