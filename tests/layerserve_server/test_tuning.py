"""Tuning in the background: who waits for it, what is remembered, and that nothing depends on it."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from clocks import replace_time
from layergraph.execution.tuning.result import Choice, Tuning
from layerserve_server import tuning
from layerserve_server.quantization import kept
from layerserve_server.repository.layout import find_file
from layerserve_server.repository.model_settings import ModelSettings
from layerserve_server.training.runs.computing import computing, is_computing
from layerserve_server.tuning import EngineUnfitError, Tuner

#: Where graphs are kept; what it gives is only passed on here.
GRAPHS: Any = SimpleNamespace(of=lambda model, threads: (model, threads))


def lease(*, counts: bool = True) -> Any:
    """A lease of a version; tuning isn't a use that `counts`."""
    assert not counts
    return nullcontext()


def test_what_was_replaced_is_let_go(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()
    tuned = []

    def tune(self: Tuner, loaded: Any) -> None:
        begun.release()
        assert go_on.wait(30)
        tuned.append(loaded.name)

    monkeypatch.setattr(Tuner, "_tune", tune)
    first, second, third, fourth = [
        SimpleNamespace(name=name, version=1, retired=False, lease=lease) for name in "abcd"
    ]
    tuner = Tuner(tmp_path, seconds=1.0, threads=1, max_bytes=1)
    tuner.start()
    try:
        tuner.submit(first)
        assert begun.acquire(timeout=30)
        tuner.submit(second)
        tuner.submit(third)
        second.retired = True
        tuner.submit(fourth)
        assert tuner._waiting == [third, fourth]
        go_on.set()
        for _ in (third, fourth):
            assert begun.acquire(timeout=30)
    finally:
        go_on.set()
        tuner.close()
    assert tuned == ["a", "c", "d"]


class Plan:
    """Notes what it is asked to tune; gives one choice."""

    def __init__(self, choices: tuple[Choice, ...] = (Choice(8, "onnxruntime", {"eager": 2.0, "onnxruntime": 1.0}),)):
        self.choices = choices
        self.asked: list[dict[str, Any]] = []

    def tune(self, **options: Any) -> Tuning:
        self.asked.append(options)
        return Tuning(self.choices, {"openvino": "isn't installed"})


def version_of(plan: Plan, path: Path, **fields: Any) -> Any:
    model = SimpleNamespace(engines=fields.pop("engines", ()), plan=lambda: plan)
    facts = {"parameter_count": 25, "retired": False, **fields}
    facts |= {"found": find_file("m", 1, path), "settings": fields.pop("settings", ModelSettings())}
    return SimpleNamespace(name="m", version=1, model=model, lease=lease, **facts)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.keras"
    path.write_text("model")
    return path


def tuner_of(folder: Path, **options: Any) -> Tuner:
    return Tuner(folder / "tuning", **{"seconds": 1.5, "threads": 2, "max_bytes": 100, **options})


def test_what_was_found_is_remembered_for_the_same_file(tmp_path: Path, file: Path) -> None:
    plan = Plan()
    for _ in range(2):  # the second time in another server
        tuner_of(tmp_path)._tune(version_of(plan, file))
    first, second = plan.asked
    assert (first["seconds"], first["threads"], first["shared"], first["known"]) == (1.5, 2, True, ())
    assert second["known"] == plan.choices
    assert [path.suffix for path in (tmp_path / "tuning").iterdir()] == [".json"]
    tuner_of(tmp_path, threads=3)._tune(version_of(plan, file))
    tuner_of(tmp_path)._tune(version_of(plan, file, settings=ModelSettings(compute_threads=4)))
    file.write_text("other")
    tuner_of(tmp_path)._tune(version_of(plan, file))
    assert [(asked["known"], asked["threads"]) for asked in plan.asked[2:]] == [((), 3), ((), 4), ((), 2)]


def test_a_finding_that_is_not_whole_is_not_remembered(tmp_path: Path, file: Path) -> None:
    tuner_of(tmp_path)._tune(version_of(Plan(choices=()), file))
    tuner = tuner_of(tmp_path)
    tuner._closed = True
    tuner._tune(version_of(Plan(), file))
    tuner_of(tmp_path)._tune(version_of(Plan(), file, retired=True))
    assert not (tmp_path / "tuning").exists()


def test_a_version_says_while_an_engine_is_being_chosen_for_it(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def tune(self: Tuner, loaded: Any) -> None:
        seen.append(loaded.choosing_engine)
        raise ValueError("an engine that fails")

    monkeypatch.setattr(Tuner, "_tune", tune)
    version, tuner = version_of(Plan(), file), tuner_of(tmp_path)
    tuner.submit(version)
    assert version.choosing_engine
    assert tuner._tune_next()
    assert (seen, version.choosing_engine) == ([True], False)


def test_tuning_stops_when_the_server_does_or_the_version_goes(tmp_path: Path, file: Path) -> None:
    plan, tuner = Plan(), tuner_of(tmp_path)
    version = version_of(plan, file)
    tuner._tune(version)
    stopped = plan.asked[0]["stopped"]
    assert not stopped()
    version.retired = True
    assert stopped()
    version.retired, tuner._closed = False, True
    assert stopped()


def test_tuning_waits_while_runs_compute_but_not_forever(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    replace_time(monkeypatch, tuning, monotonic=lambda: now[0])
    plan, runs = Plan(), tmp_path / "runs"
    runs.mkdir()
    tuner_of(tmp_path, busy=partial(is_computing, runs))._tune(version_of(plan, file))
    busy = plan.asked[0]["busy"]
    assert not busy()
    with computing(runs):
        assert busy()
        now[0] += 601
        assert not busy()


@pytest.mark.parametrize(("parameters", "tuned"), [(25, 1), (26, 0)])
def test_a_model_that_is_too_large_stays_on_torch(tmp_path: Path, file: Path, parameters: int, tuned: int) -> None:
    """Of 4 bytes a parameter, 100 are allowed."""
    plan = Plan()
    tuner_of(tmp_path)._tune(version_of(plan, file, parameter_count=parameters))
    assert len(plan.asked) == tuned


def test_a_model_of_less_precision_has_its_engine(tmp_path: Path, file: Path) -> None:
    plan = Plan()
    tuner_of(tmp_path)._tune(version_of(plan, file, engines=plan.choices))
    assert plan.asked == []


@pytest.mark.parametrize(
    "text", ["", "[", "{}", "[1]", '[{"rows": 1}]', '[{"rows": "x", "engine": 1, "milliseconds": {}}]']
)
def test_a_note_that_is_damaged_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "note.json").write_text(text)
    assert tuning._recall(tmp_path / "note.json") == ()


def test_a_folder_that_can_not_be_written_keeps_nothing_and_harms_nothing(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tuning").write_text("a file where the folder would be")
    tuner_of(tmp_path)._tune(version_of(Plan(), file))
    assert "can't save tuning results" in caplog.text


def test_one_that_can_not_be_tuned_keeps_no_other_from_it(
    tmp_path: Path, file: Path, caplog: pytest.LogCaptureFixture, wait_until: Any
) -> None:
    broken, gone, good = Plan(), Plan(), Plan()
    broken.tune = lambda **options: 1 / 0  # type: ignore[method-assign]
    leaving = version_of(gone, file)
    leaving.lease = lambda **_: None  # it was retired when its turn came
    tuner = tuner_of(tmp_path)
    for version in (version_of(broken, file), leaving, version_of(good, file)):
        tuner.submit(version)
    tuner.start()
    wait_until(lambda: good.asked)
    tuner.close()
    assert not tuner._thread.is_alive()
    assert gone.asked == []
    assert caplog.text.count("tuning of model 'm' version 1 failed") == 1


def test_a_tuner_that_was_never_started_can_be_closed(tmp_path: Path, file: Path) -> None:
    tuner = tuner_of(tmp_path)
    tuner.submit(version_of(Plan(), file))
    tuner.close()


@pytest.mark.parametrize("dropped", [{}, {"openvino": "has no such operation"}])
def test_a_named_engine_is_pinned_or_the_file_refused(file: Path, dropped: dict[str, str]) -> None:
    plan = Plan()
    plan.tune = lambda **options: plan.asked.append(options) or Tuning((), dropped)  # type: ignore[method-assign,func-returns-value]
    model = SimpleNamespace(plan=lambda: plan)
    load = tuning.pinning(lambda path: model, "openvino", 3)  # type: ignore[arg-type,return-value]
    if dropped:
        with pytest.raises(EngineUnfitError, match=r"setting 'engine': 'openvino' can't run the model: has no"):
            load(file)
    else:
        assert load(file) is model
    assert plan.asked == [{"engines": ("openvino",), "threads": 3, "shared": True, "pin": True}]


def test_torch_itself_needs_no_pinning() -> None:
    def load(path: Path) -> Any:
        raise AssertionError

    assert tuning.pinning(load, "eager", 1) is load


def test_without_a_proof_a_model_keeps_its_precision(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    model: Any = object()
    assert tuning.reducing(lambda path: model, "int8", 1, GRAPHS)(file) is model
    assert "model.keras stays in float32: int8 requires model.golden.npz" in caplog.text


def test_a_proof_that_does_not_hold_keeps_the_precision(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def reduce(*arguments: Any, **options: Any) -> None:
        given.append((*arguments, options))
        raise ValueError("differs by 3\nand more")

    monkeypatch.setattr(tuning, "reduce_precision", reduce)
    proof = file.with_name("model.golden.npz")
    proof.touch()
    model: Any = object()
    assert tuning.reducing(lambda path: model, "int8", 5, GRAPHS)(file) is model
    options = {"shared": True, "rtol": None, "atol": None, "workshop": (model, 5)}
    options["calibration"] = file.with_name("model.calibration.npz")
    assert given == [(model, proof, "int8", 5, options)]
    assert "model.keras stays in float32: differs by 3\n" in caplog.text
    assert "and more" not in caplog.text


def test_a_model_that_keeps_to_its_proof_tells_how_near_it_comes(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "reduce_precision", lambda *arguments, **options: None)
    file.with_name("model.golden.npz").touch()
    engines = (SimpleNamespace(rows=1, engine="a", difference=0.125), SimpleNamespace(rows=8, engine="b", difference=0))
    model: Any = SimpleNamespace(engines=engines)
    with caplog.at_level("INFO"):
        assert tuning.reducing(lambda path: model, "int8", 5, GRAPHS)(file) is model
    (record,) = caplog.records
    assert (record.getMessage(), record.largest_difference) == ("model.keras computes in int8", 0.125)
    assert record.engines == {"1": "a", "8": "b"}


def test_a_finding_holds_for_the_packages_that_are_installed(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan()
    tuner_of(tmp_path)._tune(version_of(plan, file))

    def missing(package: str) -> str:
        raise kept.PackageNotFoundError(package)

    monkeypatch.setattr(kept, "version", missing)
    tuner_of(tmp_path)._tune(version_of(plan, file))
    tuner_of(tmp_path)._tune(version_of(plan, file))
    assert [asked["known"] for asked in plan.asked] == [(), (), plan.choices]
