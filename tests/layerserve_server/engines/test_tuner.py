"""Tuning in the background: who waits for it, what is opened afterwards, and that nothing depends on it."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from layergraph import Input, Model, layers
from layerserve_server.engines import tuner as module
from layerserve_server.engines.chosen_engines import ChosenEngines
from layerserve_server.engines.tuner import Tuner
from layerserve_server.engines.tuning_process import NoTimeError, TuningError, Wanted
from layerserve_server.repository.layout import find_file
from layerserve_server.repository.model_settings import ModelSettings
from layerserve_server.repository.version import DerivedModel

ROWS = np.ones((3, 4), "float32")
#: Values of models that are made of another one, by the function that makes them.
DERIVED = {"steps:step_model": 0.125}


def lease(*, counts: bool = True) -> Any:
    """A lease of a version; tuning isn't a use that `counts`."""
    assert not counts
    return nullcontext()


def model(value: float = 0.5) -> Model:
    entry = Input((4,), name="x")
    made = Model(entry, layers.Dense(2, name="y")(entry), name="m")
    made.set_weights([np.full((4, 2), value, "float32"), np.zeros(2, "float32")])
    return made


class Process:
    """Tunes in this process. `engine` is chosen; `problems` are raised first, one at each call."""

    def __init__(self, engine: str = "torchscript", *problems: Exception, value: float = 0.5) -> None:
        self.engine = engine
        self.problems = list(problems)
        self.value = value
        self.jobs: list[Wanted] = []
        self.stopped: Any = None
        self.closed = False

    def tune(self, job: Wanted, stopped: Any) -> dict[str, str]:
        self.jobs.append(job)
        self.stopped = stopped
        if self.problems:
            raise self.problems.pop(0)
        options = {"engines": (self.engine,), "pin": True, "threads": job.threads, "shared": True}
        model(DERIVED[job.derived] if job.derived else self.value).plan().tune(**options, folder=job.folder)
        return {"cuda": "there is no CUDA device"}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.keras"
    path.write_text("model")
    return path


def version_of(path: Path, made: Any = None, **fields: Any) -> Any:
    facts = {"parameter_count": 25, "retired": False, "lease": lease, "choosing_engine": False, "derived": (), **fields}
    facts |= {"found": find_file("m", 1, path), "settings": fields.pop("settings", ModelSettings())}
    return SimpleNamespace(name="m", version=1, **({"model": made or model()} | facts))


def tuner_of(folder: Path, process: Any, **options: Any) -> Tuner:
    options = {"seconds": 1.5, "threads": 2, "max_bytes": 100, **options}
    return Tuner(process, ChosenEngines(folder / "engines"), **options)


def engines(version: Any) -> list[str]:
    return [choice.engine for choice in version.model.engines]


def test_what_was_replaced_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()
    tuned = []

    def tune(self: Tuner, loaded: Any, seconds: float) -> None:
        begun.release()
        assert go_on.wait(30)
        tuned.append(loaded.name)

    monkeypatch.setattr(Tuner, "_tune", tune)
    first, second, third, fourth = [
        SimpleNamespace(name=name, version=1, retired=False, lease=lease) for name in "abcd"
    ]
    tuner = tuner_of(tmp_path, Process())
    tuner.start()
    try:
        tuner.submit(first)  # type: ignore[arg-type]
        assert begun.acquire(timeout=30)
        tuner.submit(second)  # type: ignore[arg-type]
        tuner.submit(third)  # type: ignore[arg-type]
        second.retired = True
        tuner.submit(fourth)  # type: ignore[arg-type]
        assert tuner._waiting == [(third, 0), (fourth, 0)]
        go_on.set()
        for _ in (third, fourth):
            assert begun.acquire(timeout=30)
    finally:
        go_on.set()
        tuner.close()
    assert tuned == ["a", "c", "d"]


def test_engines_are_chosen_once_and_opened_by_everyone(tmp_path: Path, file: Path) -> None:
    pytest.importorskip("onnxruntime")
    process = Process("onnxruntime")
    first, second = version_of(file), version_of(file)
    for version in (first, second):  # the second one is of another process
        tuner_of(tmp_path, process)._tune(version, 1.5)
        assert engines(version) == ["onnxruntime"]
        np.testing.assert_allclose(version.model.plan().run({"x": ROWS})["y"], 2.0, rtol=1e-6)
    (job,) = process.jobs
    assert (job.file, job.seconds, job.threads) == (file, 1.5, 2)
    tuner_of(tmp_path, process, threads=3)._tune(version_of(file), 1.5)
    tuner_of(tmp_path, process)._tune(version_of(file, settings=ModelSettings(compute_threads=4)), 1.5)
    process.value = 0.25
    tuner_of(tmp_path, process)._tune(version_of(file, model(0.25)), 1.5)
    assert [job.threads for job in process.jobs[1:]] == [3, 4, 2]


def test_engines_of_models_that_are_made_of_a_version_are_chosen_too(tmp_path: Path, file: Path) -> None:
    (function, value), process = next(iter(DERIVED.items())), Process("torchscript")
    version = version_of(file, derived=[DerivedModel(model(value), function)])
    tuner_of(tmp_path, process)._tune(version, 1.5)
    assert [job.derived for job in process.jobs] == ["", function]
    derived = version.derived[0].model
    assert [choice.engine for choice in derived.engines] == engines(version) == ["torchscript"]
    assert derived.plan().run({"x": ROWS})["y"].tolist() == [[0.5, 0.5]] * 3


