"""Replicas of a server on one repository, behind HAProxy and with the client's own balancing, while clients predict.

    python lab/proofs/replicas.py --counts 2 8 --seconds 10

For each number of replicas and each way of balancing: calls a second and how evenly the replicas answer them; a replica
is killed with SIGKILL and started again; two are replaced one after the other, as a rolling update does. No call may
fail, the share of a replica may differ from the mean by a tenth at most, and one that came back must get its share
again. A table is printed. Without HAProxy the clients balance alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from layerserve import Client
from layerserve.errors import LayerserveError
from layerserve_zoo.zoo import ZOO

MODELS = ("dense",)
ROWS = {"dense": np.zeros((1, 64), np.float32)}
#: Connections of callers to the proxy or the replicas, and threads that call over each of them.
CONNECTIONS, THREADS = 4, 4
#: Largest difference of a replica's share from the mean, and of one that came back, relative to the mean.
EVEN, BACK = 0.1, 0.25
#: Maximum time for a replica to start, in seconds: eight start at once.
START_SECONDS = 300
CONFIGURATION = Path(__file__).parents[2] / "deploy" / "proxy" / "replicas.cfg"


class Replica:
    """A server process whose ports stay the same when it is started again."""

    def __init__(self, models: Path, folder: Path, flags: Sequence[str] = (), state: Path | None = None) -> None:
        """`state` is a state folder that exists, and is copied."""
        self.port, self.probes = free_port(), free_port()
        self._log = folder / f"{self.port}.log"
        self._command = [sys.executable, "-m", "layerserve_server", str(models), "--host", "127.0.0.1"]
        self._command += ["--grpc-port", str(self.port), "--metrics-port", str(self.probes), "--tuning-seconds", "0"]
        self._command += ["--drain-seconds", "2", "--training-slots", "0", "--state", str(folder / str(self.port))]
        self._command += flags
        if state is not None:
            shutil.copytree(state, folder / str(self.port))
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stderr=log)

    def wait_until_ready(self, model: str = MODELS[0]) -> None:
        end = time.monotonic() + START_SECONDS
        with Client(self.address) as client:
            while True:
                try:
                    return client.wait_until_ready(5, model=model)
                except LayerserveError:
                    if not self.runs or time.monotonic() > end:
                        raise SystemExit(self._log.read_text()) from None

    def answered(self) -> int:
        """Predictions since the start of the process."""
        with Client(self.address) as client:
            found = client.statistics()
        return sum(model.answered for model in found.values())

    def replace(self) -> None:
        """Ends the server as Kubernetes does, and starts another in its place."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.start()
        self.wait_until_ready()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Callers:
    """Threads that predict without a pause."""

    address: str
    answered: int = 0
    failures: list[str] = field(default_factory=list)
    longest: float = 0.0

    @contextmanager
    def calling(self) -> Iterator[Callers]:
        stop, lock = threading.Event(), threading.Lock()

        def call(client: Client, name: str) -> None:
            while not stop.is_set():
                begun = time.perf_counter()
                try:
                    client.predict(name, ROWS[name], timeout=20)
                except LayerserveError as error:
                    self.failures.append(repr(error))
                with lock:
                    self.answered += 1
                    self.longest = max(self.longest, time.perf_counter() - begun)

        with ExitStack() as opened:
            # Options that differ keep gRPC from sharing one connection among the clients of a process.
            clients = [Client(self.address, options=[("layerserve.caller", i)]) for i in range(CONNECTIONS)]
            for client in clients:
                opened.enter_context(client)
            threads = [
                threading.Thread(target=call, args=(client, MODELS[0])) for client in clients for _ in range(THREADS)
            ]
            for thread in threads:
                thread.start()
            try:
                yield self
            finally:
                stop.set()
                for thread in threads:
                    thread.join()


@contextmanager
def proxy(replicas: Sequence[Replica], folder: Path, model: str = MODELS[0], **variables: str) -> Iterator[str]:
    """HAProxy in front of the replicas, with further variables; gives its address."""
    port = free_port()
    servers = "\n".join(
        f"    server replica{number} {one.address} port {one.probes} check-proto h1"
        for number, one in enumerate(replicas)
    )
    (folder / "servers.cfg").write_text(f"backend replicas\n{servers}\n")
    process = subprocess.Popen(
        ["haproxy", "-db", "-f", str(CONFIGURATION), "-f", str(folder / "servers.cfg")],
        env={**os.environ, "PROXY_GRPC": f"127.0.0.1:{port}", **variables},
        stderr=subprocess.DEVNULL,
    )
    try:
        address = f"127.0.0.1:{port}"
        with Client(address) as client:
            client.wait_until_ready(60, model=model)
        yield address
    finally:
        process.terminate()
        process.wait()


