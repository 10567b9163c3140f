"""A check: an attack, what it may cost, and how it is judged."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from attacks.honest import Figures, Honest
from attacks.server import PeakMemory, Server

#: Time in which the honest caller is measured before an attack, in seconds.
BEFORE_SECONDS = 1.5
#: Highest p99 of honest calls, in seconds; on a busy machine a multiple of what it was just before, or as many times
#: more as there are processes for a core besides attackers, server and honest caller.
P99_SECONDS = 0.5
BUSY_FACTOR = 3.0
OWN_LOAD = 3.0
#: Growth that is allowed for each further process, in MiB: they share the limit, but each computes by itself.
PROCESS_MEMORY = 200.0
#: Time in which what an attack held must be free, in seconds.
FREE_SECONDS = 10.0
#: Threads and descriptors that may stay: pools fill up to their size once.
SPARE_THREADS = 80
SPARE_DESCRIPTORS = 40


@dataclass
class Scene:
    """What a check works with."""

    server: Server
    #: Processes that attackers run in.
    pool: Executor
    #: How long floods last.
    seconds: float
    #: What a check saw, for the table; and what it found wrong.
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    #: Servers that a check has started for itself.
    started: list[Server] = field(default_factory=list)

    def start(self, **settings: object) -> Server:
        """Another server on the same repository, with the state of its own; all of a check have the same one."""
        state = self.server.log.with_suffix(".state")
        log = self.server.log.with_suffix(f".{time.monotonic_ns()}.log")
        server = Server(self.server.repository, log, **{**self.server.given, "state": state, **settings})
        self.started.append(server)
        return server.wait()

    def attack(self, function: Callable[..., Counter[str]], *arguments: object, times: int = 1) -> Counter[str]:
        """Runs `function(address, *arguments)` in processes of their own, at once, and adds up what they count."""
        futures = [self.pool.submit(function, self.server.address, *arguments) for _ in range(times)]
        return sum((future.result() for future in futures), Counter())

    def expect(self, true: object, fault: str) -> None:
        """Notes a fault unless something is true."""
        if not true:
            self.faults.append(fault)

    def only(self, seen: Counter[str], *allowed: str) -> None:
        """Notes a fault where anything else was seen than what begins with one of these."""
        others = {what: count for what, count in seen.items() if not what.startswith(allowed)}
        self.expect(not others, f"attackers saw {others}, expected {' or '.join(allowed)}")


@dataclass(frozen=True)
class Check:
    """An attack and its limits.

    item       of the list of promises in lab/README.md
    run        attacks, and counts what attackers saw
    settings   of the server
    memory     growth of the server's memory that is allowed at any time, in MiB
    refusals   what honest callers may see, as "RESOURCE_EXHAUSTED busy"
    beyond     what a transport's library can't do about it, by transport
    transports where it makes sense
    """

    name: str
    item: int
    run: Callable[[Scene], Counter[str]]
    settings: Mapping[str, object] = field(default_factory=dict)
    memory: float = 150.0
    refusals: tuple[str, ...] = ()
    beyond: Mapping[str, str] = field(default_factory=dict)
    transports: tuple[str, ...] = ("grpcio", "native")


@dataclass(frozen=True)
class Verdict:
    """How a check went."""

    check: Check
    transport: str
    workers: int
    tried: int
    seen: Counter[str]
    memory: float
    calls: int
    p99_before: float
    p99: float
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def beyond(self) -> str:
        """Why a failure is the library's; empty where it isn't."""
        return self.check.beyond.get(self.transport, "")

    @property
    def holds(self) -> bool:
        return not self.faults


def carry_out(
    check: Check, server: Server, honest: Honest, pool: Executor, seconds: float, workers: int, *, times: bool = True
) -> Verdict:
    """Attacks a server, and judges what that did to it and to its honest caller; `times`: also by how quick it was."""
    scene = Scene(server, pool, seconds)
    before = time.monotonic()
    # Attackers on the same machine take its cores, whatever the server does.
    for burning in [pool.submit(burn, BEFORE_SECONDS if times else 0.0) for _ in range(2)]:
        burning.result()
    threads, descriptors, peak = server.threads(), server.descriptors(), PeakMemory(server)
    began = time.monotonic()
    try:
        seen = check.run(scene)
    except Exception as error:
        seen = Counter[str]()
        scene.faults.append(f"{type(error).__name__}: {error}")
    finally:
        for other in scene.started:
            if other.alive():
                other.kill()
    ended = time.monotonic()
    time.sleep(0.5)
    peak.stop()
    records = honest.records()
    quiet, during = Figures.of(records, before, began), Figures.of(records, began, max(ended, began + 1.0))
    errors = {what: count for what, count in during.errors.items() if what.partition(": ")[2] not in check.refusals}
    scene.expect(not errors, f"honest callers saw {errors}")
    scene.expect(during.calls, "no honest call ended")
    busy = os.getloadavg()[0] / (os.cpu_count() or 1) / OWN_LOAD
    limit = max(P99_SECONDS, P99_SECONDS * busy, BUSY_FACTOR * quiet.p99)
    scene.expect(
        not times or during.p99 < limit, f"p99 of honest calls: {during.p99:.2f} s, expected below {limit:.2f} s"
    )
    most = check.memory + PROCESS_MEMORY * (workers - 1)
    scene.expect(peak.growth < most, f"memory grew by {peak.growth:.0f} MiB, expected below {most:.0f}")
    if server.alive():
        _expect_free(scene, threads + SPARE_THREADS, descriptors + SPARE_DESCRIPTORS)
    else:
        scene.faults.append("the server has ended")
    return Verdict(
        check,
        str(server.settings.get("transport", "grpcio")),
        workers,
        seen.total(),
        seen,
        peak.growth,
        during.calls,
        quiet.p99,
        during.p99,
        tuple(scene.faults),
        tuple(scene.notes),
    )


def burn(seconds: float) -> None:
    """Keeps a core busy."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def _expect_free(scene: Scene, threads: int, descriptors: int) -> None:
    """Threads and descriptors must come back."""
    until = time.monotonic() + FREE_SECONDS
    while (held := (scene.server.threads(), scene.server.descriptors())) and time.monotonic() < until:
        if held[0] <= threads and held[1] <= descriptors:
            return
        time.sleep(0.1)
    scene.faults.append(f"threads and descriptors: {held}, expected at most {(threads, descriptors)}")


def log_faults(log: Path) -> list[str]:
    """What a server's log must not hold."""
    text = log.read_text(errors="replace")
    return [word for word in ("Traceback", "internal error", "Fatal Python") if word in text]
