"""Runs with several workers, through the server: the numbers of one, and no run is lost with a worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from layergraph import Input, Model, layers
from layerserve import Checkpoints, Client, EpochEnd, InvalidArgument, LogLine, Resources, ServerFile
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from layerserve_server.training.proc_files import children_of
from pyarrow import parquet
from small_runs import training_processes

ROWS = 90
#: So many that a kill comes before their end on any machine, and the epochs of the run that is compared.
EPOCHS, COMPARED = 40, 5


def images() -> Model:
    """Batches of 32, 32 and 26 rows, of which each worker normalizes and drops a part."""
    x = Input((6, 6, 2), name="image")
    h = layers.Conv2D(4, 3, use_bias=False)(x)
    h = layers.Dropout(0.3)(layers.Activation("relu")(layers.BatchNormalization()(h)))
    return Model(x, layers.Dense(3, activation="softmax")(layers.Flatten()(h)))


def save(model: Model, folder: Path) -> None:
    folder.mkdir(parents=True)
    model.save(folder / "model.keras")


@pytest.fixture(scope="module", name="repository")
def _repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workers")
    save(images(), folder / "images" / "1")
    x = Input((3,))
    save(Model(x, layers.Dense(2, name="enc", activity_regularizer="orthogonal_regularizer")(x)), folder / "odd" / "1")
    return folder


@pytest.fixture(scope="module", name="data")
def _data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data root, with the rows of `start` in a folder of Parquet files, in groups of several sizes."""
    root = tmp_path_factory.mktemp("data")
    x, y, weight = rows()
    lists = pyarrow.array(x.ravel())
    for length in (2, 6, 6):
        lists = pyarrow.FixedSizeListArray.from_arrays(lists, length)
    table = pyarrow.table({"image": lists, "kind": y, "weight": weight})
    (root / "images").mkdir()
    for number, (first, stop, size) in enumerate([(0, 40, 16), (40, 41, 16), (41, ROWS, 20)]):
        part = table.slice(first, stop - first)
        parquet.write_table(part, root / "images" / f"part-{number}.parquet", row_group_size=size)
    return root


@pytest.fixture(scope="module", name="app")
def _app(repository: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A server whose processes leave nothing in the system's temporary folder."""
    temporary = tmp_path_factory.mktemp("temporary")
    settings = Settings(
        path=repository,
        host="127.0.0.1",
        grpc_port=0,
        metrics_port=-1,
        poll_seconds=0.1,
        max_workers=2,
        training_nice=0,
        data_root=data,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        with App(settings) as app:
            yield app
    assert list(temporary.iterdir()) == []


@pytest.fixture(scope="module", name="client")
def _client(app: App) -> Iterator[Client]:
    with Client(f"127.0.0.1:{app.grpc_port}", timeout=60) as client:
        yield client


def rows() -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((ROWS, 6, 6, 2)).astype("float32"), rng.integers(0, 3, ROWS)
    return x, y, rng.random(ROWS).astype("float32")


def start(client: Client, *given_data: Any, **changes: Any) -> Any:
    x, y, weight = rows()
    given: dict[str, Any] = {
        "optimizer": {"class_name": "SGD", "config": {"learning_rate": 0.05, "momentum": 0.9}},
        "loss": "sparse_categorical_crossentropy",
        "weighted_metrics": ["accuracy"],
        "sample_weight": weight,
        "validation_data": (x[:33], y[:33]),
        "epochs": COMPARED,
        "seed": 4,
        "version": 1,
        "resources": Resources(workers=2),
        "callbacks": [{"class_name": "ReduceLROnPlateau", "config": {"monitor": "loss", "patience": 1}}],
    }
    return client.train("images", *(given_data or (x, y)), **{**given, **changes})


def wait_for_epoch(run: Any) -> None:
    for event in run:
        if isinstance(event, EpochEnd):
            return


def worker_processes() -> list[int]:
    (launcher,) = training_processes(os.getpid())
    return sorted(children_of(launcher))


def test_two_workers_that_read_row_groups_give_the_numbers_of_one_that_has_the_arrays(client: Client) -> None:
    """Even if one of them is lost."""
    one = start(client, resources=Resources(workers=1), publish=False).wait()
    folder = {name: ServerFile("images/", columns=[name]) for name in ("image", "kind", "weight")}
    given = {"sample_weight": folder["weight"], "checkpoints": Checkpoints(resume_seconds=0.02)}
    run = start(client, folder["image"], folder["kind"], epochs=EPOCHS, **given)
    wait_for_epoch(run)
    os.kill(worker_processes()[1], signal.SIGKILL)
    run.wait()
    assert (one.info().workers, run.info().workers, run.info().resumed) == (1, 2, 1)
    said = [event.text for event in client.run(run.id) if isinstance(event, LogLine)]
    assert any("worker 1 of the run was ended by signal SIGKILL" in text for text in said)
    assert list(run.history) == list(one.history)
    for name, values in one.history.items():
        assert len(run.history[name]) == EPOCHS
        np.testing.assert_allclose(run.history[name][: len(values)], values, rtol=1e-5, atol=1e-6, err_msg=name)


def test_what_cannot_be_shared_out_is_refused_before_the_run(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="workers: got 3, expected at most 2, the server"):
        start(client, resources=Resources(workers=3))
    with pytest.raises(InvalidArgument, match="got 2 for batches of 1 rows, expected at most one per row"):
        start(client, batch_size=1)
    with pytest.raises(InvalidArgument, match=r"resources.workers: got 0, expected a whole number from 1"):
        start(client, resources=Resources(workers=0))
    x, y = np.zeros((4, 3), "float32"), np.zeros((4, 2), "float32")
    with pytest.raises(InvalidArgument, match="layer 'enc' has the activity regularizer OrthogonalRegularizer"):
        client.train("odd", x, y, optimizer="sgd", loss="mse", resources=Resources(workers=2))