def test_an_engine_without_a_file_is_built_here(tmp_path: Path, file: Path) -> None:
    version = version_of(file)
    tuner_of(tmp_path, Process("torchscript"))._tune(version, 1.5)
    assert engines(version) == ["torchscript"]
    assert version.model.engines[0].tuned is not None


def test_engines_of_a_file_that_was_replaced_meanwhile_are_not_used(tmp_path: Path, file: Path) -> None:
    pytest.importorskip("onnxruntime")
    version = version_of(file)
    tuner_of(tmp_path, Process("onnxruntime", value=0.25))._tune(version, 1.5)
    np.testing.assert_allclose(version.model.plan().run({"x": ROWS})["y"], 2.0, rtol=1e-6)


def test_tuning_stops_when_the_server_does_or_the_version_goes(tmp_path: Path, file: Path) -> None:
    process = Process()
    tuner, version = tuner_of(tmp_path, process), version_of(file)
    tuner._tune(version, 1.5)
    assert not process.stopped()
    version.retired = True
    assert process.stopped()
    version.retired, tuner._closed = False, True
    assert process.stopped()
    tuner.close()


@pytest.mark.parametrize(("parameters", "tuned"), [(25, 1), (26, 0)])
def test_a_model_that_is_too_large_stays_on_torch(tmp_path: Path, file: Path, parameters: int, tuned: int) -> None:
    """Of 4 bytes a parameter, 100 are allowed."""
    process = Process()
    tuner_of(tmp_path, process)._tune(version_of(file, parameter_count=parameters), 1.5)
    assert len(process.jobs) == tuned


def test_a_model_of_text_stays_on_torch(tmp_path: Path, file: Path) -> None:
    """No engine has text, so that there is nothing to warn of."""
    process, entry = Process(), Input((1,), dtype="string")
    text = Model(entry, layers.StringLookup(vocabulary=["a"])(entry))
    tuner_of(tmp_path, process)._tune(version_of(file, text), 1.5)
    assert process.jobs == []


def test_a_model_with_engines_is_not_tuned(tmp_path: Path, file: Path) -> None:
    """It computes in lower precision, or has opened what was kept."""
    process, made = Process(), model()
    made.plan().tune(engines=("torchscript",), pin=True)
    tuner_of(tmp_path, process)._tune(version_of(file, made), 1.5)
    assert process.jobs == []


def next_of(tuner: Tuner, version: Any) -> list[bool]:
    """Tunes until nothing waits. Returns for each step whether an engine was still to be chosen after it."""
    tuner.submit(version)
    assert version.choosing_engine
    found = []
    while tuner._waiting:
        assert tuner._tune_next()
        found.append(version.choosing_engine)
    return found


def test_a_version_shows_while_an_engine_is_being_chosen(tmp_path: Path, file: Path) -> None:
    assert next_of(tuner_of(tmp_path, Process()), version_of(file)) == [False]
    assert next_of(tuner_of(tmp_path, Process("", ValueError("a defect"))), version_of(file)) == [False]


def test_a_model_whose_time_was_too_short_gets_more_of_it_but_not_for_ever(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process, version = Process("torchscript", NoTimeError("no time left")), version_of(file)
    assert next_of(tuner_of(tmp_path / "a", process), version) == [True, False]
    assert [job.seconds for job in process.jobs] == [1.5, 3.0]
    assert engines(version) == ["torchscript"]
    assert "model 'm' version 1 isn't tuned: no time left" in caplog.text
    process, version = Process("torchscript", *[NoTimeError("no time left")] * 9), version_of(file)
    assert next_of(tuner_of(tmp_path / "b", process), version) == [True, True, False]
    assert [job.seconds for job in process.jobs] == [1.5, 3.0, 6.0]
    assert engines(version) == []


def test_a_model_that_can_not_be_tuned_is_not_tried_again(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process("", TuningError("can't be traced"))
    assert next_of(tuner_of(tmp_path, process), version_of(file)) == [False]
    assert "isn't tuned: can't be traced" in caplog.text
    assert len(process.jobs) == 1


def test_one_that_can_not_be_tuned_keeps_no_other_from_it(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture, wait_until: Any
) -> None:
    process = Process("torchscript", ZeroDivisionError("a defect"))
    broken, leaving, good = (version_of(file) for _ in range(3))
    leaving.lease = lambda **_: None  # it was retired when its turn came
    tuner = tuner_of(tmp_path, process)
    for version in (broken, leaving, good):
        tuner.submit(version)
    tuner.start()
    wait_until(lambda: good.model.engines)
    tuner.close()
    assert not tuner._thread.is_alive()
    assert (engines(broken), engines(leaving)) == ([], [])
    assert caplog.text.count("tuning of model 'm' version 1 failed") == 1


def test_torch_decides_how_many_threads_there_are_by_default(tmp_path: Path, file: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "default_threads", lambda: 7)
    process = Process()
    tuner_of(tmp_path, process, threads=0)._tune(version_of(file), 1.5)
    assert [job.threads for job in process.jobs] == [7]
