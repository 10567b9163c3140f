"""A version that misses the proof beside its file isn't served."""

from __future__ import annotations

import json
from pathlib import Path

import layergraph
import pytest
from layerserve_server.inference.runner import load_model
from layerserve_server.repository.version_states import State
from repositories import repository_of

commands = pytest.importorskip("layerserve_server.extensions.model_files.commands")


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    """Version 1, and version 2, which has other weights and the proof of version 1."""
    for version in (1, 2):
        x = layergraph.Input((4,), name="x")
        folder = tmp_path / "m" / str(version)
        folder.mkdir(parents=True)
        layergraph.Model(x, layergraph.layers.Dense(2, name="y")(x)).save(folder / "model.keras")
    assert commands.inspect([str(tmp_path / "m" / "1"), "--make-golden", "--json"]) == 0
    (tmp_path / "m/2/golden.npz").write_bytes((tmp_path / "m/1/golden.npz").read_bytes())
    return tmp_path


def test_it_says_by_how_much_and_the_version_before_serves(versions: Path) -> None:
    repository = repository_of(versions, lambda path, settings: load_model(path))
    repository.scan()
    second, first = repository.catalogue.describe("m")
    assert (second.state, first.state) == (State.FAILED, State.READY)
    assert first.default
    assert "golden.npz: output 'y' differs by" in second.reason
    repository.close()


def test_inspect_tells_it_too(versions: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert commands.inspect([str(versions / "m" / "2" / "model.keras"), "--json"]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert "output 'y' differs by" in problem
