"""What a server does under several times the load that it can bear: `make -C lab bench-overload`.

A model that computes for tens of milliseconds a row is called at a fixed rate, whatever comes back: for a while at less
than the most that the server can answer, then at FACTOR times that, then little again. Shown are: replies a second in
time (goodput) and their share of the best; the latency of what was answered; refusals, and those without a hint when
to retry; the server's memory; and the time until a call is as fast again as before. The best is measured before and
after the overload; shares are those of the mean.

By default the overload comes from h2load (Debian: nghttp2-client), a C program that leaves the server its cores. The
server counts its replies; PROBES calls a second from here, on connections of their own, show what others see meanwhile.
With `--tool python` all calls come from here, and each is looked at, at the server's cost.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import h2load
from layerserve.errors import OWN_PUSHBACK_KEY, PUSHBACK_KEY
from layerserve.v1 import models_pb2, models_pb2_grpc
from loads import Load, write_models
from servers import OURS, Served, running

#: Connections of the caller.
CHANNELS = 8
#: Calls a second that are looked at beside those of h2load.
PROBES = 5.0
#: Calls at a time with which the most that the server can answer is found, and their deadline in seconds.
CLOSED, PATIENCE = 16, 60.0


@dataclass
class Seen:
    """What callers have seen in a phase."""

    seconds: float
    latencies: list[float] = field(default_factory=list)
    #: Replies that the server has counted, and calls that it has refused or that were late, if h2load called it.
    answered: int | None = None
    failed: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    without_hint: int = 0
    memory: int = 0

    @property
    def goodput(self) -> float:
        """Replies in time, per second."""
        return (len(self.latencies) if self.answered is None else self.answered) / self.seconds

    def line(self, what: str, best: float) -> str:
        times = sorted(self.latencies) or [float("nan")]
        p50, p99 = times[len(times) // 2] * 1000, times[int(len(times) * 0.99)] * 1000
        failures = ", ".join(f"{count} {code}" for code, count in self.failures.items()) or "none"
        if self.answered is not None:
            failures = f"{self.failed}; of {len(self.latencies) + self.failures.total()} probes {failures}"
        return (
            f"| {what} | {self.goodput:.1f} ({self.goodput / best:.2f}) | {p50:.0f}, {p99:.0f} | {failures}; "
            f"{self.without_hint} without a hint | {self.memory / 2**20:.0f} |"
        )


class Caller:
    """Calls over a few connections."""

    def __init__(self, port: int, load: Load, deadline: float) -> None:
        own = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", own) for _ in range(CHANNELS)]
        self._calls = [channel.unary_unary(load.path) for channel in channels]
        self._request, self._deadline = load.request, deadline
        self._next = 0

    async def call(self, seen: Seen) -> None:
        """One call, noted in `seen`."""
        self._next += 1
        began = time.perf_counter()
        try:
            await self._calls[self._next % CHANNELS](self._request, timeout=self._deadline)
        except grpc.aio.AioRpcError as error:
            seen.failures[error.code().name] += 1
            keys = {key for key, _ in error.trailing_metadata() or ()}
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and keys.isdisjoint({PUSHBACK_KEY, OWN_PUSHBACK_KEY}):
                seen.without_hint += 1
        else:
            seen.latencies.append(time.perf_counter() - began)

    async def closed(self, seconds: float) -> Seen:
        """CLOSED calls at a time: the most that the server can answer."""
        seen, until = Seen(seconds), time.monotonic() + seconds

        async def one() -> None:
            while time.monotonic() < until:
                await self.call(seen)

        await asyncio.gather(*(one() for _ in range(CLOSED)))
        return seen

    async def open(self, rate: float, seconds: float, memory: Callable[[], int]) -> Seen:
        """Calls at a rate, whatever comes back."""
        seen, began, tasks = Seen(seconds), time.monotonic(), set()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            task = asyncio.create_task(self.call(seen))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            if number % max(1, int(rate)) == 0:
                seen.memory = max(seen.memory, memory())
        await asyncio.gather(*tasks)
        seen.seconds = time.monotonic() - began
        return seen

    async def recovery(self, usual: float) -> float:
        """Seconds until a lone call takes less than twice its usual time again."""
        began = time.monotonic()
        while True:
            seen = Seen(1.0)
            await self.call(seen)
            if seen.latencies and seen.latencies[0] < 2 * usual:
                return time.monotonic() - began


async def by_h2load(served: Served, caller: Caller, rate: float, seconds: float, deadline: float) -> Seen:
    """Calls at a rate by h2load, PROBES of them by `caller`."""
    memory = partial(resident, served.process.pid)
    before = counted(served.port)
    with h2load.overload(served, rate - PROBES, seconds, deadline):
        seen = await caller.open(PROBES, seconds, memory)
        after = counted(served.port)
    seen.answered, seen.failed = after[0] - before[0], after[1] - before[1]
    return seen


def counted(port: int) -> tuple[int, int]:
    """Predictions that a server has answered so far, and those that it has not."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = models_pb2_grpc.ModelServiceStub(channel)
        (model,) = stub.GetModelStatistics(models_pb2.GetModelStatisticsRequest()).models
    return model.answered, model.failed


