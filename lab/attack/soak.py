"""Everything at once for a while: `make -C lab soak SECONDS=600`.

Honest callers see nothing but answers; memory stays flat.

Beside the honest caller there are one that trains, watches and cancels runs, one that drops new versions into the
repository, and attackers of all kinds.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from attacks.check import log_faults
from attacks.honest import Figures, Honest
from attacks.messages import MODEL, ROW
from attacks.repository import make_repository
from attacks.runner import attackers
from attacks.server import Server
from layerserve import Client, LayerserveError, TrainingCancelled

from attack.background import Attacks

#: Time between two looks at the memory, and two lines about it, in seconds.
SAMPLE_SECONDS = 1.0
LINE_SECONDS = 30.0
#: Time between two versions that are dropped into the repository, in seconds.
RELOAD_SECONDS = 5.0
#: Growth of memory in the second half, in MiB an hour, that is taken for noise.
FLAT = 120.0
#: Limits under which attackers can't take all of this machine.
SETTINGS: dict[str, object] = {
    "max_message_bytes": 64 << 20,
    "max_buffered_bytes": 256 << 20,
    "stalled_seconds": 4.0,
    "stream_idle_seconds": 10.0,
    "handshake_seconds": 3.0,
    "max_kept_runs": 20,
    "max_queued_runs": 8,
}
#: What honest callers may see: typed refusals.
REFUSALS = ("RESOURCE_EXHAUSTED busy", "OK")


class Beside:
    """Callers of other kinds, each in a thread, until the end."""

    def __init__(self, server: Server, repository: Path) -> None:
        self._server, self._repository = server, repository
        self._over = threading.Event()
        self.seen: Counter[str] = Counter()
        self._threads = [
            threading.Thread(target=self._repeat, args=(work,), daemon=True) for work in (self._train, self._reload)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(120)

    def _repeat(self, work: Callable[[int], str]) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            try:
                self.seen[work(number)] += 1
            except LayerserveError as error:
                self.seen[f"{work.__name__}: {error.status.name} {error.code}"] += 1
                self._over.wait(1)

    def _train(self, number: int) -> str:
        """A run that is watched to its end; each third is cancelled. A result is published, and so loaded."""
        rng = np.random.default_rng(number)
        x, y = rng.standard_normal((64, 64)).astype("float32"), np.eye(10, dtype="float32")[rng.integers(0, 10, 64)]
        with Client(self._server.target, timeout=60) as client:
            publish = number % 2 == 0
            run = client.train("trained", x, y, optimizer="sgd", loss="mse", epochs=3, publish=publish)
            if number % 3 == 0:
                run.cancel()
            try:
                run.wait()
            except TrainingCancelled:
                return "runs cancelled"
            return "runs finished"

    def _reload(self, number: int) -> str:
        """A new version, as large as the last; the oldest ones go."""
        folder = self._repository / "headline"
        new = folder / f".{number}"
        shutil.copytree(folder / "1", new)
        new.rename(folder / str(number + 1))
        if number > 5:
            shutil.rmtree(folder / str(number - 3), ignore_errors=True)
        self._over.wait(RELOAD_SECONDS)
        return "versions dropped in"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--transport", choices=["grpcio", "native"], default="grpcio")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, attackers() as pool:
        repository = make_repository(Path(folder) / "models")
        shutil.copytree(repository / MODEL, repository / "trained")
        options = {"transport": arguments.transport, "workers": arguments.workers, **SETTINGS}
        server = Server(repository, Path(folder) / "log", **options).wait()
        honest = Honest(server.target, server.http_port, MODEL, ROW)
        beside = Beside(server, repository)
        attacks = Attacks(pool, lambda: server.address, arguments.seed)
        began = time.monotonic()
        samples = _sample(server, began, arguments.seconds)
        attacks.stop()
        beside.stop()
        figures = Figures.of(honest.records(), began, time.monotonic() - 1)
        honest.stop()
        status = server.end()
        faults = [f"exit status {status}, expected 0"] if status else []
        faults += [f"the log has '{word}'" for word in log_faults(server.log)]
        return _report(figures, samples, beside.seen, attacks, faults)


def _sample(server: Server, began: float, seconds: float) -> list[tuple[float, float]]:
    """Memory by time, in MiB and seconds."""
    samples, told = [], began
    while (now := time.monotonic()) < began + seconds and server.alive():
        samples.append((now - began, server.memory()))
        if now - told > LINE_SECONDS:
            told = now
            print(
                f"{now - began:.0f} s: {samples[-1][1]:.0f} MiB, {server.threads()} threads, "
                f"{server.descriptors()} descriptors",
                flush=True,
            )
        time.sleep(SAMPLE_SECONDS)
    return samples


def slope(samples: list[tuple[float, float]]) -> float:
    """Growth in the second half, in MiB an hour: of the lowest values of each tenth, as peaks belong to attacks."""
    half = samples[len(samples) // 2 :]
    size = max(1, len(half) // 10)
    lowest = [min(half[start : start + size], key=lambda one: one[1]) for start in range(0, len(half), size)]
    times, values = zip(*lowest, strict=True)
    return float(np.polyfit(times, values, 1)[0] * 3600) if len(lowest) > 2 else 0.0


def _report(
    figures: Figures, samples: list[tuple[float, float]], beside: Counter[str], attacks: Attacks, faults: list[str]
) -> int:
    errors = {what: count for what, count in figures.errors.items() if what.partition(": ")[2] not in REFUSALS}
    others = {what: count for what, count in beside.items() if ": " in what and "RESOURCE_EXHAUSTED busy" not in what}
    growth = slope(samples)
    if errors or others:
        faults.append(f"honest callers saw {errors | others}")
    if growth > FLAT and samples[-1][0] > 300:
        faults.append(f"memory grows by {growth:.0f} MiB an hour")
    memory = [value for _, value in samples]
    print(f"{figures.calls} honest calls, p99 {figures.p99 * 1000:.0f} ms, refused: {dict(figures.errors)}")
    print(f"beside: {dict(beside)}")
    print(f"{attacks.counts.total()} attacks: {dict(attacks.counts)}")
    print(f"memory: {memory[0]:.0f} MiB at first, {max(memory):.0f} at most, {memory[-1]:.0f} at the end, ", end="")
    print(f"{growth:+.0f} MiB an hour in the second half")
    print("\n".join(f"! {fault}" for fault in faults) or "holds")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
