"""How a run's process starts: forked from a warm parent or anew, quickly, and to the same numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from layerserve import Client, StepProgress, TrainingCancelled
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from layerserve_server.training.process.proc_files import stat_of
from layerserve_zoo.zoo import ZOO
from small_runs import SETTINGS, assert_bit_for_bit, dense_data, training_processes, weights

NICE = 7
#: A plugin, as each process imports those before it reads its model.
PLUGIN = """
import os
with open({notes!r}, "a") as notes:
    notes.write(f"{{os.getpid()}} {{os.getpriority(os.PRIO_PROCESS, 0)}}\\n")
"""


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run_start")
    (folder / "models" / "dense" / "1").mkdir(parents=True)
    ZOO["dense"].make(small=True).save(folder / "models" / "dense" / "1" / "model.keras")
    (folder / "notes_of_niceness.py").write_text(PLUGIN.format(notes=str(folder / "notes")))
    return folder


@pytest.fixture(scope="module", autouse=True)
def _one_warm_parent() -> None:
    """None: the server has a warm parent of its own, which finds the plugin."""


@pytest.fixture(scope="module", name="app")
def _app(folder: Path) -> Iterator[App]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        # Importing sets it, and later servers of this process would import the plugin too.
        patch.setenv("LAYERSERVE_PLUGINS", "")
        settings = Settings(
            path=folder / "models",
            host="127.0.0.1",
            grpc_port=0,
            metrics_port=-1,
            plugins="notes_of_niceness",
            training_nice=NICE,
            training_threads=2,
            warm_training=True,
        )
        with App(settings) as app:
            yield app


@pytest.fixture(name="started", params=["forked", "anew"])
def _started(app: App, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How runs start."""
    if request.param == "anew":
        monkeypatch.setattr(app.runs._execution, "_parent", None)
    return str(request.param)


@pytest.fixture(scope="module", name="client")
def _client(app: App) -> Iterator[Client]:
    with Client(f"127.0.0.1:{app.grpc_port}", timeout=120) as client:
        yield client


@pytest.fixture(scope="module", name="ended")
def _ended() -> dict[str, Any]:
    """Versions of the runs so far, by how they started."""
    return {}


def test_a_run_stands_back_once_it_trains_and_not_before(client: Client, folder: Path, started: str) -> None:
    run = client.train("dense", *dense_data(), **SETTINGS, epochs=100_000)
    for event in run:
        if isinstance(event, StepProgress):
            break
    (process,) = training_processes(os.getpid())
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        assert os.getpriority(os.PRIO_PROCESS, process) == min(19, usual + NICE)
        assert f"{process} {usual}" in (folder / "notes").read_text().splitlines()
        assert (stat_of(process)[1] == str(os.getpid())) == (started == "anew")
        assert os.getsid(process) == process
    finally:
        run.cancel()
        with pytest.raises(TrainingCancelled):
            run.wait()


def test_a_run_gives_the_same_weights_however_it_starts(
    client: Client, folder: Path, started: str, ended: dict[str, Any]
) -> None:
    run = client.train("dense", *dense_data(2048), **SETTINGS, epochs=2, batch_size=512).wait()
    ended[started] = weights(folder / "models", "dense", run.version)
    if len(ended) == 2:
        assert_bit_for_bit(ended["forked"], ended["anew"])
