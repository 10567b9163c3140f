"""Load by perf_analyzer, Triton's own tool (PyPI: perf-analyzer): ModelInfer from its clients of gRPC and HTTP."""

from __future__ import annotations

import csv
import os
import subprocess
import tempfile
from pathlib import Path

from h2load import Measured, cpu_seconds
from servers import Served

#: Variable with the command's path, by default found in PATH.
PROGRAM = "PERF_ANALYZER"


def measure(served: Served, model: str, callers: int, seconds: int) -> Measured:
    """Drives a server with so many requests at a time. Latencies are in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder, "table.csv")
        port, protocol = served.port + served.load.offset, "grpc" if served.load.headers is None else "http"
        command = [
            *(os.environ.get(PROGRAM, "perf_analyzer"), "-m", model, "-u", f"127.0.0.1:{port}", "-i", protocol),
            *("--concurrency-range", str(callers), "--measurement-interval", str(1000 * seconds)),
            # One window: the rounds of the benchmark are its repetitions.
            *("--stability-percentage", "999", "--max-trials", "3", "-f", str(table)),
        ]
        before = cpu_seconds(served.process.pid)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        spent = cpu_seconds(served.process.pid) - before
        assert done.returncode == 0, done.stdout + done.stderr
        (row,) = csv.DictReader(table.open())
    rate = float(row["Inferences/Second"])
    # It also sends requests before and after its windows: the processor time of each is an upper bound.
    cpu = spent / (rate * 3 * seconds) * 1e6
    return Measured(rate, cpu, float(row["p50 latency"]) / 1000, float(row["p99 latency"]) / 1000, 0)
