"""Memory that models take in a server, whether reloading leaks it, and what loading does to another model's latency.

One server process for each question. Memory is the proportional set size of the server's processes, which counts what
several share once. Latency comes from h2load (see bench_serving), with a caller at a time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import grpc
from h2load import measure
from loads import predict_load, write_models
from servers import Served, first_reply, free_port

#: Between two looks of the server at its folder, in seconds.
POLL_SECONDS = 0.1
#: Rows and columns of the large model's one matrix: 600 MB.
LARGE = (12_288, 12_288)


@contextmanager
def serving(models: Path, options: Sequence[str]) -> Iterator[tuple[Served, int]]:
    """A server of a folder, and the port of its metrics."""
    port, metrics = free_port(), free_port()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "layerserve_server", str(models), "--host", "127.0.0.1", "--log-level", "error"),
            *("--grpc-port", str(port), "--metrics-port", str(metrics), "--poll-seconds", str(POLL_SECONDS)),
            *options,
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", metrics), 1).close()
                break
            except OSError:
                assert process.poll() is None, "the server has ended"
                time.sleep(0.1)
        yield Served("layerserve", port, predict_load("small"), process), metrics
    finally:
        process.terminate()
        process.wait()


def answer(served: Served) -> None:
    """Waits until the server answers."""
    with grpc.insecure_channel(f"127.0.0.1:{served.port}") as channel:
        first_reply(channel, served.load, served.process)


def mib(process: subprocess.Popen[bytes]) -> float:
    """Memory of a process and its children, in MiB."""
    kib = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(path.read_text().rpartition(")")[2].split()[2]) == process.pid:
                lines = (path.parent / "smaps_rollup").read_text().splitlines()
                kib += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except OSError:
            continue  # it has ended
    return kib / 1024


def loads(metrics: int, model: str) -> int:
    """How often a model was loaded."""
    with urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as reply:
        for line in reply.read().decode().splitlines():
            if line.startswith(f'layerserve_model_loads_total{{model="{model}"}}'):
                return int(float(line.split()[-1]))
    return 0


def bench_models(folder: Path, options: Sequence[str]) -> None:
    """Memory with each model, once it has answered."""
    print("| model | file, MiB | server, MiB | more than without models |\n|---|---|---|---|")
    (folder / "none").mkdir()
    with serving(folder / "none", options) as (served, _):
        time.sleep(2)
        empty = mib(served.process)
        print(f"| none | | {empty:.0f} | |", flush=True)
    for name in ("small", "middle", "large"):
        (folder / name).mkdir()
        write_models(folder / name, [name])
        with serving(folder / name, options) as (served, _):
            answer(Served("layerserve", served.port, predict_load(name), served.process))
            used = mib(served.process)
            size = sum(path.stat().st_size for path in (folder / name).rglob("*.keras")) / 2**20
            print(f"| {name} | {size:.1f} | {used:.0f} | {used - empty:.0f} |", flush=True)


def bench_reloads(folder: Path, model: str, count: int, options: Sequence[str]) -> None:
    """Memory after each tenth time that a model's file was replaced, with requests between."""
    (folder / "reloaded").mkdir()
    write_models(folder / "reloaded", [model])
    file = folder / "reloaded" / model / "1" / "model.keras"
    shown: list[float] = []
    with serving(folder / "reloaded", options) as (served, metrics):
        served = Served("layerserve", served.port, predict_load(model), served.process)
        answer(served)
        for number in range(1, count + 1):
            shutil.copy(file, folder / "next.keras")
            (folder / "next.keras").rename(file)
            while loads(metrics, model) <= number:
                time.sleep(POLL_SECONDS / 2)
            answer(served)
            if number % 10 == 0:
                time.sleep(0.5)
                shown.append(mib(served.process))
                print(f"{number} reloads of {model}: {shown[-1]:.1f} MiB", flush=True)
    print(f"from the first tenth to the last: {shown[-1] / shown[0] - 1:+.1%}\n")


def bench_loading(folder: Path, seconds: int, rounds: int, options: Sequence[str]) -> None:
    """Latency of a small model while nothing is loaded, and while a model of 600 MB is."""
    from layergraph import Input, Model
    from layergraph.layers import Dense

    inputs = Input((LARGE[0],), name="x")
    Model(inputs, Dense(LARGE[1], use_bias=False)(inputs)).save(folder / "large.keras")
    (folder / "both").mkdir()
    write_models(folder / "both", ["small"])
    quiet, loading = [], []
    with serving(folder / "both", options) as (served, metrics):
        answer(served)
        for number in range(rounds):
            quiet.append(measure(served, 1, seconds).p99)
            place = folder / "both" / f"large{number}" / "1"
            place.mkdir(parents=True)
            os.link(folder / "large.keras", place / "model.keras")
            began = time.monotonic()
            loading.append(measure(served, 1, seconds).p99)
            while not loads(metrics, f"large{number}"):
                time.sleep(0.1)
            print(
                f"p99 {quiet[-1]:.2f} ms, {loading[-1]:.2f} while loading ({time.monotonic() - began:.1f} s)",
                flush=True,
            )
            shutil.rmtree(place.parent)
            time.sleep(5 * POLL_SECONDS)
    ratios = sorted(busy / calm for busy, calm in zip(loading, quiet, strict=True))
    print(
        f"p99 of the small model while 600 MB load: {ratios[len(ratios) // 2]:.2f} times as long (median of rounds)\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["models", "reloads", "loading"])
    parser.add_argument("--model", choices=("small", "middle", "large"), default="middle", help="the one to reload")
    parser.add_argument("--reloads", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="of load for each latency")
    parser.add_argument(
        "--option", action="append", default=[], help="further one of the server, as --option=--transport=native"
    )
    arguments = parser.parse_args()
    options = [part for option in arguments.option for part in option.split("=", 1)]
    with tempfile.TemporaryDirectory() as folder:
        if "models" in arguments.what:
            bench_models(Path(folder), options)
        if "reloads" in arguments.what:
            bench_reloads(Path(folder), arguments.model, arguments.reloads, options)
        if "loading" in arguments.what:
            bench_loading(Path(folder), arguments.seconds, arguments.rounds, options)


if __name__ == "__main__":
    main()
