"""Runs as Jobs of a stand-in for a cluster, which runs their pods as processes of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from layerserve import Checkpoints, Client, EpochEnd, TrainingCancelled, TrainingFailed
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from layerserve_zoo.zoo import ZOO
from small_runs import SETTINGS, assert_bit_for_bit, dense_data, weights
from stand_in_cluster import StandInCluster

TEMPLATE = Path(__file__).parents[2] / "deploy" / "kubernetes" / "training-jobs" / "job.yaml"
EPOCHS = 4


@pytest.fixture(name="cluster")
def _cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInCluster]:
    with StandInCluster() as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.config(tmp_path / "kubeconfig")))
        monkeypatch.setattr("layerserve_server.training.process.cluster.ASK_SECONDS", 0.1)
        yield cluster


@pytest.fixture(name="repository")
def _repository(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    (folder / "dense" / "1").mkdir(parents=True)
    ZOO["dense"].make(small=True).save(folder / "dense" / "1" / "model.keras")
    return folder


def settings(repository: Path, backend: str = "kubernetes") -> Settings:
    template = {"training_job": TEMPLATE} if backend == "kubernetes" else {}
    return Settings(
        path=repository,
        host="127.0.0.1",
        grpc_port=0,
        metrics_port=-1,
        poll_seconds=0.1,
        training_backend=backend,
        **template,
    )


def start(client: Client, **changes: Any) -> Any:
    x, y = dense_data()
    given = {
        "epochs": EPOCHS,
        "validation_split": 0.25,
        "checkpoints": Checkpoints(resume_seconds=0),
        **SETTINGS,
        **changes,
    }
    return client.train("dense", x, y, **given)


def connected(app: App) -> Client:
    return Client(f"127.0.0.1:{app.grpc_port}", timeout=120)


def read_epochs(run: Any, count: int) -> None:
    for event in run:
        count -= isinstance(event, EpochEnd)
        if not count:
            return


def test_lost_pods_are_replaced_and_the_run_outlives_its_server(cluster: StandInCluster, repository: Path) -> None:
    with App(settings(repository, "local")) as app, connected(app) as client:
        unbroken = start(client).wait()
    expected = weights(repository, "dense", unbroken.version)
    with App(settings(repository)) as app, connected(app) as client:
        run = start(client)
        read_epochs(run, 1)
        assert cluster.kill_pods() == 1
    # The server has stopped; the pod has been replaced.
    (pods,) = cluster.jobs.values()
    assert not pods.deleted
    cluster.answers = False
    with App(settings(repository)) as app, connected(app) as client:
        assert client.run(run.id).info().state == "running"
        cluster.answers = True
        ended = client.run(run.id).wait()
        assert pods.restarts == 1
        assert ended.history == unbroken.history
        assert_bit_for_bit(weights(repository, "dense", ended.version), expected)
        assert [one.version for one in client.models("dense") if one.training_run == run.id] == [ended.version]
    assert len(cluster.created) == 1


def test_a_cancelled_run_has_no_job_and_a_refused_one_fails(
    cluster: StandInCluster, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with App(settings(repository)) as app, connected(app) as client:
        run = start(client, epochs=10_000)
        read_epochs(run, 1)
        run.cancel()
        with pytest.raises(TrainingCancelled):
            run.wait()
        monkeypatch.setattr("stand_in_cluster.TOKEN", "another")
        with pytest.raises(TrainingFailed, match="the cluster refuses the Job of the run: status 403"):
            start(client).wait()
    assert not cluster.jobs
