"""Weights of Keras 3 in several files, with an index."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from layergraph.archive import open_archive
from layergraph.errors import CorruptFileError, ModelFileError, UnsafeFileError
from layergraph.models.loading import load_model

LAYERS: list[dict[str, Any]] = [
    {"class_name": "InputLayer", "config": {"batch_shape": [None, 2], "dtype": "float32", "name": "x"}},
    {"class_name": "Dense", "config": {"name": "a", "trainable": True, "units": 3}},
    {"class_name": "Dense", "config": {"name": "b", "trainable": True, "units": 1}},
]
CONFIG = {"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": LAYERS}}
SHARDS = {
    "model_00000.weights.h5": {"layers/dense/vars/0": np.ones((2, 3), "f4")},
    "model_00001.weights.h5": {
        "layers/dense/vars/1": np.arange(3, dtype="f4"),
        "layers/dense_1/vars/0": np.ones((3, 1), "f4"),
        "layers/dense_1/vars/1": np.zeros(1, "f4"),
    },
}


def write(folder: Path, *names: str) -> Path:
    """A folder whose index lists files; by default those that it has."""
    (folder / "model.json").write_text(json.dumps(CONFIG))
    places = {f"/{index}/vars": [name] for index, name in enumerate(names or SHARDS)}
    (folder / "model.weights.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for name, arrays in SHARDS.items():
        with h5py.File(folder / name, "w") as file:
            for path, array in arrays.items():
                file[path] = array
    return folder


def test_a_group_may_be_in_several_files(tmp_path: Path) -> None:
    model = load_model(write(tmp_path))
    assert model.predict(np.ones((1, 2)), verbose=0).tolist() == [[9.0]]
    with open_archive(tmp_path) as archive:
        names = {path.name for path in archive.files}
    assert names == {"model.json", "model.weights.json", *SHARDS}


def test_a_closed_archive_holds_no_file_open(tmp_path: Path) -> None:
    gc.collect()
    before = h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)
    archive = open_archive(write(tmp_path))
    assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) == before + len(SHARDS)
    archive.close()
    assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE) == before


def test_a_file_that_is_missing_or_elsewhere_is_named(tmp_path: Path) -> None:
    write(tmp_path, *SHARDS, "model_00002.weights.h5", "../x.h5")
    with pytest.raises(CorruptFileError, match=r"lacks 2 of its 4 files next to it: 'model_00002\.weights\.h5'"):
        load_model(tmp_path)


def test_without_one_of_the_files_the_layer_is_named(tmp_path: Path) -> None:
    write(tmp_path, "model_00000.weights.h5")
    with pytest.raises(CorruptFileError, match=r"layer 'a'.*has 1 weights.*layer 'b'.*has no weights"):
        load_model(tmp_path)


@pytest.mark.parametrize("text", ["{}", "[]", '{"weight_map": []}', '{"weight_map": {"a": [1]}}', "{"])
def test_what_is_no_index_is_refused(text: str, tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "model.weights.json").write_text(text)
    with pytest.raises(CorruptFileError, match=r"^model\.weights\.json: "):
        load_model(tmp_path)


def test_links_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    name = next(iter(SHARDS))
    (tmp_path / name).rename(tmp_path / "other")
    (tmp_path / name).symlink_to(tmp_path / "other")
    with pytest.raises(ModelFileError):
        load_model(tmp_path)
    (tmp_path / "index").write_text((tmp_path / "model.weights.json").read_text())
    (tmp_path / "model.weights.json").unlink()
    (tmp_path / "model.weights.json").symlink_to(tmp_path / "index")
    with pytest.raises((CorruptFileError, UnsafeFileError)):
        load_model(tmp_path)
