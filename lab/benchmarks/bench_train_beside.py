"""Predict's latency while a run trains beside it: `python lab/benchmarks/bench_train_beside.py [--rounds N]`.

A server with its settings as shipped answers a steady load (h2load, Debian: nghttp2-client) of the small model, while a
run trains on the same machine. The training process is stopped (SIGSTOP) and let go on in turns, so that each pair of
measurements lies within seconds, and other work on the machine meets both alike. The goal: p99 rises by half at most.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from h2load import Measured, measure
from layerserve import Client, RunStarted
from layerserve_server.training.proc_files import descendants_of
from layerserve_server.training.program.main import NAME
from loads import write_models
from servers import Served, running

#: Connections, and requests a second of each: 0 is as many as are answered.
LOADS = ((1, 100), (8, 50), (1, 0), (8, 0))
#: The goal.
MOST = 1.5
ROWS = 20_000


def train(client: Client, model: str) -> None:
    """Starts a run that outlasts the measurements, and waits until it trains."""
    draw = np.random.default_rng(0)
    if model == "small":
        x, y = draw.random((ROWS, 784), np.float32), np.eye(10, dtype=np.float32)[draw.integers(0, 10, ROWS)]
        loss = "categorical_crossentropy"
    else:
        raise ValueError(model)
    run = client.train(model, x, y, epochs=100_000, optimizer="adam", loss=loss, publish=False)
    for event in run:
        if isinstance(event, RunStarted):
            return


@contextmanager
def paused(server: int) -> Iterator[None]:
    """Stops what trains for the server meanwhile."""
    pids = training_processes(server)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(0.2)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        time.sleep(0.2)


def training_processes(server: int) -> list[int]:
    """The processes that train for a server."""
    return [pid for pid in descendants_of(server) if Path(f"/proc/{pid}/comm").read_text().strip() == NAME]


def pairs(served: Served, callers: int, rate: int, rounds: int, seconds: int) -> list[tuple[Measured, Measured]]:
    """Measurements without and with training, one after another; which comes first alternates."""
    found = []
    for round in range(rounds):
        if round % 2:
            beside = measure(served, callers, seconds, rate)
        with paused(served.process.pid):
            alone = measure(served, callers, seconds, rate)
        if not round % 2:
            beside = measure(served, callers, seconds, rate)
        found.append((alone, beside))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", choices=("grpcio", "native"), default="grpcio")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=2)
    arguments = parser.parse_args()
    if shutil.which("h2load") is None:
        sys.exit("h2load is missing: install nghttp2 (Debian: apt-get install nghttp2-client)")
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder), ["small"])
        with (
            running(arguments.server, Path(folder), "small") as served,
            Client(f"127.0.0.1:{served.port}", timeout=120) as client,
        ):
            train(client, "small")
            print("| load | alone: p50, p99 (ms), requests/s | beside a run | p99, median of the pairs' ratios |")
            print("|---|---|---|---|")
            for callers, rate in LOADS:
                found = pairs(served, callers, rate, arguments.rounds, arguments.seconds)
                rise = statistics.median(beside.p99 / alone.p99 for alone, beside in found)
                worst = max(worst, rise)
                cells = [
                    f"{median(ones, 'p50'):.2f}, {median(ones, 'p99'):.2f}, {median(ones, 'rate'):,.0f}"
                    for ones in zip(*found, strict=True)
                ]
                name = f"{callers} callers" + (f", {rate}/s each" if rate else ", one request after another")
                print(f"| {name} | {' | '.join(cells)} | {rise:.2f} |", flush=True)
    print(f"\nload average {os.getloadavg()[0]:.1f} at the end, {os.cpu_count()} cores")
    if worst > MOST:
        sys.exit(f"p99 rises to {worst:.2f} of what it is alone, expected at most {MOST}")


def median(measured: tuple[Measured, ...], what: str) -> float:
    """The median over the pairs of one of the numbers."""
    return statistics.median(getattr(one, what) for one in measured)


if __name__ == "__main__":
    main()
