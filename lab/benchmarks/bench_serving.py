"""Requests a second and latency of servers, side by side in one run.

The load comes from h2load (Debian: nghttp2-client), a C program that costs the machine little: it sends one ready-made
request over and over, from as many connections as there are callers. It looks at no reply, so each server's first one
is compared here with the model's in process. Servers take turns, round by round, and the medians over the rounds are
shown. With `--tool perf_analyzer` the load comes from Triton's own tool, for servers of the Open Inference Protocol.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import perf_analyzer
from bench_timing import p50
from h2load import Measured, measure
from loads import APPLICATIONS, THREADS, inputs, write_models
from servers import OURS, SERVERS, Served, all_running

#: Rows of batches in process.
BATCHES = (1, 2, 4, 8, 16, 32)


def in_process(models: Path, model: str) -> dict[int, float]:
    """Milliseconds of batches of so many rows, p50, in this process on the engine that is fastest."""
    from layergraph import load_model

    plan = load_model(models / model / "1" / "model.keras").plan()
    plan.tune()
    one = {name or plan.input_specs[0].name: array for name, array in inputs(model).items()}
    times = {}
    for rows in BATCHES:
        arrays = {name: np.repeat(array, rows, axis=0) for name, array in one.items()}
        times[rows] = p50(lambda arrays=arrays: plan.run(arrays), 1.0)
    return times


def show_limits(
    models: Path,
    model: str,
    names: Sequence[str],
    callers: Sequence[int],
    results: dict[tuple[str, int], list[Measured]],
) -> None:
    """How near our servers come to the model in process: rows a second, and what a lone caller waits for longer."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        times = pool.apply(in_process, (models, model))
    best = max(BATCHES, key=lambda rows: rows / times[rows])
    most = best / times[best] * 1000
    print(f"\nin process: {times[1]:.3f} ms for one row; {most:,.0f} rows/s at best, {best} at a time\n")
    for name in names:
        if name not in OURS:
            continue
        for number in callers:
            runs = results[name, number]
            rate, middle = statistics.median(run.rate for run in runs), statistics.median(run.p50 for run in runs)
            line = f"- {SERVERS[name].title}, callers {number}: {rate / most:.2f} of that; p99 / p50 "
            line += f"{statistics.median(run.p99 / run.p50 for run in runs):.2f}"
            print(line + (f"; {(middle - times[1]) * 1000:.0f} us more than in process" if number == 1 else ""))


def bench(
    models: Path, model: str, names: Sequence[str], callers: Sequence[int], rounds: int, seconds: int, tool: str
) -> None:
    """Prints the table of one model."""
    results: dict[tuple[str, int], list[Measured]] = {}
    with all_running(names, models, model) as servers:
        for served in servers:
            signal_all(served, signal.SIGSTOP)
        for number in callers:
            for round in range(rounds):
                # The order is reversed in every other round, so that a machine that slows down favours no server.
                for served in servers if round % 2 == 0 else servers[::-1]:
                    signal_all(served, signal.SIGCONT)
                    results.setdefault((served.name, number), []).append(
                        perf_analyzer.measure(served, model, number, seconds)
                        if tool == "perf_analyzer"
                        else measure(served, number, seconds)
                    )
                    signal_all(served, signal.SIGSTOP)
        for served in servers:
            signal_all(served, signal.SIGCONT)
    show(model, names, callers, results)
    show_ratios(names, callers, results)
    show_limits(models, model, names, callers, results)


def signal_all(served: Served, number: signal.Signals) -> None:
    """Signals all processes of a server: those that wait for their turn stand still, as some use time when idle."""
    os.killpg(served.process.pid, number)


def show(
    model: str, names: Sequence[str], callers: Sequence[int], results: dict[tuple[str, int], list[Measured]]
) -> None:
    """The table in Markdown. Ratios are medians of the rounds' own, so that a slow minute doesn't blur them."""
    print(f"\n{model}: requests/s (ratio to the first row; p50, p99 in ms; server's CPU us a request)\n")
    print(f"| server | {' | '.join(f'callers {number}' for number in callers)} |")
    print("|---" * (len(callers) + 1) + "|")
    for name in names:
        cells = []
        for number in callers:
            runs = results[name, number]
            ratio = ratio_of(runs, results[names[0], number])
            failed = sum(run.failed for run in runs)
            cells.append(
                f"{statistics.median(run.rate for run in runs):,.0f} ({ratio:.2f}; "
                f"{statistics.median(run.p50 for run in runs):.2f}, {statistics.median(run.p99 for run in runs):.2f}; "
                f"{statistics.median(run.cpu for run in runs):.0f})" + (f" {failed} FAILED" if failed else "")
            )
        print(f"| {SERVERS[name].title} | {' | '.join(cells)} |", flush=True)


def show_ratios(names: Sequence[str], callers: Sequence[int], results: dict[tuple[str, int], list[Measured]]) -> None:
    """How many times as many requests as each other server each of ours answers, in Markdown."""
    own = [name for name in names if name in OURS]
    others = [name for name in names if name not in OURS]
    if not own or not others:
        return
    print(
        "\nrequests/s of ours / of the other server, in this order: " + "; ".join(SERVERS[name].title for name in own)
    )
    print(f"\n| other server | {' | '.join(f'callers {number}' for number in callers)} |")
    print("|---" * (len(callers) + 1) + "|")
    for other in others:
        cells = [
            ", ".join(f"{ratio_of(results[name, number], results[other, number]):.2f}" for name in own)
            for number in callers
        ]
        print(f"| {SERVERS[other].title} | {' | '.join(cells)} |", flush=True)


def ratio_of(runs: Sequence[Measured], others: Sequence[Measured]) -> float:
    """How many times as many requests a second: the median of the rounds' own ratios."""
    return statistics.median(run.rate / other.rate for run, other in zip(runs, others, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=("small", "middle", *APPLICATIONS), default=["small"])
    parser.add_argument(
        "--servers",
        nargs="+",
        choices=tuple(SERVERS),
        default=[name for name, kind in SERVERS.items() if kind.ready and name != "workers"],
        help="rows of the table, of which the first is what ratios are of (default: those that are installed)",
    )
    parser.add_argument("--callers", nargs="+", type=int, default=[1, 16, 64, 256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--tool", choices=("h2load", "perf_analyzer"), default="h2load")
    arguments = parser.parse_args()
    if arguments.tool == "h2load" and shutil.which("h2load") is None:
        sys.exit("h2load is missing: install nghttp2 (Debian: apt-get install nghttp2-client)")
    for name in arguments.servers:
        if not SERVERS[name].ready:
            sys.exit(f"{name} needs {SERVERS[name].python}: the Python of an environment that has it, and torch")
    threads = os.environ.get("OMP_NUM_THREADS")
    for model in arguments.models:
        # One model in each folder, since our server would tune all that it finds.
        with tempfile.TemporaryDirectory() as folder:
            models = Path(folder, "models")
            write_models(models, [model])
            names = [name for name in arguments.servers if model in SERVERS[name].models]
            # Servers, and the measurement in process, take it from here.
            os.environ["OMP_NUM_THREADS"] = threads or str(THREADS.get(model, os.cpu_count()))
            bench(models, model, names, arguments.callers, arguments.rounds, arguments.seconds, arguments.tool)
    print(f"\nload average {os.getloadavg()[0]:.1f} at the end, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
