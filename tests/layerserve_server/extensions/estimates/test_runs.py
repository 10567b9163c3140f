"""An estimate of a run, and the run."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import stock_zoo
from layerserve import Client, LayerserveError, Publish, Resources, TensorSpec
from layerserve.cli import main
from layerserve.v1.tensor_pb2 import DATA_TYPE_FLOAT32
from layerserve.v1.training_pb2 import DATA_ROLE_X, DATA_ROLE_Y, EstimateRunRequest, TrainSpec
from layerserve.v1.training_pb2_grpc import TrainingServiceStub
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from layerserve_server.training.budget import folder_bytes
from shared_jobs import SharedJobs, used
from small_runs import SETTINGS, dense_data

RUN: dict[str, Any] = {**SETTINGS, "epochs": 3, "batch_size": 24, "validation_split": 0.25, "freeze": "dense"}


ESTIMATED = "estimated"


@pytest.fixture(scope="module", name="repository")
def _repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / ESTIMATED / "1").mkdir(parents=True)
    stock_zoo.stock("dense").save(folder / ESTIMATED / "1" / "model.keras")
    return folder


@pytest.fixture(scope="module", name="app")
def _app(repository: Path, jobs: SharedJobs) -> Iterator[App]:
    settings = Settings(
        path=repository, host="127.0.0.1", grpc_port=0, metrics_port=-1, poll_seconds=0.1, drain_seconds=0
    )
    with used(jobs):
        app = App(settings)
    with app:
        yield app


@pytest.fixture(scope="module", name="client")
def _client(app: App) -> Iterator[Client]:
    with Client(f"127.0.0.1:{app.grpc_port}", timeout=60) as client:
        yield client


def test_an_estimate_holds(client: Client, repository: Path) -> None:
    x, y = dense_data()
    runs = repository / ".layerserve" / "runs"
    before = {run.id for run in client.runs()}
    estimate = client.estimates.train(ESTIMATED, x, y, publish=Publish(best=True, label="new"), **RUN)
    assert not estimate.problems
    assert {run.id for run in client.runs()} == before
    assert not list(runs.glob(".estimate*"))
    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.005):
            peak = max([peak, *(folder_bytes(path) for path in runs.iterdir() if path.name not in before)])

    watching = threading.Thread(target=watch)
    watching.start()
    run = client.train(ESTIMATED, x, y, publish=Publish(best=True, label="new"), **RUN)
    info = run.wait().info()
    ended.set()
    watching.join()
    assert (estimate.model, estimate.base_version, estimate.rows) == (ESTIMATED, 1, 192)
    assert (estimate.steps_per_epoch, estimate.steps, estimate.validation_steps) == (info.steps_per_epoch, 24, 3)
    assert estimate.data_bytes == x.nbytes + y.nbytes
    assert estimate.disk_bytes is not None
    assert peak <= estimate.disk_bytes < 10 * peak
    assert estimate.memory_bytes is not None
    assert 100 << 20 < estimate.memory_bytes < 4 << 30
    assert estimate.trainable_parameters
    assert estimate.non_trainable_parameters == 64 * 64 + 64
    seconds, publication = estimate.seconds, estimate.publication
    assert seconds is not None
    assert 0 < seconds.step < seconds.steps < seconds.total
    assert estimate.wait_seconds == 0.0
    assert publication is not None
    assert (publication.version, publication.label, publication.weights) == (run.version, "new", "best")
    assert publication.bytes == (repository / ESTIMATED / str(run.version) / "model.keras").stat().st_size


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "addam"},
        {"metrics": ["acuracy"]},
        {"freeze": "nothing"},
        {"loss": "msee"},
        {"callbacks": ["Nothing"]},
        {"monitor": "f1", "publish": "best"},
        {"publish": Publish(label="a b")},
        {"resources": Resources(workers=1000)},
        {"resources": Resources(max_memory_bytes=1)},
        {"version": 1, "loss": "sparse_categorical_crossentropy"},
    ],
)
def test_what_cannot_work_is_a_problem_in_the_words_of_train(client: Client, settings: dict[str, Any]) -> None:
    x, y = dense_data(8)
    given = {**RUN, **settings}
    with pytest.raises(LayerserveError) as refused:
        client.train(ESTIMATED, x, y, **given)
    assert client.estimates.train(ESTIMATED, x, y, **given).problems[0] == str(refused.value)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"epochs": -1}, "epochs: got -1, expected 1 or more"),
        ({"nan_policy": 99}, "nan_policy: got 99, expected stop or continue"),
        ({"validation_split": math.nan}, "validation_split: got nan, expected from 0 to below 1"),
        ({"validation_split": -math.inf}, "validation_split: got -inf, expected from 0 to below 1"),
    ],
)
def test_an_option_out_of_its_range_is_no_error_of_the_server(app: App, settings: dict[str, Any], problem: str) -> None:
    """A client that isn't this one may send it. The other settings are tried all the same."""
    spec = TrainSpec(model={"name": ESTIMATED}, compile={"optimizer": '"addam"', "loss": '"mse"'}, **settings)
    spec.data.add(role=DATA_ROLE_X, dtype=DATA_TYPE_FLOAT32, shape=[8, 64])
    spec.data.add(role=DATA_ROLE_Y, dtype=DATA_TYPE_FLOAT32, shape=[8, 10])
    with grpc.insecure_channel(f"127.0.0.1:{app.grpc_port}") as channel:
        found = TrainingServiceStub(channel).EstimateRun(EstimateRunRequest(train=spec), timeout=60).problems
    assert found[0] == problem
    assert any("addam" in text for text in found)
    assert not any("server's log" in text for text in found)


def test_shapes_are_enough(client: Client) -> None:
    x, y = TensorSpec("input", (10**9, 64), "float32"), TensorSpec("labels", (10**9, 10), "float32")
    estimate = client.estimates.train(ESTIMATED, x, y, **SETTINGS, batch_size=1000)
    assert estimate.problems
    assert all("bytes" in problem for problem in estimate.problems)
    assert estimate.steps == 10**6


def test_an_evaluation_is_estimated(client: Client) -> None:
    x, y = dense_data(70)
    estimate = client.estimates.evaluate(ESTIMATED, x, y, version=1, loss="mse", batch_size=32)
    assert not estimate.problems
    assert (estimate.steps, estimate.rows, estimate.publication) == (3, 70, None)
    assert estimate.seconds is not None


def test_a_dry_run_of_the_command_line(client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = dense_data(16)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    data = [f"{tmp_path}/data.npz:x", "--y", f"{tmp_path}/data.npz:y", "--address", client.address, "--dry-run"]
    before = client.runs()
    line = ["train", ESTIMATED, "--x", *data, "--version", "1", "--loss", "mse", "--optimizer", "sgd"]
    assert main([*line, "--json"]) == 0
    estimate = json.loads(capsys.readouterr().out)
    assert estimate["problems"] == []
    assert estimate["steps"] == 1
    assert main([*line, "--freeze", "a*b", "--metrics", "acuracy"]) != 0
    shown = capsys.readouterr()
    assert "a*b" in shown.out
    assert "acuracy" in shown.out
    assert client.runs() == before