@contextmanager
def direct(replicas: Sequence[Replica], folder: Path) -> Iterator[str]:
    """The addresses of all replicas, as a headless Service's name is resolved to them."""
    yield ",".join(one.address for one in replicas)


def shares(replicas: Sequence[Replica], callers: Callers, seconds: float) -> tuple[list[float], float]:
    """Returns the replicas' answers within some seconds relative to their mean, and the answers a second."""
    before = [one.answered() for one in replicas]
    begun, answered = time.perf_counter(), callers.answered
    time.sleep(seconds)
    rate = (callers.answered - answered) / (time.perf_counter() - begun)
    counts = [one.answered() - earlier for one, earlier in zip(replicas, before, strict=True)]
    return [count * len(counts) / max(1, sum(counts)) for count in counts], rate


def measure(replicas: Sequence[Replica], way: str, address: str, seconds: float) -> list[str]:
    """Runs all cases with one way of balancing, prints a row, and returns what is wrong."""
    wrong: list[str] = []

    def failed(case: str, callers: Callers) -> str:
        wrong.extend(f"{way}, {len(replicas)} replicas, {case}: {text}" for text in callers.failures[:3])
        return f"{callers.answered:,} calls, {len(callers.failures)} failed, longest {callers.longest:.2f} s"

    with Callers(address).calling() as callers:
        time.sleep(1)
        found, rate = shares(replicas, callers, seconds)
    steady, uneven = failed("steady", callers), max(abs(share - 1) for share in found)
    if uneven > EVEN:
        wrong.append(f"{way}, {len(replicas)} replicas: shares {[round(share, 2) for share in found]}, expected 1")
    with Callers(address).calling() as callers:
        time.sleep(1)
        replicas[0].kill()
        time.sleep(2)
        replicas[0].start()
        replicas[0].wait_until_ready()
        back = wait_for_share(replicas, callers)
    killed = failed("killed", callers)
    if back is None:
        wrong.append(f"{way}, {len(replicas)} replicas: the one that came back doesn't get its share")
    with Callers(address).calling() as callers:
        for one in replicas[:2]:
            one.replace()
            time.sleep(1)
    updated = failed("update", callers)
    share = "never" if back is None else f"{back:.0f} s"
    cells = (len(replicas), way, f"{rate:,.0f}", f"{uneven:.1%}", steady, killed, share, updated)
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return wrong


def wait_for_share(replicas: Sequence[Replica], callers: Callers, limit: float = 40.0) -> float | None:
    """Returns the seconds until the first replica, which has just become ready, gets its share; None for never."""
    begun = time.monotonic()
    while time.monotonic() - begun < limit:
        if abs(shares(replicas, callers, 2)[0][0] - 1) < BACK:
            return time.monotonic() - begun
    return None


def free_port() -> int:
    # Below those that connections get, which would take the port of a server that is killed.
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[2, 8], help="numbers of replicas")
    parser.add_argument("--seconds", type=float, default=10.0, help="time of steady calls")
    arguments = parser.parse_args()
    ways: dict[str, Callable[[Sequence[Replica], Path], object]] = {"the client": direct}
    if shutil.which("haproxy"):
        ways["HAProxy"] = proxy
    else:
        print("HAProxy isn't installed: the clients balance alone")
    wrong = []
    print("| replicas | balanced by | calls/s | uneven by | steady | one killed | its share again | update |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = folder / "models"
        (models / MODELS[0] / "1").mkdir(parents=True)
        ZOO[MODELS[0]].make(small=True).save(models / MODELS[0] / "1" / "model.keras")
        for count in arguments.counts:
            replicas = [Replica(models, folder) for _ in range(count)]
            try:
                for one in replicas:
                    one.wait_until_ready()
                for way, balanced in ways.items():
                    with balanced(replicas, folder) as address:  # type: ignore[attr-defined]
                        wrong += measure(replicas, way, address, arguments.seconds)
            finally:
                for one in replicas:
                    one.kill()
    for text in wrong:
        print(text)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
