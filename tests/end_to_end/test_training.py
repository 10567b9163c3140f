"""Training through the server: Keras's losses, publication, and what survives."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from layerserve import Client, errors
from layerserve.training.events import EpochEnd, LogLine
from layerserve_server.app import App
from layerserve_zoo.zoo import ZOO
from small_runs import training_processes

ROWS, STEPS = 32, 20


def headline_data(
    rows: int = ROWS, vocabulary: int = ZOO["headline"].small["vocabulary"]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    x = {
        "main_input": rng.integers(0, vocabulary, (rows, 12)).astype("int32"),
        "aux_input": rng.standard_normal((rows, 5)).astype("float32"),
    }
    y = {name: rng.integers(0, 2, (rows, 1)).astype("float32") for name in ("main_output", "aux_output")}
    return x, y


@pytest.mark.filterwarnings("ignore:.*structure of `inputs`.*:UserWarning")
def test_twenty_steps_of_the_headline_model_give_keras_losses(client: Client, repository: Path) -> None:
    x, y = headline_data()
    loss = dict.fromkeys(y, "binary_crossentropy")
    weights = {"main_output": 1.0, "aux_output": 0.2}
    oracle = keras.models.load_model(repository / "headline_keras" / "1" / "model.keras", compile=False)
    oracle.compile(optimizer="rmsprop", loss=loss, loss_weights=weights)
    # One batch an epoch: twenty steps, each logged.
    expected = oracle.fit(x, y, batch_size=ROWS, epochs=STEPS, shuffle=False, verbose=0).history

    run = client.train(
        "headline_keras",
        x,
        y,
        batch_size=ROWS,
        epochs=STEPS,
        shuffle=False,
        version=1,
        publish=False,
        optimizer="rmsprop",
        loss=loss,
        loss_weights=weights,
    )
    history = run.wait().history
    assert list(history) == list(expected)
    assert set(history) == {"loss", "main_output_loss", "aux_output_loss"}
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, atol=1e-4, rtol=1e-4, err_msg=name)


def test_the_trained_version_takes_over_and_the_old_one_stays(client: Client) -> None:
    x, y = headline_data(64)
    before = client.predict_named("headline_here", x)
    run = client.train("headline_here", x, y, epochs=3, seed=7).wait()
    assert run.version == before.version + 1
    after = client.predict_named("headline_here", x)
    assert after.version == run.version
    assert not np.allclose(after["main_output"], before["main_output"])
    old = client.predict_named("headline_here", x, version=before.version)
    np.testing.assert_array_equal(old["main_output"], before["main_output"])


def test_a_run_survives_its_client(app: App) -> None:
    x, y = headline_data()
    with Client(f"127.0.0.1:{app.grpc_port}") as first:
        id = first.train("headline_keras", x, y, epochs=3, publish=False).id
    with Client(f"127.0.0.1:{app.grpc_port}") as second:
        events = list(second.run(id))
    assert [event.epoch for event in events if isinstance(event, EpochEnd)] == [1, 2, 3]


def test_a_cancelled_run_publishes_nothing(client: Client) -> None:
    x, y = headline_data(256)
    versions = [model.version for model in client.models("headline_keras")]
    run = client.train("headline_keras", x, y, epochs=100_000)
    for event in run:
        if isinstance(event, EpochEnd):
            run.cancel()
            break
    with pytest.raises(errors.TrainingCancelled):
        run.wait()
    assert [model.version for model in client.models("headline_keras")] == versions


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# At once, after its third epoch, and at its very end.
@pytest.mark.parametrize("moment", [0, 4, 5])
def test_kill_9_of_the_training_child_harms_neither_serving_nor_repository(
    client: Client, repository: Path, moment: int
) -> None:
    # The fixture of Keras 2.15 has a vocabulary of 50.
    x, y = headline_data(128, vocabulary=50)
    name = "headline_keras2"
    answers = client.predict(name, x)
    before = contents(repository / name)
    run = client.train(name, x, y, epochs=100_000 if moment < 5 else 1, optimizer="rmsprop", loss="binary_crossentropy")
    epochs = 0
    for event in run if moment else ():
        epochs += isinstance(event, EpochEnd)
        if epochs == (3 if moment < 5 else 1):
            break
    for pid in training_children() if moment < 5 else training_processes(os.getpid()):
        os.kill(pid, signal.SIGKILL)
    if moment < 5:
        assert any("resumed once" in event.text for event in client.run(run.id) if isinstance(event, LogLine))
        for pid in training_children():
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(errors.TrainingFailed, match=r"SIGKILL.*for the second time"):
            run.wait()
        assert contents(repository / name) == before
    else:
        # At the very end either side may win; a version that appears is whole.
        try:
            run.wait()
        except errors.TrainingFailed:
            assert contents(repository / name) == before
        else:
            assert client.predict_named(name, x).version == run.version
    again = client.predict(name, x, version=1)
    for output in answers:
        np.testing.assert_array_equal(again[output], answers[output])


def training_children() -> list[int]:
    """The training processes of the server in this process; waits until there is one."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = training_processes(os.getpid())
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("no training process was started within a minute")
