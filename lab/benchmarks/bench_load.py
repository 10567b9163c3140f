"""Loading a model file here, in a server, and with stock Keras 3.

    python lab/benchmarks/bench_load.py [MEGABYTES ...]

A server has the file read by another process at first, and later maps what that has read.

Each load runs in a process of its own, after one small load that imports everything, with the file in the page cache.
Rounds alternate. Memory is the peak beyond that of the process before the load, as a multiple of the weights.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS = 5
SIZES = (100, 600)
#: The first load by a server, and a later one.
FIRST, AGAIN = "server", "server again"
KINDS = ("keras", "layergraph", FIRST, AGAIN)
#: Width of the layers, of 4 MiB each.
WIDTH = 1024


def write(megabytes: int, path: Path) -> None:
    """A stack of Dense layers of that size, written by stock Keras."""
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    layers = [keras.layers.Dense(WIDTH, kernel_initializer="ones") for _ in range(megabytes // 4)]
    keras.Sequential([keras.Input((WIDTH,)), *layers]).save(path)


def load(which: str, small: Path, path: Path) -> dict[str, float]:
    """Seconds and peak memory in bytes of one load, in this process."""
    load_model: Callable[[Path], Any]
    if which == "keras":
        os.environ["KERAS_BACKEND"] = "torch"
        from keras.models import load_model
    elif which == "layergraph":
        from layergraph import load_model
    else:
        from layerserve_server.importing.imports import Imports
        from layerserve_server.jobs.jobs import Jobs

        state = path.parent / "imports" / path.name
        if which == FIRST:
            shutil.rmtree(state, ignore_errors=True)
        load_model = Imports(state, Jobs()).load
    load_model(small)
    _forget_peak()
    before = _memory("VmRSS")
    started = time.perf_counter()
    model = load_model(path)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "bytes": _memory("VmHWM") - before, "parameters": model.count_params()}


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _memory(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def main(sizes: list[int]) -> None:
    """Writes the files, loads them in turns, prints a table."""
    with tempfile.TemporaryDirectory() as folder:
        for ending in (".keras", ".h5"):
            small = Path(folder) / f"small{ending}"
            _run("write", "4", str(small))
            for megabytes in sizes:
                path = Path(folder) / f"m{megabytes}{ending}"
                _run("write", str(megabytes), str(path))
                path.read_bytes()
                found: dict[str, list[dict[str, float]]] = {which: [] for which in KINDS}
                for _ in range(ROUNDS):
                    for which, results in found.items():
                        results.append(json.loads(_run("load", which, str(small), str(path))))
                _print(path, found)
                path.unlink()


def _run(*arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", __file__, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _print(path: Path, found: dict[str, list[dict[str, float]]]) -> None:
    seconds = {which: statistics.median(r["seconds"] for r in results) for which, results in found.items()}
    for which, results in found.items():
        weights = 4 * results[0]["parameters"]
        memory = max(r["bytes"] for r in results) / weights
        print(
            f"{path.stat().st_size / 1e6:6.0f} MB {path.suffix:6} {which:12} {seconds[which] * 1000:7.0f} ms   "
            f"memory {memory:.2f} x weights   {seconds['keras'] / seconds[which]:.1f} times as fast as Keras",
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        write(int(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1:2] == ["load"]:
        print(json.dumps(load(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))))
    else:
        main([int(size) for size in sys.argv[1:]] or list(SIZES))
