"""Kills sessions of online training and servers at random moments: `make -C lab online-kills KILLS=30 ARGS=--replay`.

A server in a process of its own trains a small model (dropout, batch normalization, a state of the optimizer) in a
session of STEPS steps, with versions that are published every 25 steps. At random moments a kill -9 hits the session's
process, the server, or both, and now and then the server is stopped in order (SIGTERM). The client only goes on. At the
end the logs of all steps, the final weights and the weights of every version must be, bit for bit, those of a session
that nothing disturbs; that one's, where the model has no dropout, those of layergraph's own loop in one process. Each
version must be published once, and each in the repository must be whole.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
from layergraph import layers
from layerserve import Client
from layerserve_server.repository.publishing import check_manifest, read_manifest, version_numbers
from small_runs import assert_bit_for_bit, kill_training, weights

EVERY = 25
RNG = np.random.default_rng(2)
X = RNG.standard_normal((64, 6)).astype("f4")
Y = RNG.integers(0, 3, 64)


class Server:
    """A server of a repository, in a process that can be killed, always on the same port."""

    def __init__(self, repository: Path, transport: str, workers: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._command = [
            *(sys.executable, "-m", "layerserve_server", str(repository), "--grpc-port", str(self.port)),
            *("--metrics-port", "-1", "--poll-seconds", "0.1", "--training-nice", "0", "--drain-seconds", "0"),
            *("--transport", transport, "--workers", workers, "--checkpoint-seconds", "0.2"),
        ]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stderr=subprocess.DEVNULL)

    def end(self, how: str) -> None:
        """Ends the server: "stop" in order, "server" at once, "both" with what trains for it."""
        if how == "both":
            kill_training(self.process.pid)
        self.process.send_signal(signal.SIGTERM if how == "stop" else signal.SIGKILL)
        self.process.wait()


def save_models(repository: Path) -> None:
    for name, dropout in (("random", 0.3), ("plain", 0.0)):
        inputs = layergraph.Input((6,))
        x = layers.BatchNormalization()(layers.Dense(16, activation="relu")(inputs))
        model = layergraph.Model(inputs, layers.Dense(3, activation="softmax")(layers.Dropout(dropout)(x)))
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        (repository / name / "1").mkdir(parents=True)
        model.save(repository / name / "1" / "model.keras")


def batch(number: int) -> tuple[Any, Any]:
    chosen = np.random.default_rng(number).integers(0, len(X), 8)
    return X[chosen], Y[chosen]


def train(client: Client, model: str, steps: int, moment: Any = None, **options: Any) -> tuple[str, list[Any]]:
    """A session of so many steps: its id and logs. `moment` is called before each step."""
    with client.online.session(model, version=1, seed=3, publish_every_steps=EVERY, **options) as session:
        logs = []
        for number in range(1, steps + 1):
            if moment is not None:
                moment(number)
            logs.append(session.train_on_batch(*batch(number)))
    return session.id, logs


def versions(repository: Path, model: str, run: str) -> dict[int, int]:
    """The versions that a session has published, by their steps. Each is there once, and whole."""
    found: dict[int, int] = {}
    for version in version_numbers(repository / model):
        folder = repository / model / str(version)
        manifest = read_manifest(folder)
        problem = check_manifest(folder / "model.keras", manifest) if manifest else ""
        assert not problem, problem
        if manifest.get("run") == run:
            step = int(manifest["checkpoint"].removeprefix("step-"))
            assert step not in found, f"the version of step {step} was published twice"
            found[step] = version
    return found


class Killer:
    """Kills in a thread of its own, after random times, and at random steps."""

    def __init__(self, server: Server, kills: int, steps: int, moment: random.Random) -> None:
        self._server = server
        self._moment = moment
        self._at = Counter(moment.randint(1, steps) for _ in range(kills))
        self._thread: threading.Thread | None = None
        self.done: Counter[str] = Counter()

    def before(self, step: int) -> None:
        for _ in range(self._at.pop(step, 0)):
            if self._thread is not None:
                self._thread.join()
            self._thread = threading.Thread(target=self._kill, args=(self._moment.uniform(0.0, 0.1),))
            self._thread.start()

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def _kill(self, delay: float) -> None:
        time.sleep(delay)
        how = self._moment.choice(["session", "session", "server", "both", "stop"])
        self.done[how] += 1
        if how == "session":
            kill_training(self._server.process.pid)
            return
        self._server.end(how)
        self._server.start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", type=int, nargs="?", default=30)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--transport", default="grpcio")
    parser.add_argument("--workers", default="1")
    parser.add_argument("--replay", action="store_true", help="rehearse rows of earlier batches")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    options = {"replay_steps": 7, "replay_share": 0.5} if given.replay else {}
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder) / "models"
        save_models(repository)
        server = Server(repository, given.transport, given.workers)
        client = Client(f"127.0.0.1:{server.port}", timeout=300)
        client.wait_until_ready(120)
        try:
            check(server, client, repository, given.kills, given.steps, random.Random(given.seed), options)
        finally:
            client.close()
            server.end("stop")
    print(f"seed {given.seed}: equal bit for bit")


def check(
    server: Server, client: Client, repository: Path, kills: int, steps: int, moment: random.Random, options: Any
) -> None:
    own = layergraph.load_model(repository / "plain" / "1" / "model.keras")
    expected = [own.train_on_batch(*batch(number), return_dict=True) for number in range(1, steps + 1)]
    plain, logs = train(client, "plain", steps)
    assert logs == expected
    assert_bit_for_bit(
        weights(repository, "plain", max(versions(repository, "plain", plain).values())), own.get_weights()
    )
    print(f"{steps} steps are those of a loop in one process", flush=True)

    unbroken, expected = train(client, "random", steps, **options)
    killer = Killer(server, kills, steps, moment)
    broken, logs = train(client, "random", steps, killer.before, **options)
    killer.join()
    client.wait_until_ready(120)
    assert logs == expected, next(at for at in range(steps) if logs[at] != expected[at])
    whole, other = versions(repository, "random", unbroken), versions(repository, "random", broken)
    assert set(whole) == set(other) == {*range(EVERY, steps + 1, EVERY), steps}
    for step, version in whole.items():
        assert_bit_for_bit(weights(repository, "random", other[step]), weights(repository, "random", version))
    info = client.run(broken).info()
    print(f"{killer.done.total()} kills {dict(killer.done)}, resumed {info.resumed} times")
    print(f"{len(other)} versions, each published once")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
