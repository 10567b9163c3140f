"""Load by h2load (Debian: nghttp2-client): what a server bears, and what it costs."""

from __future__ import annotations

import math
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from servers import Served

GRPC_HEADERS = ("-H", "content-type: application/grpc", "-H", "te: trailers")
GRPC_OPTIONS = ("--max-concurrent-streams", "1", *GRPC_HEADERS)
#: Connections of an overload.
CONNECTIONS = 8


@dataclass(frozen=True)
class Measured:
    """One run of h2load: requests a second; latencies in milliseconds; requests that failed.

    `cpu` is the processor time that the server's processes took for a request, in microseconds: on a machine with other
    work it tells more than the clock.
    """

    rate: float
    cpu: float
    p50: float
    p99: float
    failed: int


def measure(served: Served, callers: int, seconds: int, rate: int = 0) -> Measured:
    """Drives a server from `callers` connections with one request at a time each, `rate` a second at the most."""
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        load = served.load
        body.write_bytes(load.request if load.headers is not None else framed(load.request))
        http = [part for header in load.headers or () for part in ("-H", header)]
        command = [
            *("h2load", "--duration", str(seconds), "--warm-up-time", "1", "--clients", str(callers)),
            *("--data", str(body), "--log-file", str(log)),
            *(("--rps", str(rate)) if rate else ()),
            *(GRPC_OPTIONS if load.headers is None else ("--h1", *http)),
            f"http://127.0.0.1:{served.port + load.offset}{load.path}",
        ]
        before = cpu_seconds(served.process.pid)
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        spent = cpu_seconds(served.process.pid) - before
        latencies = sorted(int(line.split()[2]) / 1000 for line in log.read_text().splitlines())
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", said)
    counts = re.search(r"(\d+) failed, (\d+) errored", said)
    total = re.search(r"requests: (\d+) total", said)
    assert rate, said
    assert counts, said
    assert total, said
    assert latencies, f"{served.name} answered no request in {seconds} s"
    warm_up = 1 + 1 / seconds  # h2load counts no requests of its warm-up, which takes a second
    return Measured(
        float(rate[1]),
        spent / (int(total[1]) * warm_up) * 1e6,
        latencies[len(latencies) // 2],
        latencies[int(len(latencies) * 0.99)],
        int(counts[1]) + int(counts[2]),
    )


@contextmanager
def overload(served: Served, rate: float, seconds: float, deadline: float) -> Iterator[None]:
    """Sends requests at a rate meanwhile, whatever comes back, from CONNECTIONS connections and with a deadline."""
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder, "body")
        body.write_bytes(framed(served.load.request))
        command = [
            *("h2load", "--duration", f"{seconds:g}", "--data", str(body)),
            *("--clients", str(CONNECTIONS), "--rps", f"{rate / CONNECTIONS:g}"),
            *("--max-concurrent-streams", str(math.ceil(rate * deadline))),
            *(*GRPC_HEADERS, "-H", f"grpc-timeout: {deadline * 1000:.0f}m"),
            f"http://127.0.0.1:{served.port}{served.load.path}",
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            yield
            assert process.wait() == 0


def framed(message: bytes) -> bytes:
    """A message with gRPC's prefix: not compressed, and its length."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def cpu_seconds(group: int) -> float:
    """What all processes of a group have used so far."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
