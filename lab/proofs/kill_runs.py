"""Kills training runs and servers at random moments: `make -C lab kills KILLS=30 WORKERS=1 ARGS=--attacks`.

A server in a process of its own trains a small model with WORKERS workers. A kill -9 hits the training process or one
of its workers, the server, or both in turn, after a random time: while it starts, trains, writes a checkpoint (one
after each step), pauses, ends early, or publishes. Then the run goes on, by ResumeRun or at the server's next start,
and must end as the unbroken run did, bit for bit, and keep the same checkpoints; one that was stopped early must have
its losses up to there. One of the checkpoints is published while the server is killed, and must be there once. A run
that was asked to pause is paused, unless it has ended. A call with the run's idempotency key finds it. Each run
publishes once. After every kill each version in the repository must be whole. With `--attacks` the server is attacked
all the while.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attack.background import Attacks
from attacks.repository import make_repository
from attacks.runner import attackers
from layergraph import load_model
from layerserve import (
    Checkpoints,
    Client,
    EpochEnd,
    LayerserveError,
    Resources,
    RunPaused,
    RunStarted,
    TrainingFailed,
)
from layerserve_server.repository.publishing import check_manifest, read_manifest, version_numbers
from layerserve_server.training.proc_files import children_of
from small_runs import SETTINGS, assert_bit_for_bit, dense_data, kill_training, training_processes, weights

MODEL = "dense"
MAX_WORKERS = 8
#: Long enough for a kill to hit, short enough for thirty of them.
EPOCHS = 8


class Server:
    """A server of a repository, in a process that can be killed."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self.start()

    def start(self) -> None:
        port_file = self.repository.parent / "port"
        port_file.unlink(missing_ok=True)
        self.process = subprocess.Popen([sys.executable, __file__, "--serve", str(self.repository), str(port_file)])
        while not port_file.exists():
            if self.process.poll() is not None:
                raise SystemExit("the server doesn't start")
            time.sleep(0.02)
        self.client = Client(f"127.0.0.1:{port_file.read_text()}", timeout=120)

    def kill(self, *, training_too: bool) -> None:
        """Ends the server at once, and what trains for it, or not."""
        if training_too:
            kill_training(self.process.pid)
        self.process.kill()
        self.process.wait()
        self.client.close()

    def stop(self) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def serve(repository: Path, port_file: Path) -> None:
    """What the server's process does."""
    from layerserve_server.app import App
    from layerserve_server.extensions.installed import Settings

    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    settings = Settings(
        path=repository,
        host="127.0.0.1",
        grpc_port=0,
        metrics_port=-1,
        poll_seconds=0.1,
        max_workers=MAX_WORKERS,
        training_slots=2,
        data_root=repository.parent,
        # Training would rest while attackers keep the server busy.
        training_nice=0,
    )
    with App(settings) as app:
        part = port_file.with_suffix(".part")
        part.write_text(str(app.grpc_port))
        part.rename(port_file)
        ended.wait()


def start(client: Client, workers: int, key: str | None = None) -> Any:
    x, y = dense_data()
    return client.train(
        MODEL,
        x,
        y,
        **SETTINGS,
        epochs=EPOCHS,
        idempotency_key=key,
        resources=Resources(workers=workers),
        validation_split=0.25,
        publish="best",
        monitor="accuracy",
        checkpoints=Checkpoints(every_epochs=2, keep=2, keep_best=1, resume_seconds=0),
        callbacks=[{"class_name": "ReduceLROnPlateau", "config": {"monitor": "loss", "patience": 1, "min_delta": 0.5}}],
    )


def check_repository(repository: Path) -> None:
    """Every version is whole: its file is the one that its manifest describes, and loads."""
    for version in version_numbers(repository / MODEL):
        folder = repository / MODEL / str(version)
        file = folder / "model.keras"
        problem = check_manifest(file, read_manifest(folder))
        assert not problem, problem
        load_model(file)


def wait_for_moment(run: Any, moment: random.Random) -> str:
    """Waits for some random moment of a run, in words."""
    place = moment.choice(["start", "train", "train", "pause", "pause", "stop", "publish"])
    if place == "start":
        time.sleep(moment.uniform(0.0, 2.5))
        return "while it starts"
    epoch = EPOCHS - 1 if place == "publish" else moment.randint(1, EPOCHS - 2)
    for event in run:
        if isinstance(event, RunStarted) and not moment.randint(0, EPOCHS):
            break
        if isinstance(event, EpochEnd) and event.epoch == epoch:
            break
    if place in ("pause", "stop"):
        run.pause() if place == "pause" else run.stop()
        time.sleep(moment.uniform(0.0, 0.3))
        return f"{place} after epoch {epoch}"
    # An epoch takes some hundredths of a second; the last one's end, the result and its publication some tenths.
    time.sleep(moment.uniform(0.0, 0.5 if place == "publish" else 0.05))
    return "about its end" if place == "publish" else f"after epoch {epoch}"


def finish(server: Server, run_id: str) -> Any:
    """The run at its end, resumed as often as that takes."""
    run = server.client.run(run_id)
    while True:
        try:
            for event in run:
                if isinstance(event, RunPaused) and run.info().state == "paused":
                    run.resume()
            return run
        except TrainingFailed as error:
            if not error.resumable:
                raise
            run.resume()


def kept_by(repository: Path, client: Client, run: Any) -> list[tuple[str, dict[str, float]]]:
    """The checkpoints that a run keeps; there is nothing else beside them."""
    found = [(one.id, one.logs) for one in client.checkpoints.list(run.id)]
    names = {path.name for path in (repository / ".layerserve" / "runs" / run.id / "kept").iterdir()}
    assert names == {f"{id}{suffix}" for id, _ in found for suffix in (".ckpt", ".json")}, names
    return found


