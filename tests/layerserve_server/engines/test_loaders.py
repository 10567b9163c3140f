"""Models are loaded with the engine or precision of their settings, or with the engines that were chosen earlier."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import layergraph
import numpy as np
import pytest
from layergraph import Input, Model, layers
from layerserve_server.engines import loaders
from layerserve_server.engines.chosen_engines import AUTO, ChosenEngines
from layerserve_server.engines.loaders import EngineUnfitError, pinning, reducing, reopening

#: Where graphs are kept; what it gives is only passed on here.
GRAPHS: Any = SimpleNamespace(of=lambda model, threads: (model, threads))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.keras"
    path.write_text("model")
    return path


@pytest.fixture
def kept(tmp_path: Path) -> ChosenEngines:
    return ChosenEngines(tmp_path / "engines")


def model(value: float = 0.5) -> Model:
    entry = Input((4,), name="x")
    made = Model(entry, layers.Dense(2, name="y")(entry), name="m")
    made.set_weights([np.full((4, 2), value, "float32"), np.zeros(2, "float32")])
    return made


def names(made: Any) -> list[str]:
    return [choice.engine for choice in made.engines]


def test_a_model_gets_the_engines_that_were_chosen_for_it(file: Path, kept: ChosenEngines) -> None:
    pytest.importorskip("onnxruntime")

    def make(folder: Path) -> None:
        model().plan().tune(engines=("onnxruntime",), pin=True, threads=2, shared=True, folder=folder)

    load = reopening(lambda path: model(), 2, kept)
    assert names(load(file)) == []
    with kept.made(model(), 2, make):
        pass
    found = load(file)
    assert names(found) == ["onnxruntime"]
    np.testing.assert_allclose(found.plan().run({"x": np.ones((1, 4), "float32")})["y"], 2.0, rtol=1e-6)
    assert names(reopening(lambda path: model(0.25), 2, kept)(file)) == []
    assert names(reopening(lambda path: model(), 1, kept)(file)) == []
    assert names(pinning(lambda path: model(), "torchscript", 2, kept)(file)) == ["torchscript"]


def test_layergraph_reads_what_no_other_process_does(tmp_path: Path, kept: ChosenEngines) -> None:
    model().save(tmp_path / "m.keras")
    assert reopening(None, 1, kept)(tmp_path / "m.keras").name == "m"


def test_engines_that_can_not_be_opened_are_not_used(
    file: Path, kept: ChosenEngines, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    pinning(lambda path: model(), "onnxruntime", 2, kept)(file)
    monkeypatch.setattr("layergraph.execution.tuning.engine_folder.OPENED", {"onnxruntime": lambda *_: 1 / 0})
    assert not kept.open(model(), 2, "onnxruntime")


def test_engines_of_a_plugin_are_not_found_again_as_its_code_may_change(kept: ChosenEngines) -> None:
    class Own(layergraph.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x + 1

    def make(folder: Path) -> None:
        plan.tune(engines=("torchscript",), pin=True, threads=1, shared=True, folder=folder)

    entry = Input((4,))
    made = Model(entry, Own()(entry))
    plan = made.plan()
    with kept.made(made, 1, make) as folder:
        assert folder.is_dir()
    assert not kept.open(made, 1, AUTO)


def test_a_named_engine_is_pinned_and_kept(file: Path, kept: ChosenEngines, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    first = pinning(lambda path: model(), "onnxruntime", 2, kept)(file)
    monkeypatch.setattr("layergraph.execution.tuning.tuner.tune", lambda *_, **__: 1 / 0)
    again = pinning(lambda path: model(), "onnxruntime", 2, kept)(file)
    for made in (first, again):
        assert names(made) == ["onnxruntime"]
        assert made.engines[0].tuned is not None


@pytest.mark.parametrize("times", [1, 2])
def test_a_named_engine_without_a_file_is_built_each_time(file: Path, kept: ChosenEngines, times: int) -> None:
    for _ in range(times):
        made = pinning(lambda path: model(), "torchscript", 2, kept)(file)
    assert names(made) == ["torchscript"]
    assert made.engines[0].tuned is not None


def test_a_file_that_the_named_engine_can_not_run_is_refused(file: Path, kept: ChosenEngines) -> None:
    entry = Input((4,), dtype="int32")
    quotient = Model(entry, layergraph.ops.floor_divide(entry, entry + 1))
    with pytest.raises(EngineUnfitError, match="setting 'engine': 'torchscript' can't run the model: "):
        pinning(lambda path: quotient, "torchscript", 3, kept)(file)


def test_torch_itself_needs_no_pinning(kept: ChosenEngines) -> None:
    def load(path: Path) -> Any:
        raise AssertionError

    assert pinning(load, "eager", 1, kept) is load


def test_without_a_proof_a_model_keeps_its_precision(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    model: Any = object()
    assert reducing(lambda path: model, "int8", 1, GRAPHS)(file) is model
    assert "model.keras stays in float32: int8 requires model.golden.npz" in caplog.text


def test_a_proof_that_does_not_hold_keeps_the_precision(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def reduce(*arguments: Any, **options: Any) -> None:
        given.append((*arguments, options))
        raise ValueError("differs by 3\nand more")

    monkeypatch.setattr(loaders, "reduce_precision", reduce)
    proof = file.with_name("model.golden.npz")
    proof.touch()
    model: Any = object()
    assert reducing(lambda path: model, "int8", 5, GRAPHS)(file) is model
    options = {"shared": True, "rtol": None, "atol": None, "workshop": (model, 5)}
    options["calibration"] = file.with_name("model.calibration.npz")
    assert given == [(model, proof, "int8", 5, options)]
    assert "model.keras stays in float32: differs by 3\n" in caplog.text
    assert "and more" not in caplog.text


def test_a_model_that_keeps_to_its_proof_tells_how_near_it_comes(
    file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaders, "reduce_precision", lambda *arguments, **options: None)
    file.with_name("model.golden.npz").touch()
    engines = (SimpleNamespace(rows=1, engine="a", difference=0.125), SimpleNamespace(rows=8, engine="b", difference=0))
    model: Any = SimpleNamespace(engines=engines)
    with caplog.at_level("INFO"):
        assert reducing(lambda path: model, "int8", 5, GRAPHS)(file) is model
    (record,) = caplog.records
    assert (record.getMessage(), record.largest_difference) == ("model.keras computes in int8", 0.125)
    assert record.engines == {"1": "a", "8": "b"}
