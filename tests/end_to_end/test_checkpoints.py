"""Checkpoints that a run keeps: used afterwards they are what runs that stopped there are, bit for bit."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layergraph import load_model
from layergraph.training import checkpoint
from layergraph.training.checkpoint import NAME, read_whole
from layerserve import (
    CheckpointKept,
    CheckpointNotFound,
    Checkpoints,
    Client,
    FailedPrecondition,
    InvalidArgument,
    InvalidTensor,
    LogLine,
    RunResumed,
    StepProgress,
    TrainingCancelled,
    TrainingFailed,
    UnknownOutput,
)
from layerserve.cli import main
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from layerserve_zoo.zoo import ZOO
from small_runs import SETTINGS, assert_bit_for_bit, dense_data, kill_training

EPOCHS = 3
#: An optimizer with averages and a callback with a state: both must go on where they were.
OPTIONS: dict[str, Any] = {
    **SETTINGS,
    "optimizer": {"class_name": "Adam", "config": {"learning_rate": 0.01, "use_ema": True, "ema_momentum": 0.5}},
    "callbacks": [{"class_name": "ReduceLROnPlateau", "config": {"monitor": "loss", "patience": 1, "min_delta": 9.0}}],
    "validation_split": 0.25,
}
X, Y = dense_data(128)


def settings(repository: Path) -> Settings:
    return Settings(path=repository, host="127.0.0.1", grpc_port=0, metrics_port=-1, poll_seconds=0.1)


@pytest.fixture(scope="module", name="repository")
def _repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    (folder / "dense" / "1").mkdir(parents=True)
    ZOO["dense"].make(small=True).save(folder / "dense" / "1" / "model.keras")
    return folder


@pytest.fixture(scope="module", name="client")
def _client(repository: Path) -> Iterator[Client]:
    with App(settings(repository)) as app, Client(f"127.0.0.1:{app.grpc_port}", timeout=120) as client:
        yield client


@pytest.fixture(scope="module", name="run")
def _run(client: Client) -> Any:
    """A run that has ended, and keeps its epochs and a step within the second."""
    policy = {"checkpoints": Checkpoints(every_epochs=1, every_steps=4)}
    return client.train("dense", X, Y, epochs=EPOCHS, **OPTIONS, **policy).wait()


def folder_of(repository: Path, run: str) -> Path:
    return repository / ".layerserve" / "runs" / run


def state(repository: Path, version: int | None) -> list[np.ndarray]:
    """Weights and optimizer state of a version."""
    model = load_model(repository / "dense" / str(version) / "model.keras")
    assert model.optimizer is not None
    return [*model.get_weights(), *(variable.numpy() for variable in model.optimizer.variables)]


def logged(client: Client, run: Any) -> list[str]:
    return [event.text for event in client.run(run.id) if isinstance(event, LogLine)]


def test_a_run_lists_what_it_keeps(client: Client, repository: Path, run: Any) -> None:
    found = client.checkpoints.list(run.id)
    assert [(one.id, one.epoch, one.step) for one in found] == [
        *(("e1", 1, 0), ("e2s1", 2, 1), ("e2", 2, 0), ("e3s2", 3, 2), ("e3", 3, 0))
    ]
    assert [event.checkpoint for event in client.run(run.id) if isinstance(event, CheckpointKept)] == [
        one.id for one in found
    ]
    for one in found:
        if not one.step:
            assert one.logs == {name: values[one.epoch - 1] for name, values in run.history.items()}
    best = min((one for one in found if not one.step), key=lambda one: one.logs["val_loss"])
    assert [one.id for one in found if one.best] == [best.id]
    # What only resuming needs is gone.
    names = {path.name for path in folder_of(repository, run.id).iterdir()}
    assert {"kept", "base"} <= names
    assert names.isdisjoint({"data", "checkpoints", "best", "start", "result"})


@pytest.mark.parametrize("epoch", range(1, EPOCHS + 1))
def test_a_checkpoint_is_the_run_that_stopped_there(client: Client, repository: Path, run: Any, epoch: int) -> None:
    name = f"{run.id}/e{epoch}"
    stopped = run if epoch == EPOCHS else client.train("dense", X, Y, epochs=epoch, **OPTIONS).wait()
    before = len(client.models("dense"))
    published: list[int] = []
    calls = [threading.Thread(target=lambda: published.append(client.checkpoints.publish(name))) for _ in range(2)]
    for one in calls:
        one.start()
    for one in calls:
        one.join()
    assert client.checkpoints.publish(name, label="kept") == published[0] == published[1]
    assert len(client.models("dense")) == before + 1
    info = client.model("dense", label="kept")
    assert (info.version, info.training_run) == (published[0], run.id)
    assert_bit_for_bit(state(repository, published[0]), state(repository, stopped.version))
    served = client.predict("dense", X, version=published[0])
    np.testing.assert_allclose(client.checkpoints.predict(name, X), served, rtol=1e-6, atol=1e-7)
    assert next(one.published for one in client.checkpoints.list(run.id) if one.id == f"e{epoch}") == published[0]


def test_what_goes_on_with_the_same_data_and_settings_is_the_run_that_trained_that_long(
    client: Client, repository: Path, run: Any
) -> None:
    for name, epochs in (("e1", 2), ("e2s1", 2), ("e3s2", 1)):
        longer = client.train("dense", X, Y, from_checkpoint=f"{run.id}/{name}", epochs=epochs).wait()
        assert_bit_for_bit(state(repository, longer.version), state(repository, run.version))
        info = longer.info()
        assert (info.parent, info.from_checkpoint, info.epochs, info.epochs_done) == (run.id, name, 3, 3)
        assert (info.resumed, info.seed) == (0, SETTINGS["seed"])
        for log, values in longer.history.items():
            assert values == run.history[log][-len(values) :]
        assert logged(client, longer)[-1] == (
            f"goes on from checkpoint {run.id}/{name}, with the same data and settings"
        )


def test_how_a_step_is_computed_is_taken_over(client: Client, repository: Path) -> None:
    optimizer = {"class_name": "Adam", "config": {"gradient_accumulation_steps": 3}}
    options: dict[str, Any] = {**SETTINGS, "optimizer": optimizer, "precision": "mixed_bfloat16"}
    whole = client.train("dense", X, Y, epochs=2, **options).wait()
    parent = client.train("dense", X, Y, epochs=1, checkpoints=Checkpoints(keep=1), publish=False, **options).wait()
    longer = client.train("dense", X, Y, epochs=1, from_checkpoint=parent.id).wait()
    assert_bit_for_bit(state(repository, longer.version), state(repository, whole.version))
    other = client.train("dense", X, Y, epochs=1, from_checkpoint=parent.id, precision="float32").wait()
    assert logged(client, other)[-1].endswith("the order of rows starts anew, as these differ: precision")


def test_more_epochs_than_the_parent_had_are_those_that_it_would_have_had(
    client: Client, repository: Path, run: Any
) -> None:
    whole = client.train("dense", X, Y, epochs=EPOCHS + 2, **OPTIONS).wait()
    longer = client.train("dense", X, Y, from_checkpoint=run.id, epochs=2, checkpoints=Checkpoints(resume_seconds=0))
    for event in longer:
        if isinstance(event, StepProgress):
            kill_training()
            break
    try:
        longer.wait()
    except TrainingFailed:
        longer.resume()
        longer.wait()
        assert any(isinstance(event, RunResumed) for event in client.run(longer.id))
    assert_bit_for_bit(state(repository, longer.version), state(repository, whole.version))


def test_what_goes_on_otherwise_says_what_differs_and_what_is_not_kept(
    client: Client, repository: Path, run: Any
) -> None:
    name = f"{run.id}/e2"
    other = client.train("dense", X[:64], Y[:64], from_checkpoint=name, batch_size=64, freeze="dense", epochs=1).wait()
    text = f"goes on from checkpoint {name}; the order of rows starts anew, as these differ: batch_size, freeze, data"
    unused = "the state of the optimizer isn't used for weights that this run doesn't train: dense/kernel, dense/bias"
    assert logged(client, other)[1:] == [text, unused]
    assert (other.info().epochs, len(other.history["loss"])) == (1, 1)
    # Frozen weights as they were, and the count of steps goes on.
    model = load_model(repository / "dense" / str(other.version) / "model.keras")
    assert model.optimizer is not None
    assert model.optimizer.iterations == 2 * 3 + 1
    kept = read_whole(folder_of(repository, run.id) / "kept" / "e2.ckpt")["weights"][0]
    np.testing.assert_array_equal(model.get_weights()[0], kept)
    plain = client.train("dense", X, Y, from_checkpoint=name, optimizer="sgd", epochs=1).wait()
    assert logged(client, plain)[-1] == (
        "the state of the optimizer starts anew: the checkpoint has that of Adam, this run has SGD"
    )


def test_a_checkpoint_is_evaluated_and_downloaded(client: Client, tmp_path: Path, run: Any) -> None:
    version = client.checkpoints.publish(f"{run.id}/e1")
    logs = client.evaluate("dense", X, Y, from_checkpoint=f"{run.id}/e1")
    assert logs == client.evaluate("dense", X, Y, version=version)
    path = client.checkpoints.download(f"{run.id}/e1", tmp_path)
    assert path.name == f"{run.id}-e1.keras"
    served = load_model(client.download("dense", tmp_path / "served.keras", version=version))
    assert_bit_for_bit(load_model(path).get_weights(), served.get_weights())
    assert client.checkpoints.download(f"{run.id}/e1", tmp_path / "a" / "m.h5", format="keras3_h5").exists()
    # The state: `fit` goes on from it.
    client.checkpoints.download(f"{run.id}/e1", tmp_path / "own" / NAME, state=True)
    model = ZOO["dense"].make(small=True)
    model.compile(OPTIONS["optimizer"], SETTINGS["loss"], metrics=SETTINGS["metrics"])
    model.fit(
        *(X, Y),
        **{"epochs": EPOCHS, "validation_split": 0.25, "seed": SETTINGS["seed"], "verbose": 0},
        callbacks=OPTIONS["callbacks"],
        checkpoints=checkpoint.Checkpoints(tmp_path / "own"),
    )
    assert_bit_for_bit(model.get_weights(), weights_of(client, tmp_path, run))


def weights_of(client: Client, folder: Path, run: Any) -> list[np.ndarray]:
    return load_model(client.download("dense", folder / "last.keras", version=run.version)).get_weights()


def test_what_is_wrong_is_refused_by_name(client: Client, repository: Path, run: Any) -> None:
    name = f"{run.id}/e1"
    with pytest.raises(CheckpointNotFound, match="no checkpoint 'e9' is kept; kept are: e1, e2s1, e2, e3s2, e3"):
        client.checkpoints.predict(f"{run.id}/e9", X)
    with pytest.raises(InvalidTensor, match="got length 3 on axis 1"):
        client.checkpoints.predict(name, X[:, :3])
    with pytest.raises(UnknownOutput, match="unknown tensor 'absent'"):
        client.checkpoints.predict(name, X, ["absent"])
    with pytest.raises(InvalidArgument, match=r"label: got 'a b'"):
        client.checkpoints.publish(name, label="a b")
    with pytest.raises(InvalidArgument, match=r"checkpoint: got '.*', expected RUN/CHECKPOINT"):
        client.checkpoints.publish(run.id)
    with pytest.raises(InvalidArgument, match=f"run {run.id} started from version 1, got version 2; expected none"):
        client.train("dense", X, Y, from_checkpoint=name, version=2)
    with pytest.raises(InvalidArgument, match="from_checkpoint: got 'a/b/c', expected RUN/CHECKPOINT"):
        client.train("dense", X, Y, from_checkpoint="a/b/c")


def test_weights_that_are_not_finite_are_never_published_and_named(client: Client, tmp_path: Path) -> None:
    options = {"optimizer": {"class_name": "SGD", "config": {"learning_rate": 3e38}}, "loss": "mse", "batch_size": 128}
    newest = client.model("dense").version
    run = client.train("dense", X, 1e6 * Y, **options, checkpoints=Checkpoints(every_epochs=1))
    with pytest.raises(
        TrainingFailed, match=r"weight '\w+/kernel' isn't finite: \d+ of \d+ values are NaN or infinite"
    ):
        run.wait()
    info = client.run(run.id).info()
    assert (info.state, info.publishable, info.resumable) == ("failed", False, False)
    assert "isn't finite" in info.reason
    with pytest.raises(FailedPrecondition, match=r"weight '\w+/kernel' isn't finite.*; so the model isn't published"):
        client.checkpoints.publish(f"{run.id}/e1")
    with pytest.raises(FailedPrecondition, match="no result that could be published: its state is failed: weight"):
        run.publish()
    assert client.model("dense").version == newest
    # To look at, it is there.
    path = client.checkpoints.download(f"{run.id}/e1", tmp_path)
    assert not all(np.isfinite(array).all() for array in load_model(path).get_weights())


def test_the_command_line_does_all_of_it(
    client: Client, run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*words: str) -> dict[str, Any]:
        assert main([*words, "--address", client.address, "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    assert main(["checkpoint", "list", run.id, "--address", client.address]) == 0
    assert "e2s1" in capsys.readouterr().out
    assert main(["checkpoint", "list", run.id, "--address", client.address, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["checkpoints"]
    assert [one["id"] for one in listed] == ["e1", "e2s1", "e2", "e3s2", "e3"]
    name = f"{run.id}/e3s2"
    version = printed("checkpoint", "publish", name)["version"]
    assert printed("checkpoint", "publish", name)["version"] == version
    saved = printed("checkpoint", "download", name, str(tmp_path / "a.keras"))["path"]
    assert_bit_for_bit(
        load_model(saved).get_weights(),
        load_model(client.download("dense", tmp_path / "b.keras", version=version)).get_weights(),
    )
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    outputs = printed("checkpoint", "predict", name, "-i", str(tmp_path / "x.npy"))["outputs"]
    np.testing.assert_allclose(next(iter(outputs.values())), client.predict("dense", X, version=version), atol=1e-6)
    # Flags that aren't given don't count as other settings.
    arrays = ("--x", str(tmp_path / "x.npy"), "--y", str(tmp_path / "y.npy"))
    longer = printed("train", "dense", *arrays, "--from-checkpoint", f"{run.id}/e2", "--detach")["run"]
    client.run(longer).wait()
    assert logged(client, client.run(longer))[-1].endswith("with the same data and settings")
    other = printed(
        "train", "dense", *arrays, "--from-checkpoint", f"{run.id}/e2", "--batch-size", "32", "--seed", "3", "--detach"
    )["run"]
    client.run(other).wait()
    assert logged(client, client.run(other))[-1].endswith("with the same data and settings")


def test_a_cancelled_run_keeps_its_checkpoints_until_they_are_deleted(client: Client, repository: Path) -> None:
    run = client.train("dense", X, Y, epochs=2000, checkpoints=Checkpoints(keep=2, keep_best=1), **SETTINGS)
    for event in run:
        if isinstance(event, CheckpointKept) and event.epoch == 4:
            break
    run.cancel()
    with pytest.raises(TrainingCancelled):
        run.wait()
    folder = folder_of(repository, run.id)
    kept = client.checkpoints.list(run.id)
    assert 2 <= len(kept) <= 3
    damaged = folder / "kept" / f"{kept[0].id}.ckpt"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 255
    damaged.write_bytes(content)
    with pytest.raises(FailedPrecondition, match="is no checkpoint, or is damaged"):
        client.checkpoints.publish(kept[0].name)
    for one in kept:
        assert (folder / "base").is_dir()
        client.checkpoints.delete(one.name)
    assert client.checkpoints.list(run.id) == ()
    assert not (folder / "base").exists()
    with pytest.raises(CheckpointNotFound):
        client.train("dense", X, Y, from_checkpoint=run.id)


def test_checkpoints_outlive_their_server_and_the_version_that_they_come_from(
    tmp_path: Path, repository: Path, client: Client, run: Any
) -> None:
    expected = state(repository, run.version)
    models = tmp_path / "models"
    (models / "dense" / "2").mkdir(parents=True)
    (models / "dense" / "2" / "model.keras").write_bytes((repository / "dense" / "1" / "model.keras").read_bytes())
    folder = models / ".layerserve" / "runs"
    shutil.copytree(folder_of(repository, run.id), folder / run.id)
    with App(settings(models)) as app, Client(f"127.0.0.1:{app.grpc_port}", timeout=120) as other:
        longer = other.train("dense", X, Y, from_checkpoint=f"{run.id}/e2", epochs=1).wait()
        assert_bit_for_bit(state(models, longer.version), expected)
