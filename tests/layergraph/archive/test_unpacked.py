"""Folders with the files of a `.keras`, unpacked."""

from __future__ import annotations

import zipfile
from pathlib import Path

import layergraph
import numpy as np
import pytest
from layergraph import layers
from layergraph.archive import LoadLimits, open_archive
from layergraph.errors import CorruptFileError
from model_files import FIXTURES


def unpacked(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return folder


def vocabularies(model: layergraph.Model) -> list[object]:
    return [layer.get_config().get("vocabulary") for layer in model.layers]


def test_vocabularies_are_those_of_the_zip(tmp_path: Path) -> None:
    packed = FIXTURES.parent / "text" / "keras3.keras"
    folder = unpacked(packed, tmp_path / "model")
    expected = vocabularies(layergraph.load_model(packed))
    assert sum(one is not None for one in expected) > 3
    assert vocabularies(layergraph.load_model(folder)) == expected


def test_assets_belong_to_the_files_of_the_model(tmp_path: Path) -> None:
    """A change of one of them loads the model again."""
    folder = unpacked(FIXTURES.parent / "text" / "keras3.keras", tmp_path / "model")
    with open_archive(folder) as archive:
        found = {path.relative_to(folder) for path in archive.files}
    written = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert {path for path in written if path.parts[0] == "assets"} <= found <= written


def test_assets_behind_links_are_not_read(tmp_path: Path) -> None:
    folder = unpacked(FIXTURES.parent / "text" / "keras3.keras", tmp_path / "model")
    name = "layers/string_lookup/vocabulary.txt"
    with open_archive(folder) as archive:
        assert archive.asset(name)
        assert archive.asset("../config.json") is None
        assert archive.asset("layers/string_lookup") is None
    with open_archive(folder, LoadLimits(asset_bytes=40_000)) as archive:
        (folder / "assets" / name).write_bytes(bytes(40_001))
        with pytest.raises(CorruptFileError, match="has 40001 bytes, expected at most 40000"):
            archive.asset(name)
    (folder / "assets" / "layers").rename(tmp_path / "layers")
    (folder / "assets" / "layers").symlink_to(tmp_path / "layers")
    with open_archive(folder) as archive:
        assert archive.asset(name) is None
    (folder / "assets" / "layers").unlink()
    (folder / "assets" / "layers" / "string_lookup").mkdir(parents=True)
    (folder / "assets" / name).symlink_to(tmp_path / "layers" / "string_lookup" / "vocabulary.txt")
    with open_archive(folder) as archive:
        assert archive.asset(name) is None


def test_training_goes_on_as_from_the_zip(tmp_path: Path) -> None:
    model = layergraph.Sequential([layergraph.Input((2,)), layers.Dense(1)])
    model.compile("adam", "mse")
    x, y = np.ones((4, 2)), np.zeros((4, 1))
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "model.keras")
    packed = layergraph.load_model(tmp_path / "model.keras")
    loose = layergraph.load_model(unpacked(tmp_path / "model.keras", tmp_path / "model"))
    assert loose.optimizer is not None
    assert loose.optimizer.iterations == 1
    assert loose.file_suffix == ".keras"
    for one in (packed, loose):
        one.fit(x, y, verbose=0, shuffle=False)
    np.testing.assert_array_equal(loose.get_weights()[0], packed.get_weights()[0])
