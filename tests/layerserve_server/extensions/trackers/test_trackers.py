"""Runs in the trackers themselves: MLflow with a store in a file, Weights & Biases offline."""

from __future__ import annotations

import signal
import subprocess
import time

import pytest
from layerserve_server.extensions.trackers import processes as processes_module
from layerserve_server.extensions.trackers.processes import SinkProcesses
from layerserve_server.training import events
from layerserve_server.training.events import EventWriter
from layerserve_server.training.request import DataArray, Role, RunRequest

RUN = "20260101-0000-00000001"


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs" / RUN
    folder.mkdir(parents=True)
    data = (DataArray(Role.X, "x", "float32", (8, 1)),)
    RunRequest("m", 3, data, epochs=2, compile={"optimizer": "sgd"}, metadata={"team": "a"}).write(folder)
    writer = EventWriter(folder)
    logs = {"loss": 0.5, "recall[0]": 0.25}
    for what in (
        *(events.Accepted("m", 3, 0), events.Started(2, 4, 8), events.Step(1, 2, 3, 4, {"loss": 2.0})),
        *(events.Epoch(epoch, 2, logs, 0.1) for epoch in (1, 2)),
        events.Finished(4, logs, 1.0),
    ):
        writer.write(what)
    writer.close()
    return tmp_path / "runs"


def copy(runs, tmp_path, spec, done):
    processes = SinkProcesses([spec], runs, tmp_path / "sinks")
    processes.start()
    try:
        deadline = time.monotonic() + 120
        while not done() and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        processes.stop()
    assert done()


def ended(tmp_path):
    return lambda: any('"ended": true' in path.read_text() for path in (tmp_path / "sinks").glob("*.json"))


def test_a_run_is_in_mlflow(runs, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    store = (tmp_path / "store").as_uri()
    copy(runs, tmp_path, f"mlflow:{store}", ended(tmp_path))
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store)
    (found,) = client.search_runs([client.get_experiment_by_name("m").experiment_id])
    assert found.info.status == "FINISHED"
    assert found.info.run_name == RUN
    assert found.data.params["optimizer"] == "sgd"
    assert found.data.tags["team"] == "a"
    assert found.data.tags["layerserve.version"] == "4"
    assert found.data.metrics == {"loss": 0.5, "recall.0": 0.25, "step_loss": 2.0}
    assert [metric.step for metric in client.get_metric_history(found.info.run_id, "loss")] == [1, 2]


def test_a_run_is_in_weights_and_biases(runs, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    copy(runs, tmp_path, "wandb:project", ended(tmp_path))
    (file,) = (tmp_path / "sinks").glob(f"wandb/offline-run-*/run-{RUN}.wandb")
    content = file.read_bytes()
    for text in (b"step_loss", b"recall[0]", b"optimizer", b"layerserve.version"):
        assert text in content


def test_a_sink_that_is_absent_is_tried_again(tmp_path):
    """Its process ends with the server nevertheless, and the runs were never touched."""
    processes = SinkProcesses(["mlflow:http://127.0.0.1:9"], tmp_path / "runs", tmp_path / "sinks")
    processes.start()
    began = time.monotonic()
    processes.stop()
    assert time.monotonic() - began < 10


def test_a_sink_that_does_not_end_with_the_server_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(processes_module, "STOP_SECONDS", 0.01)
    processes = SinkProcesses([], tmp_path / "runs", tmp_path / "sinks")
    processes.stop()
    process = subprocess.Popen(["sleep", "10"], stdin=subprocess.PIPE)
    processes._await(process)
    assert process.returncode == -signal.SIGKILL
