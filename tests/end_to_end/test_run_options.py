"""Options of a run: what is trained, what is published, which data, and how much of everything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layergraph import load_model
from layerserve import Client, LogLine, Publish, Resources, RunStarted, ServerFile, errors
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from layerserve_zoo.zoo import ZOO
from small_runs import SETTINGS, assert_bit_for_bit, dense_data, weights

X, Y = dense_data()


@pytest.fixture(scope="module", name="repository")
def _repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("options")
    (folder / "dense" / "1").mkdir(parents=True)
    ZOO["dense"].make(small=True).save(folder / "dense" / "1" / "model.keras")
    return folder


@pytest.fixture(scope="module", name="data_root")
def _data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import pyarrow
    from pyarrow import parquet

    folder = tmp_path_factory.mktemp("data")
    np.save(folder / "x.npy", X)
    np.savez_compressed(folder / "y.npz", y=Y)
    parquet.write_table(pyarrow.table({str(i): Y[:, i] for i in range(10)}), folder / "y.parquet")
    (folder / "link.npy").symlink_to(folder / "x.npy")
    return folder


@pytest.fixture(scope="module", name="client")
def _client(repository: Path, data_root: Path) -> Iterator[Client]:
    settings = Settings(
        path=repository, host="127.0.0.1", grpc_port=0, metrics_port=-1, poll_seconds=0.1, data_root=data_root
    )
    with App(settings) as app, Client(f"127.0.0.1:{app.grpc_port}", timeout=60) as client:
        yield client


def train(client: Client, x: Any = X, y: Any = Y, **changes: Any) -> Any:
    return client.train("dense", x, y, **{**SETTINGS, "epochs": 3, **changes})


# What is trained.


def test_frozen_layers_stay_as_they_are(client: Client, repository: Path) -> None:
    model = load_model(repository / "dense" / "1" / "model.keras")
    first, *others = [layer for layer in model.layers if layer.weights]
    run = train(client, freeze=["*", f"!{others[-1].name}"], epochs=1).wait()
    trained = load_model(repository / "dense" / str(run.version) / "model.keras")
    by_name = {layer.name: layer.get_weights() for layer in trained.layers}
    assert_bit_for_bit(by_name[first.name], first.get_weights())
    assert not np.array_equal(by_name[others[-1].name][0], others[-1].get_weights()[0])


def test_callbacks_by_configuration_end_a_run(client: Client) -> None:
    stopping = {"class_name": "EarlyStopping", "config": {"monitor": "loss", "min_delta": 100.0, "patience": 1}}
    run = train(client, callbacks=["TerminateOnNaN", stopping], epochs=50, publish=False).wait()
    assert len(run.history["loss"]) == 2


def test_what_callbacks_write_can_be_had(client: Client, tmp_path: Path) -> None:
    callbacks = [
        {"class_name": "CSVLogger", "config": {"filename": "log.csv"}},
        {"class_name": "ModelCheckpoint", "config": {"filepath": "models/{epoch}.keras", "monitor": "loss"}},
    ]
    run = train(client, callbacks=callbacks, publish=False).wait()
    assert [file.name for file in run.files()] == ["log.csv", *(f"models/{epoch}.keras" for epoch in (1, 2, 3))]
    assert run.download("log.csv", tmp_path).read_text().startswith("epoch,accuracy,loss")
    assert load_model(run.download("models/3.keras", tmp_path)).compiled


def test_steps_of_an_epoch_and_rows_of_validation(client: Client) -> None:
    run = train(client, steps_per_epoch=2, validation_split=0.5, publish=False)
    started = next(event for event in run if isinstance(event, RunStarted))
    assert (started.steps_per_epoch, started.rows) == (2, 128)
    assert "val_loss" in run.wait().history


# What is published.


def test_the_best_epoch_is_published(client: Client, repository: Path) -> None:
    # Validation with the classes of other rows gets worse as soon as the model learns.
    validation = (X, np.roll(Y, 1, 0))
    optimizer = {"class_name": "Adam", "config": {"learning_rate": 0.02}}
    run = train(client, optimizer=optimizer, validation_data=validation, epochs=6, publish="best").wait()
    best = int(np.argmin(run.history["val_loss"]))
    assert best < 5, "the case must tell best from last"
    until = train(client, optimizer=optimizer, validation_data=validation, epochs=best + 1).wait()
    assert_bit_for_bit(weights(repository, "dense", run.version), weights(repository, "dense", until.version))


@pytest.mark.parametrize(("rate", "improves"), [(1e-3, True), (1e3, False)])
def test_only_what_improves_is_published(client: Client, rate: float, improves: bool) -> None:
    optimizer = {"class_name": "SGD", "config": {"learning_rate": rate}}
    versions = len(client.models("dense"))
    run = train(client, optimizer=optimizer, validation_data=(X, Y), publish=Publish(if_improved="loss")).wait()
    assert (run.version is not None) == improves
    assert len(client.models("dense")) == versions + improves
    assert ("is no improvement on" in run.withheld) != improves


# NaN.


def test_a_loss_that_is_no_number_may_be_passed_over(client: Client) -> None:
    x = X.copy()
    x[100] = np.nan
    with pytest.raises(errors.TrainingFailed, match=r"step 4: .*nan") as failure:
        train(client, x, shuffle=False).wait()
    assert not failure.value.resumable
    before = client.model("dense").version
    run = train(client, x, shuffle=False, on_nan="continue").wait()
    assert np.isnan(run.history["loss"]).all()
    # Later runs would start from it.
    assert client.model("dense").version == before
    assert "isn't finite" in run.info().withheld
    with pytest.raises(errors.FailedPrecondition, match="that could be published: its state is finished: weight"):
        run.publish()


# Data that the server reads.


def test_data_of_the_server_trains_as_sent_data_does(client: Client) -> None:
    columns = ServerFile("y.parquet", ",".join(map(str, range(10))))
    sent, read = (train(client, *data, publish=False).wait() for data in ((X, Y), (ServerFile("x.npy"), columns)))
    assert read.history == sent.history


def test_data_of_the_server_is_evaluated(client: Client) -> None:
    files = ServerFile("x.npy"), ServerFile("y.npz", "y")
    settings = {"loss": "mse", "version": 1}
    assert client.evaluate("dense", *files, **settings) == client.evaluate("dense", X, Y, **settings)


@pytest.mark.parametrize(
    ("x", "kind", "text"),
    [
        (ServerFile("../x.npy"), errors.PermissionDenied, "below the data root"),
        (ServerFile("link.npy"), errors.PermissionDenied, "symbolic link"),
        (ServerFile("z.npy"), errors.InvalidArgument, "z.npy.*No such file"),
        (ServerFile("y.npz", "y"), errors.InvalidArgument, r"10.*64"),
    ],
)
def test_files_that_will_not_do_are_refused_before_the_run(
    client: Client, x: ServerFile, kind: type[Exception], text: str
) -> None:
    runs = len(client.runs())
    with pytest.raises(kind, match=text):
        train(client, x)
    assert len(client.runs()) == runs


# Budgets.


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"resources": Resources(max_memory_bytes=50 * 2**20)}, "bytes of memory, more than its budget of 52428800"),
        (
            {"resources": Resources(max_disk_bytes=10**6), "x": np.repeat(X, 40, 0), "y": np.repeat(Y, 40, 0)},
            "more than its budget of|disk",
        ),
    ],
)
def test_a_run_that_uses_more_than_it_may_fails(client: Client, limits: dict[str, Any], text: str) -> None:
    with pytest.raises((errors.TrainingFailed, errors.TooLarge), match=text):
        train(client, **limits).wait()
    assert client.predict("dense", X[:1], version=1).shape == (1, 10)


def test_a_run_whose_time_is_spent_publishes_the_best_epoch_so_far(client: Client) -> None:
    run = train(client, resources=Resources(max_seconds=0.3), epochs=10**5, publish="best", monitor="loss").wait()
    info = run.info()
    assert (info.state, info.stopped, info.reason) == ("finished", True, "its budget of 0.3 seconds is spent")
    assert client.predict("dense", X[:1], version=info.version).shape == (1, 10)
    said = [event.text for event in client.run(run.id) if isinstance(event, LogLine)]
    assert any(text.endswith(": its budget of 0.3 seconds is spent") for text in said)
    assert said[-1] == f"the best epoch is {info.best_epoch}"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"freeze": "lstm_*"}, r"pattern 'lstm_\*' matches no layer"),
        ({"callbacks": ["EarlyStoping"]}, "EarlyStoping.*EarlyStopping"),
        ({"callbacks": [{"class_name": "EarlyStopping", "config": {"monitor": "val_acc"}}]}, "val_acc"),
        ({"callbacks": [{"class_name": "CSVLogger", "config": {"filename": "/etc/x"}}]}, "expected a relative path"),
        ({"publish": "best", "monitor": "acuracy"}, "monitor.*acuracy.*accuracy"),
        ({"publish": Publish(if_improved="acc"), "validation_split": 0.5}, "publish_if_improved.*acc"),
        ({"resources": Resources(max_memory_bytes=1000)}, "bytes of memory, expected at most 1000"),
        ({"resources": Resources(max_disk_bytes=1000)}, "bytes of disk, expected at most 1000"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_the_run(
    client: Client, arguments: dict[str, Any], text: str
) -> None:
    runs = len(client.runs())
    with pytest.raises((errors.InvalidArgument, errors.TooLarge), match=text):
        train(client, **arguments)
    assert len(client.runs()) == runs
