"""Runs that are interrupted go on to the very weights of the unbroken run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layerserve import (
    Checkpoints,
    Client,
    EpochEnd,
    RunFinished,
    RunResumed,
    RunStarted,
    StepProgress,
    TrainingFailed,
)
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from layerserve_zoo.zoo import ZOO
from small_runs import SETTINGS, assert_bit_for_bit, dense_data, kill_training, weights

EPOCHS = 6
#: A callback with a state, and a file that grows: both must go on where they were.
CALLBACKS = [
    {"class_name": "ReduceLROnPlateau", "config": {"monitor": "loss", "patience": 1, "min_delta": 0.5}},
    {"class_name": "CSVLogger", "config": {"filename": "log.csv"}},
]


def settings(repository: Path) -> Settings:
    return Settings(path=repository, host="127.0.0.1", grpc_port=0, metrics_port=-1, poll_seconds=0.1)


@pytest.fixture(scope="module", name="repository")
def _repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resuming")
    (folder / "dense" / "1").mkdir(parents=True)
    ZOO["dense"].make(small=True).save(folder / "dense" / "1" / "model.keras")
    return folder


@pytest.fixture(scope="module", name="app")
def _app(repository: Path) -> Iterator[App]:
    with App(settings(repository)) as app:
        yield app


@pytest.fixture(scope="module", name="client")
def _client(app: App) -> Iterator[Client]:
    with Client(f"127.0.0.1:{app.grpc_port}", timeout=60) as client:
        yield client


def start(client: Client, **changes: Any) -> Any:
    x, y = dense_data()
    given = {
        "epochs": EPOCHS,
        "validation_split": 0.25,
        "checkpoints": Checkpoints(resume_seconds=0),
        "callbacks": CALLBACKS,
        **SETTINGS,
    }
    return client.train("dense", x, y, **{**given, **changes})


@pytest.fixture(scope="module", name="unbroken")
def _unbroken(client: Client, repository: Path) -> tuple[Any, list[np.ndarray], str]:
    """History, weights and log file of the run that nothing disturbs."""
    run = start(client).wait()
    return run.history, weights(repository, "dense", run.version), csv_log(repository, run)


def csv_log(repository: Path, run: Any) -> str:
    return (repository / ".layerserve" / "runs" / run.id / "files" / "log.csv").read_text()


def kill_at(run: Any, moment: int) -> None:
    """Reads events up to a moment (0 is at once, 1 the start, then the ends of epochs), and kills what trains."""
    for event in run if moment else ():
        moment -= isinstance(event, (RunStarted, EpochEnd))
        if not moment:
            break
    kill_training()


def go_on(run: Any) -> Any:
    """Resumes the run where it was interrupted, and reads it to its end."""
    try:
        return run.wait()
    except TrainingFailed:
        run.resume()
        return run.wait()


@pytest.mark.parametrize("moment", [1, 3])
def test_a_killed_run_goes_on_bit_for_bit(
    client: Client, repository: Path, unbroken: tuple[Any, list[np.ndarray], str], moment: int
) -> None:
    run = start(client)
    kill_at(run, moment)
    go_on(run)
    history, expected, log = unbroken
    assert run.history == history
    assert_bit_for_bit(weights(repository, "dense", run.version), expected)
    assert csv_log(repository, run) == log


def test_a_run_that_is_killed_before_its_first_checkpoint_begins_anew(client: Client, repository: Path) -> None:
    # Long enough that the kill comes before the end on any machine.
    whole, run = (start(client, checkpoints=Checkpoints(resume_seconds=3600), epochs=100) for _ in range(2))
    whole.wait()
    kill_at(run, 2)
    go_on(run)
    assert [event.epoch for event in client.run(run.id) if isinstance(event, RunResumed)] == [0]
    assert run.history == whole.history
    assert_bit_for_bit(*(weights(repository, "dense", version) for version in (run.version, whole.version)))


def test_the_best_epoch_survives(client: Client, repository: Path) -> None:
    runs = [start(client, publish="best", monitor="accuracy", epochs=4) for _ in range(2)]
    runs[0].wait()
    kill_at(runs[1], 3)
    go_on(runs[1])
    assert_bit_for_bit(*(weights(repository, "dense", run.version) for run in runs))


def test_a_run_goes_on_when_its_server_is_back(tmp_path: Path, unbroken: tuple[Any, list[np.ndarray], str]) -> None:
    folder = tmp_path / "models" / "dense" / "1"
    folder.mkdir(parents=True)
    ZOO["dense"].make(small=True).save(folder / "model.keras")
    with App(settings(tmp_path / "models")) as app, Client(f"127.0.0.1:{app.grpc_port}") as client:
        run = start(client, checkpoints=Checkpoints(resume_seconds=3600), epochs=60)
        for event in run:
            if isinstance(event, StepProgress) and event.epoch > 1:
                break
    with App(settings(tmp_path / "models")) as app, Client(f"127.0.0.1:{app.grpc_port}") as client:
        events = list(client.run(run.id))
        resumed = next(event for event in events if isinstance(event, RunResumed))
        assert (resumed.epoch, resumed.step) > (1, 0), "the stop left a checkpoint"
        assert isinstance(events[-1], RunFinished)
        history = client.run(run.id).wait().history
        assert len(history["loss"]) == 60
        whole = start(client, checkpoints=Checkpoints(resume_seconds=3600), epochs=60).wait()
        assert whole.history == history
        versions = (run_version for run_version in (events[-1].version, whole.version))
        assert_bit_for_bit(*(weights(tmp_path / "models", "dense", version) for version in versions))
