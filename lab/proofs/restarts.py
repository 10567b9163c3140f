"""Replicas of ten models behind HAProxy are ended and started again, one after the other, while clients predict.

    python lab/proofs/restarts.py --restarts 200

The engines of the models are kept. Each replica is ended by SIGTERM, drains, and is started
again when it has ended; the next one follows when the proxy has had time to notice. Callers predict through the proxy
with the client; every answer is compared with the model's own. No call may fail or differ, and no replica may take
longer to end than its settings say. Printed are calls, the times of calls, and those from a start to the first right
answer of the last model, asked for directly.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from kept_engines import keep_engines
from layerserve import Client
from layerserve.errors import LayerserveError
from layerserve_server.extensions.installed import Settings
from layerserve_zoo.zoo import ZOO
from replicas import Replica, proxy

MODELS = 10
ROWS = np.random.default_rng(0).random((1, 64), np.float32)
#: What a replica promises: its drain, its grace period, and ten seconds.
DRAIN, GRACE, END_SECONDS = 2.0, 10.0, 10.0
#: Time for the proxy to see a new replica, in seconds: its checks are half a second apart.
SEEN_SECONDS = 1.5
#: Maximum time for a start, in seconds.
START_SECONDS = 120.0


@dataclass
class Callers:
    """Threads that predict through the proxy, with a pause after each call."""

    expected: dict[str, np.ndarray]
    times: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @contextmanager
    def calling(self, address: str, threads: int, pause: float) -> Iterator[None]:
        stop = threading.Event()

        def call(number: int) -> None:
            names = [*self.expected][number:] + [*self.expected][:number]
            with Client(address, options=[("layerserve.caller", number)]) as client:
                while not stop.is_set():
                    for name in names:
                        began = time.perf_counter()
                        try:
                            fits = right(client.predict(name, ROWS, timeout=20), self.expected[name])
                        except LayerserveError as error:
                            self.wrong.append(f"{name}: {error!r}")
                        else:
                            if not fits:
                                self.wrong.append(f"{name}: a wrong answer")
                        self.times.append(time.perf_counter() - began)
                        stop.wait(pause)

        running = [threading.Thread(target=call, args=(number,)) for number in range(threads)]
        for one in running:
            one.start()
        try:
            yield
        finally:
            stop.set()
            for one in running:
                one.join()


def right(answer: object, expected: np.ndarray) -> bool:
    return np.allclose(np.asarray(answer), expected, rtol=1e-5, atol=1e-6)


def first_answer(replica: Replica, name: str, expected: np.ndarray) -> float:
    """Returns the seconds until a replica that was just started gives the right answer."""
    began = time.perf_counter()
    host, port = "127.0.0.1", replica.port
    while time.perf_counter() - began < START_SECONDS and replica.runs:
        # A channel that found no server waits before it connects again.
        with socket.socket() as probe:
            if probe.connect_ex((host, port)):
                time.sleep(0.005)
                continue
        with Client(replica.address, retries=0) as client:
            while time.perf_counter() - began < START_SECONDS:
                try:
                    answer = client.predict(name, ROWS, timeout=20)
                except LayerserveError:
                    time.sleep(0.005)
                    continue
                if not right(answer, expected):
                    raise SystemExit(f"the first answer of {replica.address} is wrong")
                return time.perf_counter() - began
    raise SystemExit(f"{replica.address} doesn't answer")


def make_models(folder: Path, state: Path) -> dict[str, np.ndarray]:
    """Writes the models into a repository, and their engines into a state folder. Returns their outputs by name."""
    expected = {}
    for number in range(MODELS):
        name = f"dense{number}"
        file = folder / name / "1" / "model.keras"
        file.parent.mkdir(parents=True)
        model = ZOO["dense"].make(small=True, seed=number)
        model.save(file)
        keep_engines(Settings(path=folder, state=state), file)
        expected[name] = np.asarray(model.predict(ROWS))
    return expected


def restart(replica: Replica, name: str, expected: np.ndarray) -> tuple[float, float]:
    """Ends a replica and starts it again. Returns the seconds to its end, and from its start to its first answer."""
    began = time.perf_counter()
    replica.process.send_signal(signal.SIGTERM)
    if replica.process.wait(DRAIN + GRACE + END_SECONDS) != 0:
        raise SystemExit(f"{replica.address} ended with status {replica.process.returncode}")
    ended = time.perf_counter() - began
    replica.start()
    answered = first_answer(replica, name, expected)
    replica.wait_until_ready(name)
    return ended, answered


def seconds(times: Sequence[float], *shares: float) -> str:
    return " / ".join(f"{np.quantile(times, share):.3f}" for share in shares)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--restarts", type=int, default=200)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--callers", type=int, default=4, help="threads, each with a connection of its own")
    parser.add_argument("--pause", type=float, default=0.02, help="pause of a caller after each call, in seconds")
    arguments = parser.parse_args()
    if shutil.which("haproxy") is None:
        raise SystemExit("HAProxy isn't installed")
    ended: list[float] = []
    answered: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        expected = make_models(folder / "models", folder / "state")
        last = [*expected][-1]
        flags = ["--tuning-seconds", "5", "--drain-seconds", str(DRAIN), "--grace-seconds", str(GRACE)]
        replicas = []
        try:
            for _ in range(arguments.replicas):
                replicas.append(Replica(folder / "models", folder, flags, state=folder / "state"))
            for one in replicas:
                one.wait_until_ready(last)
            callers = Callers(expected)
            with (
                proxy(replicas, folder, last) as address,
                callers.calling(address, arguments.callers, arguments.pause),
            ):
                for number in range(arguments.restarts):
                    times = restart(replicas[number % len(replicas)], last, expected[last])
                    ended.append(times[0])
                    answered.append(times[1])
                    if number % 20 == 19:
                        print(f"{number + 1} restarts, {len(callers.wrong)} failed or wrong calls", flush=True)
                    time.sleep(SEEN_SECONDS)
        finally:
            for one in replicas:
                one.kill()
    print(f"{len(answered)} restarts of {arguments.replicas} replicas, {MODELS} models")
    print(f"calls: {len(callers.times):,}, failed or wrong: {len(callers.wrong)}")
    print(f"time of a call, p50 / p99 / longest: {seconds(callers.times, 0.5, 0.99, 1)} s")
    print(f"from a start to the first right answer, median / longest: {seconds(answered, 0.5, 1)} s")
    print(f"from SIGTERM to the end, median / longest: {seconds(ended, 0.5, 1)} s")
    for text in callers.wrong[:10]:
        print(text)
    return bool(callers.wrong)


if __name__ == "__main__":
    sys.exit(main())
