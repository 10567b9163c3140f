"""Chosen engines are opened from their files, give the same numbers, and are refused if they don't."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
from layergraph import layers
from layergraph.execution.engines import graph_files
from layergraph.execution.engines.engine import UnfitError
from layergraph.execution.engines.table import ENGINES
from layergraph.execution.tuning import engine_folder, tuner, variants
from layergraph.execution.tuning.engine_folder import EXAMPLE, FILES, NOTE, noted_choices
from layergraph.execution.tuning.time_budget import NoTimeError

ROWS = np.random.default_rng(0).standard_normal((5, 6)).astype("float32")
INPUTS = {"x": ROWS, "z": -ROWS, "ids": np.arange(10).reshape(5, 2)}


def needs(package: str) -> None:
    """Skips a test if a package isn't installed. Doesn't import it, since OpenVINO is imported in a way of its own."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} isn't installed")


def model(value: float = 0.5) -> Any:
    """Three inputs, one of them of integers, a shared layer whose calls can be merged, and a GRU."""
    x, z = layergraph.Input((6,), name="x"), layergraph.Input((6,), name="z")
    ids = layergraph.Input((2,), dtype="int64", name="ids")
    words = layers.GRU(6)(layers.Embedding(20, 4)(ids))
    shared = layers.Dense(6, activation="tanh")
    made = layergraph.Model([x, z, ids], layers.Dense(3, name="y")(layers.Add()([shared(x), shared(z), words])))
    random = np.random.default_rng(1)
    made.set_weights([value * random.standard_normal(array.shape).astype("float32") for array in made.get_weights()])
    return made


def tuned(folder: Path, engines: tuple[str, ...], **options: Any) -> Any:
    options = {"seconds": 120.0, "threads": 2, "shared": True, "rows": (1, 8), "folder": folder, **options}
    return model().plan().tune(engines=engines, **options)


def answer(plan: Any) -> Any:
    return plan.run(INPUTS)["y"]


