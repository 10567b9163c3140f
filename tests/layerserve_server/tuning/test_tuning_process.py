"""Models are tuned by another process, in which nothing that an engine does harms the server."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobs_without_processes import Forking, Replying
from layergraph import Input, Model, layers
from layergraph.execution.engines.table import DEFAULT_ENGINES
from layergraph.execution.tuning.engine_folder import NOTE, noted_choices
from layerserve_server.errors import CallCancelledError
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.training.run_folder.computing import computing
from layerserve_server.tuning import job as tuning_job
from layerserve_server.tuning.tuning_process import NoTimeError, TuningError, TuningProcess, Wanted


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture
def job(tmp_path: Path, folder: Path) -> Wanted:
    entry = Input((4,), name="x")
    Model(entry, layers.Dense(2, name="y")(entry)).save(tmp_path / "m.keras")
    return Wanted(tmp_path / "m.keras", folder, 20.0, 1)


def no() -> bool:
    return False


@pytest.mark.parametrize("imported", [True, False])
def test_a_model_is_tuned_by_another_process(tmp_path: Path, jobs: Jobs, job: Wanted, imported: bool) -> None:
    pytest.importorskip("onnxruntime")
    process = TuningProcess(jobs, tmp_path / "imports" if imported else None, None, tmp_path / "runs")
    dropped = process.tune(job, no)
    with pytest.raises(TuningError, match="other"):
        process.tune(Wanted(tmp_path / "other.keras", job.folder, 20.0, 1), no)
    assert "there is no CUDA device" in dropped["cuda"]
    assert [choice.rows for choice in noted_choices(job.folder)] == [1, 2, 8, 32]
    rows = np.ones((2, 4), "float32")
    import layergraph

    model = layergraph.load_model(job.file)
    model.plan().open_engines(job.folder, 1, shared=True, compare=True)
    np.testing.assert_allclose(model.plan().run({"x": rows})["y"], model.predict(rows), rtol=1e-5, atol=1e-6)


def forking(runs: Path) -> TuningProcess:
    """Forks for each job from the process of the test."""
    return TuningProcess(Forking(), None, None, runs)


def crashing(name: str, number: int) -> Any:
    """A model whose plan tries its engines, and is killed at that of this name."""

    class Plan:
        def tune(self, *, engines: Any, trying: Any, folder: Path, **_: Any) -> Any:
            for engine in engines:
                trying(engine + "-1thread")
                if engine == name:
                    os.kill(os.getpid(), number)
            (folder / NOTE).write_text(json.dumps({"engines": list(engines)}))
            return program_result(dropped={"other": "isn't installed"})

    return Plan


def program_result(**fields: Any) -> Any:
    return type("Tuning", (), {"dropped": {}, "late": False, **fields})()


def plan_of(monkeypatch: pytest.MonkeyPatch, plan: Any) -> None:
    monkeypatch.setattr(tuning_job, "_model", lambda job: type("Model", (), {"plan": lambda self: plan()})())


def test_an_engine_that_crashes_is_left_out(tmp_path: Path, job: Wanted, monkeypatch: pytest.MonkeyPatch) -> None:
    plan_of(monkeypatch, crashing("onnxruntime", signal.SIGKILL))
    dropped = forking(tmp_path).tune(job, no)
    assert dropped == {"other": "isn't installed", "onnxruntime": "crashes (SIGKILL)"}
    engines = json.loads((job.folder / NOTE).read_text())["engines"]
    assert engines == [name for name in DEFAULT_ENGINES if name != "onnxruntime"]


def test_what_dies_before_it_tries_an_engine_is_given_up(
    tmp_path: Path, job: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_of(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(TuningError, match=r"crashes \(SIGKILL\)"):
        forking(tmp_path).tune(job, no)


@pytest.mark.parametrize(("late", "kind"), [(False, TuningError), (True, NoTimeError)])
def test_without_a_choice_the_reasons_are_given(
    tmp_path: Path, job: Wanted, monkeypatch: pytest.MonkeyPatch, late: bool, kind: type[Exception]
) -> None:
    class Plan:
        def tune(self, **_: Any) -> Any:
            return program_result(dropped={"cuda": "a", "openvino": "b\n" + "c" * 5000}, late=late)

    plan_of(monkeypatch, Plan)
    with pytest.raises(kind, match="no engine was chosen: cuda: a; openvino: b") as caught:
        forking(tmp_path).tune(job, no)
    assert type(caught.value) is kind
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_stopping_ends_the_child(tmp_path: Path, job: Wanted, monkeypatch: pytest.MonkeyPatch) -> None:
    class Plan:
        def tune(self, *, folder: Path, **_: Any) -> Any:
            (folder / "written").write_text(str(os.getpid()))
            # A file that exists may still be empty.
            (folder / "written").rename(folder / "pid")
            time.sleep(60)

    plan_of(monkeypatch, Plan)
    with pytest.raises(CallCancelledError):
        forking(tmp_path).tune(job, lambda: (job.folder / "pid").exists())
    pid = int((job.folder / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_it_waits_while_runs_compute_but_not_for_ever(
    tmp_path: Path, job: Wanted, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plan:
        def tune(self, *, busy: Any, folder: Path, **_: Any) -> Any:
            found = [busy()]
            with computing(tmp_path):
                found.append(busy())
                tuning_job.time.monotonic = lambda: float("inf")  # type: ignore[attr-defined]
                found.append(busy())
            (folder / NOTE).touch()
            return program_result(dropped={"busy": str(found)})

    plan_of(monkeypatch, Plan)
    assert forking(tmp_path).tune(job, no) == {"busy": "[False, True, False]"}


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (b"", "sent no reply: it has ended"),
        (b"{", "sent no reply: it has ended"),
        (b"{\n", "sent no reply"),
        (b"1\n", "sent no reply"),
        (b'{"trying": "x"}\n', "sent no reply"),
        (b" " * (1 << 20) + b"\n", "sent no reply"),
        (b'{"error": "for a reason"}\n', "^for a reason$"),
        (b'{"died": 0, "late": true}\n', "takes longer than 2400 s"),
        (b'{"died": 0, "late": false}\n', "ends the process"),
    ],
)
def test_a_process_without_an_answer_is_an_error(job: Wanted, reply: bytes, problem: str) -> None:
    with pytest.raises(TuningError, match=problem):
        TuningProcess(Replying(reply), None, None, Path("runs")).tune(job, no)
