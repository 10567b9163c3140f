"""Models are tuned by another process, in which nothing that an engine does harms the server."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import faulty_plans
import numpy as np
import pytest
from jobs_without_processes import Replying
from layergraph import Input, Model, layers
from layergraph.execution.engines.table import DEFAULT_ENGINES
from layergraph.execution.tuning.engine_folder import NOTE, noted_choices
from layerserve_server.engines.tuning_process import NoTimeError, TuningError, TuningProcess, Wanted
from layerserve_server.errors import CallCancelledError
from layerserve_server.jobs.jobs import Jobs


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


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


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


@pytest.fixture(scope="module")
def own_jobs() -> Iterator[Jobs]:
    """Processes that can import `faulty_plans`."""
    made = Jobs()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(faulty_plans.__file__).parent))
        yield made
    made.close()


@pytest.fixture
def faulty(tmp_path: Path, own_jobs: Jobs, job: Wanted) -> Callable[[str], dict[str, str]]:
    """Tunes a model whose plan is that of a function in `faulty_plans`."""
    process = TuningProcess(own_jobs, None, None, tmp_path)
    return lambda plan: process.tune(replace(job, derived=f"faulty_plans:{plan}"), no)


def test_an_engine_that_crashes_is_left_out(faulty: Callable[[str], dict[str, str]], folder: Path) -> None:
    assert faulty("crashes_at_onnxruntime") == {"other": "isn't installed", "onnxruntime": "crashes (SIGKILL)"}
    engines = json.loads((folder / NOTE).read_text())["engines"]
    assert engines == [name for name in DEFAULT_ENGINES if name != "onnxruntime"]


def test_what_dies_before_it_tries_an_engine_is_given_up(faulty: Callable[[str], dict[str, str]]) -> None:
    with pytest.raises(TuningError, match=r"crashes \(SIGKILL\)"):
        faulty("dies")


@pytest.mark.parametrize(("plan", "kind"), [("chooses_nothing", TuningError), ("has_no_time", NoTimeError)])
def test_without_a_choice_the_reasons_are_given(
    faulty: Callable[[str], dict[str, str]], plan: str, kind: type[Exception]
) -> None:
    with pytest.raises(kind, match="no engine was chosen: cuda: a; openvino: b") as caught:
        faulty(plan)
    assert type(caught.value) is kind
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_stopping_ends_the_child(tmp_path: Path, own_jobs: Jobs, job: Wanted) -> None:
    process = TuningProcess(own_jobs, None, None, tmp_path)
    with pytest.raises(CallCancelledError):
        process.tune(replace(job, derived="faulty_plans:sleeps"), lambda: (job.folder / "pid").exists())
    pid = int((job.folder / "pid").read_text())
    # Its supervisor kills it later. If it never does, the time limit of tests ends this loop.
    while is_running(pid):
        time.sleep(0.01)


def test_it_waits_while_runs_compute_but_not_for_ever(faulty: Callable[[str], dict[str, str]]) -> None:
    assert faulty("asks_whether_runs_compute") == {"busy": "[False, True, False]"}


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