@pytest.fixture
def fastest(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds of engines, by their name, in place of what timing would find; the first in it is the fastest."""
    times: dict[str, float] = {}
    monkeypatch.setattr(
        tuner, "lower_quartiles", lambda calls, seconds, **_: {name: times.get(name, 1.0) / 1e4 for name in calls}
    )
    return times


@pytest.mark.parametrize(
    "engine",
    ["onnxruntime", "openvino", "onnxruntime-unmerged", "openvino-1thread"],
)
def test_an_engine_is_opened_from_its_file(tmp_path: Path, fastest: dict[str, float], engine: str) -> None:
    base = engine.partition("-")[0]
    needs(base)
    fastest[engine] = 0.1
    first = tuned(tmp_path, (base,))
    assert [choice.engine for choice in first.choices] == [engine, engine]
    assert {path.name for path in tmp_path.iterdir()} <= set(FILES)
    plan = model().plan()
    again = plan.open_engines(tmp_path, 2, shared=True)
    assert [(c.rows, c.engine, c.milliseconds) for c in again.choices] == [
        (c.rows, c.engine, c.milliseconds) for c in first.choices
    ]
    assert [c.tuned.finite for c in again.choices] == [c.tuned.finite for c in first.choices]
    np.testing.assert_allclose(answer(plan), model().predict(INPUTS), rtol=1e-5, atol=1e-6)
    # By the engine, not by eager torch.
    plan.run_eagerly = lambda *_: 1 / 0
    answer(plan)


@pytest.mark.parametrize(("engine", "streams"), [("openvino", "1"), ("openvino-1thread", "2")])
def test_single_threaded_calls_of_openvino_are_computed_at_the_same_time(
    tmp_path: Path, fastest: dict[str, float], engine: str, streams: str
) -> None:
    """With one stream the parts of a batch would wait for one another."""
    needs("openvino")
    fastest[engine] = 0.1
    for found in (tuned(tmp_path, ("openvino",)), model().plan().open_engines(tmp_path, 2, shared=True)):
        compiled = found.choices[1].tuned.run._compiled
        assert str(compiled.get_property("NUM_STREAMS")) == streams
        assert str(compiled.get_property("INFERENCE_NUM_THREADS")) == "2"


@pytest.mark.parametrize("split", ["onnxruntime-rowparallel", "onnxruntime-rowbyrow"])
def test_rows_are_split_between_single_threads(
    tmp_path: Path, fastest: dict[str, float], monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    pytest.importorskip("onnxruntime")
    # Row by row for a model this small, too.
    monkeypatch.setattr(variants, "_CALL_SECONDS", 0.0)
    fastest |= {split: 0.1, "onnxruntime-1thread": 0.2}
    tuned(tmp_path, ("onnxruntime",))
    plan = model().plan()
    found = plan.open_engines(tmp_path, 2, shared=True)
    assert [choice.engine for choice in found.choices] == ["onnxruntime-1thread", split]
    # One file for both.
    assert {path.name for path in tmp_path.iterdir()} == {"onnxruntime", NOTE, EXAMPLE}
    np.testing.assert_allclose(answer(plan), model().predict(INPUTS), rtol=1e-5, atol=1e-6)


def test_nothing_is_traced_exported_or_computed_by_torch_again(
    tmp_path: Path, fastest: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    fastest["onnxruntime"] = 0.1
    tuned(tmp_path, ("onnxruntime",))
    expected = model().predict(INPUTS)
    for place in ("engines.exported_graph.trace", "engines.onnx.export.to_onnx", "plan.Plan.run_eagerly"):
        monkeypatch.setattr(f"layergraph.execution.{place}", lambda *_, **__: 1 / 0)
    answer_of = model().plan()
    answer_of.open_engines(tmp_path, 2, shared=True)
    np.testing.assert_allclose(answer(answer_of), expected, rtol=1e-5, atol=1e-6)


def test_eager_torch_may_be_the_choice(tmp_path: Path, fastest: dict[str, float]) -> None:
    pytest.importorskip("onnxruntime")
    fastest["eager"] = 0.1
    tuned(tmp_path, ("onnxruntime",))
    assert {path.name for path in tmp_path.iterdir()} == {NOTE, EXAMPLE}
    found = model().plan().open_engines(tmp_path, 2, shared=True)
    assert [(choice.engine, choice.tuned) for choice in found.choices] == [("eager", None)] * 2


def test_an_engine_without_a_file_is_noted_only(tmp_path: Path, fastest: dict[str, float]) -> None:
    fastest["torchscript"] = 0.1
    first = tuned(tmp_path, ("torchscript",))
    assert {path.name for path in tmp_path.iterdir()} == {NOTE, EXAMPLE}
    assert [(choice.rows, choice.engine) for choice in noted_choices(tmp_path)] == [
        (1, "torchscript"),
        (8, "torchscript"),
    ]
    with pytest.raises(UnfitError, match="engine 'torchscript' can't be kept"):
        model().plan().open_engines(tmp_path, 2, shared=True)
    again = model().plan().tune(known=noted_choices(tmp_path), threads=2, shared=True)
    assert [choice.engine for choice in again.choices] == [choice.engine for choice in first.choices]


@pytest.mark.parametrize(("times", "engine"), [(1.2, "onnxruntime"), (1.3, "torchscript")])
def test_an_engine_without_a_file_must_be_much_faster(
    tmp_path: Path, fastest: dict[str, float], times: float, engine: str
) -> None:
    pytest.importorskip("onnxruntime")
    fastest |= {"torchscript": 0.1, "onnxruntime": 0.1 * times}
    found = tuned(tmp_path, ("torchscript", "onnxruntime"))
    assert [choice.engine for choice in found.choices] == [engine, engine]
    # Where nothing is kept, the fastest one is chosen.
    found = tuned(None, ("torchscript", "onnxruntime"))  # type: ignore[arg-type]
    assert [choice.engine for choice in found.choices] == ["torchscript", "torchscript"]


def test_a_pinned_engine_is_kept_too(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    tuned(tmp_path, ("onnxruntime",), pin=True)
    (choice,) = model().plan().open_engines(tmp_path, 2, shared=True).choices
    assert (choice.rows, choice.engine) == (1, "onnxruntime")


def test_what_was_stopped_or_found_nothing_is_not_kept(tmp_path: Path) -> None:
    stop = iter([False] * 3 + [True] * 100)
    tuned(tmp_path, ("torchscript",), stopped=lambda: next(stop))
    found = tuned(tmp_path, ("torchscript",), seconds=1e-9)
    assert (found.choices, found.late) == ((), True)
    assert list(tmp_path.iterdir()) == []


def test_eager_torch_is_not_kept_if_there_was_no_time_for_others(
    tmp_path: Path, fastest: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_time(*_: Any) -> Any:
        raise NoTimeError("expected to take 7 s")

    monkeypatch.setattr(tuner._Bench, "built", no_time)
    found = tuned(tmp_path, ("torchscript",))
    assert ([choice.engine for choice in found.choices], found.late) == (["eager", "eager"], True)
    assert list(tmp_path.iterdir()) == []


def test_an_engine_of_other_weights_is_refused(tmp_path: Path, fastest: dict[str, float]) -> None:
    """The file was replaced while it was tuned: only a comparison with the model that is served shows that."""
    pytest.importorskip("onnxruntime")
    fastest["onnxruntime"] = 0.1
    tuned(tmp_path, ("onnxruntime",))
    plan = model(0.25).plan()
    with pytest.raises(UnfitError, match=r"engine 'eager' differs by .* from the outputs when it was kept"):
        plan.open_engines(tmp_path, 2, shared=True, compare=True)
    assert plan.engines == ()
    model().plan().open_engines(tmp_path, 2, shared=True, compare=True)


def test_an_engine_that_computes_something_else_is_refused(
    tmp_path: Path, fastest: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    fastest["onnxruntime"] = 0.1
    tuned(tmp_path, ("onnxruntime",))
    usual = graph_files.OPENED["onnxruntime"]

    def other(files: Any, file: str) -> Any:
        engine = usual(files, file)
        return lambda arrays: [array + 1e-3 for array in engine(arrays)]

    monkeypatch.setattr(engine_folder, "OPENED", {"onnxruntime": other})
    with pytest.raises(UnfitError, match="engine 'onnxruntime' differs by"):
        model().plan().open_engines(tmp_path, 2, shared=True)


def test_what_is_damaged_is_refused(tmp_path: Path, fastest: dict[str, float]) -> None:
    pytest.importorskip("onnxruntime")
    fastest["onnxruntime"] = 0.1
    (tmp_path / "whole").mkdir()
    tuned(tmp_path / "whole", ("onnxruntime",))
    content = json.loads((tmp_path / "whole" / NOTE).read_text())
    damages: list[Callable[[Path], object]] = [
        lambda folder: (folder / NOTE).unlink(),
        lambda folder: (folder / EXAMPLE).unlink(),
        lambda folder: (folder / "onnxruntime").unlink(),
        lambda folder: (folder / "onnxruntime").write_bytes(b"cut"),
        lambda folder: (folder / NOTE).write_text(json.dumps(content | {"choices": [1]})),
        lambda folder: (folder / NOTE).write_text(json.dumps(content | {"engines": {"onnxruntime": {"file": 1}}})),
    ]
    plan = model().plan()
    for number, damage in enumerate(damages):
        damage(shutil.copytree(tmp_path / "whole", tmp_path / str(number)))
        with pytest.raises(UnfitError):
            plan.open_engines(tmp_path / str(number), 2, shared=True)
        assert plan.engines == ()


@pytest.mark.parametrize("text", ["", "[", "[1]", "{}", '{"choices": [{"rows": 1}]}', '{"choices": 1}'])
def test_a_damaged_note_has_no_choices(tmp_path: Path, text: str) -> None:
    assert noted_choices(tmp_path) == ()
    (tmp_path / NOTE).write_text(text)
    assert noted_choices(tmp_path) == ()


def test_files_have_the_names_of_engines() -> None:
    assert {"onnxruntime", "openvino-unmerged"} <= set(FILES)
    assert graph_files.OPENED.keys() == graph_files.CONTENTS.keys() <= ENGINES.keys()