async def measure(served: Served, factor: float, seconds: float, deadline: float, tool: str) -> None:
    """Prints the table of one server."""
    port, group, load = served.port, served.process.pid, served.load
    patient, caller = Caller(port, load, PATIENCE), Caller(port, load, deadline)
    await patient.closed(3.0)
    before = await patient.closed(10.0)
    before.memory = resident(group)
    alone = Seen(1.0)
    for _ in range(10):
        await caller.call(alone)
    usual = sorted(alone.latencies)[len(alone.latencies) // 2]
    memory = partial(resident, group)
    less = await caller.open(0.7 * before.goodput, 10.0, memory)
    if tool == "h2load":
        over = await by_h2load(served, caller, factor * before.goodput, seconds, deadline)
    else:
        over = await caller.open(factor * before.goodput, seconds, memory)
    recovered = await caller.recovery(usual)
    again = await caller.open(0.7 * before.goodput, 10.0, memory)
    after = await patient.closed(10.0)
    after.memory = resident(group)
    # A machine isn't as fast after minutes as it was before.
    best = (before.goodput + after.goodput) / 2
    print("| phase | replies/s in time (share) | p50, p99 ms | failures | MiB |")
    print("|---|---|---|---|---|")
    phases = {
        f"{CLOSED} callers": before,
        "0.7 times that": less,
        f"{factor:g} times that": over,
        "0.7 times again": again,
        f"{CLOSED} callers again": after,
    }
    for phase, seen in phases.items():
        print(seen.line(phase, best))
    print(f"\na lone call takes {usual * 1000:.0f} ms; so again {recovered:.1f} s after the load has ended")


def resident(group: int) -> int:
    """Resident memory of all processes of a group, in bytes."""
    pages = 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if int((path / "stat").read_text().rpartition(")")[2].split()[2]) == group:
                pages += int((path / "statm").read_text().split()[1])
        except OSError:
            continue  # it has ended
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--servers", nargs="+", choices=OURS, default=["grpcio", "native"])
    parser.add_argument("--factor", type=float, default=4.0, help="times the most that the server can answer")
    parser.add_argument("--seconds", type=float, default=120.0, help="length of the overload")
    parser.add_argument("--deadline", type=float, default=2.0, help="deadline of each call in seconds")
    parser.add_argument("--tool", choices=("h2load", "python"), default="h2load")
    arguments = parser.parse_args()
    if arguments.tool == "h2load" and shutil.which("h2load") is None:
        sys.exit("h2load is missing: install nghttp2 (Debian: apt-get install nghttp2-client), or give --tool python")
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder), ["slow"])
        for name in arguments.servers:
            print(f"\n{name}, deadlines of {arguments.deadline:g} s\n", flush=True)
            with running(name, Path(folder), "slow") as served:
                asyncio.run(measure(served, arguments.factor, arguments.seconds, arguments.deadline, arguments.tool))
    print(f"\nload average {os.getloadavg()[0]:.1f} at the end, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