def publish_while_killed(server: Server, name: str, moment: random.Random) -> int:
    """Publishes a checkpoint, while the server is killed at some random moment, and again."""

    def attempt() -> None:
        with contextlib.suppress(LayerserveError):
            server.client.checkpoints.publish(name)

    calling = threading.Thread(target=attempt)
    calling.start()
    time.sleep(moment.uniform(0.0, 1.0))
    server.kill(training_too=True)
    calling.join()
    server.start()
    check_repository(server.repository)
    return server.client.checkpoints.publish(name)


def published_by(repository: Path, run_id: str) -> list[int]:
    """The versions that a run has published, by their manifests: the server names only the runs of loaded ones."""
    folder = repository / MODEL
    numbers = sorted(version_numbers(folder))
    return [number for number in numbers if read_manifest(folder / str(number)).get("run") == run_id]


def check_pause(server: Server, run_id: str) -> str:
    """A run that was asked to pause, and whose process or server was killed, is paused soon, unless it has ended."""
    until = time.monotonic() + 60
    while (state := server.client.run(run_id).info().state) in ("queued", "running"):
        assert time.monotonic() < until, f"the run is {state}, expected that it pauses"
        time.sleep(0.02)
    assert state in ("paused", "finished"), state
    return state


def check_history(got: dict[str, list[float]], expected: dict[str, list[float]], *, early: bool) -> None:
    """The losses are those of the unbroken run; of a run that was stopped early up to its last, partial epoch."""
    if not early:
        assert got == expected, (got, expected)
    for name, values in got.items():
        whole = values[:-1]
        assert whole == expected[name][: len(whole)], (name, values, expected[name])


def kill_worker(server: int, moment: random.Random) -> None:
    """Ends one of the workers of the run that trains, if there are any by now."""
    workers = [worker for launcher in training_processes(server) for worker in children_of(launcher)]
    if workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(moment.choice(workers), signal.SIGKILL)


@contextlib.contextmanager
def attacked(port_file: Path, seed: int) -> Iterator[Attacks]:
    """Attackers of all kinds on the server whose port a file has."""

    def address() -> tuple[str, int]:
        return "127.0.0.1", int(port_file.read_text())

    with attackers() as pool:
        attacks = Attacks(pool, address, seed)
        try:
            yield attacks
        finally:
            attacks.stop()


def main(kills: int, workers: int, seed: int, *, attacks: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        if not attacks:
            kill_on(Path(folder), kills, workers, seed)
            return
        with attacked(Path(folder) / "port", seed) as background:
            kill_on(Path(folder), kills, workers, seed)
        print(f"{background.counts.total()} attacks meanwhile: {dict(background.counts)}")


def kill_on(folder: Path, kills: int, workers: int, seed: int) -> None:
    """Kills on a repository in a folder."""
    print(f"seed {seed}", flush=True)
    moment = random.Random(seed)
    repository = make_repository(folder / "models")
    server = Server(repository)
    unbroken = start(server.client, workers).wait()
    expected = weights(repository, MODEL, unbroken.version)
    kept = kept_by(repository, server.client, unbroken)
    version = server.client.checkpoints.publish(f"{unbroken.id}/{kept[0][0]}")
    expected_early = weights(repository, MODEL, version)
    for kill in range(1, kills + 1):
        key = f"kill-{kill}"
        run = start(server.client, workers, key)
        victim = moment.choice(["training", "both", "server", *(["worker"] if workers > 1 else [])])
        try:
            when = wait_for_moment(run, moment)
        except LayerserveError as error:
            raise SystemExit(f"kill {kill}: {error}") from error
        if victim == "worker":
            kill_worker(server.process.pid, moment)
        elif victim == "training":
            kill_training(server.process.pid)
        else:
            server.kill(training_too=victim == "both")
            check_repository(repository)
            server.start()
        check_repository(repository)
        if when.startswith("pause"):
            when += f", then {check_pause(server, run.id)}"
        print(f"kill {kill} of {kills}: {victim} {when}", end="", flush=True)
        assert start(server.client, workers, key).id == run.id
        ended = finish(server, run.id)
        check_history(ended.history, unbroken.history, early=ended.info().stopped)
        if ended.history == unbroken.history:
            assert_bit_for_bit(weights(repository, MODEL, ended.version), expected)
        assert ended.version is not None
        assert published_by(repository, run.id) == [ended.version], "a run publishes once"
        resumed = ended.info().resumed
        if ended.history == unbroken.history:
            assert kept_by(repository, server.client, ended) == kept
            early = publish_while_killed(server, f"{run.id}/{kept[0][0]}", moment)
            assert_bit_for_bit(weights(repository, MODEL, early), expected_early)
            manifests = [read_manifest(repository / MODEL / str(one)) for one in version_numbers(repository / MODEL)]
            published = sorted(one.get("checkpoint", "") for one in manifests if one.get("run") == run.id)
            assert published == ["", kept[0][0]], "a run and its checkpoint are published once each"
        print(f", resumed {resumed} times: equal", flush=True)
    check_repository(repository)
    server.stop()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        given = [int(text) for text in sys.argv[1:] if text != "--attacks"]
        kills, workers, seed = [*given, *[30, 1, random.randrange(10**6)][len(given) :]]
        main(kills, workers, seed, attacks="--attacks" in sys.argv)
