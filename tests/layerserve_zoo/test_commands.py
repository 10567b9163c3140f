"""`layerserve zoo list` and `layerserve zoo build`."""

from __future__ import annotations

import json
from pathlib import Path

import layergraph
import numpy as np
import pytest
from layerserve_zoo.commands import zoo
from layerserve_zoo.zoo import ZOO

Output = pytest.CaptureFixture[str]


def test_list_shows_every_model_with_what_it_shows_and_its_tensors(capsys: Output) -> None:
    assert zoo(["list"]) == 0
    text = capsys.readouterr().out
    for entry in ZOO.values():
        assert f"{entry.name}: {entry.description}" in text
    assert "main_input (None, 100) int32" in text


def test_list_gives_json(capsys: Output) -> None:
    assert zoo(["list", "--small", "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert list(entries) == list(ZOO)
    assert {name: [spec["name"] for spec in entry["outputs"]] for name, entry in entries.items()} == {
        name: entry.make(small=True).output_names for name, entry in ZOO.items()
    }
    assert entries["tweets"]["inputs"][0] == {"name": "tweet_a", "shape": [None, 24, 16], "dtype": "float32"}
    assert {name for name, entry in entries.items() if entry["compiled"]} == {"dense", "headline", "tweets"}


def test_build_writes_the_named_models_as_first_versions(tmp_path: Path, capsys: Output) -> None:
    assert zoo(["build", "dense", "residual", "--small", "--to", str(tmp_path), "--json"]) == 0
    built = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in built] == ["dense", "residual"]
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "dense/1/model.keras",
        "residual/1/model.keras",
    ]
    loaded = layergraph.load_model(tmp_path / "dense" / "1")
    for ours, made in zip(loaded.get_weights(), ZOO["dense"].make(small=True).get_weights(), strict=True):
        np.testing.assert_array_equal(ours, made)


def test_build_without_names_builds_all(tmp_path: Path, capsys: Output) -> None:
    assert zoo(["build", "--small", "--to", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(ZOO)
    assert len(capsys.readouterr().out.splitlines()) == len(ZOO)


def test_build_keeps_what_is_there_unless_forced(tmp_path: Path, capsys: Output) -> None:
    command = ["build", "dense", "--small", "--to", str(tmp_path)]
    assert zoo(command) == 0
    before = (tmp_path / "dense/1/model.keras").read_bytes()
    assert zoo(["build", "tweets", *command[1:]]) == 2
    assert "dense/1/model.keras already exists; use --force to replace" in capsys.readouterr().err
    assert (tmp_path / "dense/1/model.keras").read_bytes() == before
    assert not (tmp_path / "tweets").exists()
    assert zoo([*command, "--force", "--seed", "1"]) == 0
    assert (tmp_path / "dense/1/model.keras").read_bytes() != before


def test_build_refuses_a_name_that_is_none(tmp_path: Path, capsys: Output) -> None:
    assert zoo(["build", "dens", "--to", str(tmp_path)]) == 2
    assert "unknown model 'dens'; the zoo has dense, model_as_layer" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_build_says_why_it_cannot_write(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "dense").write_text("a file, where a folder should be")
    assert zoo(["build", "dense", "--small", "--to", str(tmp_path)]) == 1
    assert "File exists" in capsys.readouterr().err
