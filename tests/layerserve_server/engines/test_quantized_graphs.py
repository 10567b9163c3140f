"""Quantized graphs are made once, found again for the same model only, and never trusted to be whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layergraph import Input, Model, layers
from layerserve_server.artifacts import keys
from layerserve_server.engines import quantized_graphs as graphs_module
from layerserve_server.engines.quantized_graphs import QuantizedGraphs
from layerserve_server.engines.quantizer import QuantizationError
from layerserve_server.jobs.jobs import Jobs

ROWS = np.ones((3, 4), "float32")


class Quantizer:
    """Notes in which folders it works, and writes what the real one would."""

    def __init__(self) -> None:
        self.folders: list[Path] = []

    def quantize(self, jobs: object, folder: Path) -> None:
        self.folders.append(folder)
        assert (folder / "float32.onnx").read_text() == "wide"
        (folder / "static.onnx").write_text("narrow")
        (folder / "left-over").mkdir()
        (folder / "left-over" / "x").touch()


def model(units: int = 2) -> Model:
    entry = Input((4,), name="x")
    made = Model(entry, layers.Dense(units, name="y")(entry), name="m")
    made.set_weights([np.ones((4, units), "float32"), np.zeros(units, "float32")])
    return made


@pytest.fixture
def quantizer(monkeypatch: pytest.MonkeyPatch) -> Quantizer:
    made = Quantizer()
    monkeypatch.setattr(graphs_module, "quantize", lambda jobs, folder: made.quantize(jobs, folder))
    return made


@pytest.fixture
def graphs(tmp_path: Path, quantizer: Quantizer) -> QuantizedGraphs:
    return QuantizedGraphs(tmp_path / "quantized", Jobs())


def write(folder: Path) -> None:
    (folder / "float32.onnx").write_text("wide")


def make(graphs: QuantizedGraphs, made: Model, rows: Any = ROWS, threads: int = 1) -> Path:
    with graphs.of(made, threads).graphs([rows], write) as folder:
        assert (folder / "static.onnx").read_text() == "narrow"
        return folder


def test_graphs_are_made_once_and_nothing_else_is_kept(graphs: QuantizedGraphs, quantizer: Quantizer) -> None:
    made = model()
    folder = make(graphs, made)
    (folder / "engines.json").write_text("chosen")
    assert make(graphs, model()) == folder  # by another process
    assert len(quantizer.folders) == 1
    assert {path.name for path in folder.iterdir()} == {
        *("float32.onnx", "static.onnx", "digests.json", "engines.json")
    }
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, "locks"]


def test_graphs_are_of_the_model_its_weights_and_its_calibration(
    graphs: QuantizedGraphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    other_weights = model()
    other_weights.set_weights([np.full((4, 2), 2, "float32"), np.zeros(2, "float32")])
    folders = [
        make(graphs, model()),
        make(graphs, model(units=3)),
        make(graphs, other_weights),
        make(graphs, model(), ROWS + 1),
        make(graphs, model(), ROWS.reshape(4, 3)),
        make(graphs, model(), threads=2),
    ]
    monkeypatch.setattr(keys, "_installed", lambda package: f"{package} 2")
    folders.append(make(graphs, model()))
    assert len(set(folders)) == len(folders)


def test_what_fails_leaves_nothing(tmp_path: Path, graphs: QuantizedGraphs, quantizer: Quantizer) -> None:
    def refuse(jobs: object, folder: Path) -> None:
        raise QuantizationError("too large")

    quantizer.quantize = refuse  # type: ignore[method-assign]
    with pytest.raises(QuantizationError, match="too large"):
        make(graphs, model())
    assert [path.name for path in (tmp_path / "quantized").iterdir()] == ["locks"]


def test_graphs_that_miss_the_proof_are_kept_as_it_may_change(graphs: QuantizedGraphs, quantizer: Quantizer) -> None:
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), graphs.of(model(), 1).graphs([ROWS], write):
            _ = 1 / 0
    assert len(quantizer.folders) == 1
