"""Containers: what is read from good files, and how."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from layergraph.archive import LegacyWeights, LoadLimits, StateTree, open_archive
from layergraph.archive.files import FileWindow, find_model
from layergraph.archive.hdf5 import Hdf5File
from layergraph.errors import CorruptFileError, UnsafeFileError

CONFIG = {"class_name": "Sequential", "config": {"name": "s", "layers": []}}


def stored(path: Path) -> Hdf5File:
    """An HDF5 file on its own, opened as the archive opens it."""
    descriptor = os.open(path, os.O_RDONLY)
    size = path.stat().st_size
    return Hdf5File(FileWindow(descriptor, 0, size, owns=True), path, size, LoadLimits())


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_keras_zip_gives_config_version_and_weights(tmp_path: Path, compression: int) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["layers/dense/vars/0"] = np.arange(6, dtype="f4").reshape(2, 3)
        for index in range(12):
            file[f"optimizer/vars/{index}"] = index
    with zipfile.ZipFile(tmp_path / "m.keras", "w", compression) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.8.0"}))
        archive.writestr("config.json", json.dumps({**CONFIG, "compile_config": {"loss": "mse"}}))
        archive.write(tmp_path / "w.h5", "model.weights.h5")
    with open_archive(tmp_path / "m.keras") as archive:
        assert archive.keras_version == "3.8.0"
        assert archive.config["class_name"] == "Sequential"
        assert archive.training_config == {"loss": "mse"}
        assert isinstance(archive.weights, StateTree)
        array = archive.weights.root.array("layers/dense/vars/0")
        assert array is not None
        assert (array.shape, array.dtype) == ((2, 3), "float32")
        np.testing.assert_array_equal(array.read(), np.arange(6, dtype="f4").reshape(2, 3))
        # Numbers sort as numbers.
        assert [int(a.read()) for a in archive.optimizer_weights] == list(range(12))


@pytest.mark.parametrize("user_block", [0, 512, 4096])
@pytest.mark.parametrize("split", [False, True])
def test_legacy_h5_gives_layers_in_order_whatever_its_form(tmp_path: Path, user_block: int, split: bool) -> None:
    path = tmp_path / "m.h5"
    with h5py.File(path, "w", userblock_size=user_block) as file:
        file.attrs["model_config"] = np.bytes_(json.dumps(CONFIG)) if split else json.dumps(CONFIG)
        file.attrs["keras_version"] = "2.4.0"
        group = file.create_group("model_weights")
        names = [b"second", b"empty", b"a/first"]
        if split:
            group.attrs["layer_names0"], group.attrs["layer_names1"] = names[:2], names[2:]
        else:
            group.attrs["layer_names"] = names
        for name in ("second", "a/first"):
            group.create_group(name).attrs["weight_names"] = [f"{name}_1/kernel:0".encode()]
            group[name][f"{name}_1/kernel:0"] = np.ones(2)
        group.create_group("empty").attrs["weight_names"] = np.empty(0)
    with open_archive(path) as archive:
        assert archive.keras_version == "2.4.0"
        assert isinstance(archive.weights, LegacyWeights)
        assert list(archive.weights.layers()) == ["second", "a/first"]
        assert archive.optimizer_weights == []


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (3, 2)},
        {"chunks": (4, 5), "compression": "gzip"},
        {"chunks": (3, 2), "compression": "gzip", "shuffle": True, "fletcher32": True},
        {"chunks": (7, 5), "maxshape": (None, None), "shuffle": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", ">i4", "u1", "?"])
def test_arrays_are_read_in_any_storage_and_type(tmp_path: Path, options: dict[str, Any], dtype: str) -> None:
    values = (np.arange(35).reshape(7, 5) % 2 if dtype == "?" else np.arange(35).reshape(7, 5)).astype(dtype)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("w", data=values, **options)
    array = stored(tmp_path / "w.h5").root.array("w")
    assert array is not None
    got = array.read()
    assert got.dtype == values.dtype.newbyteorder("=")
    assert array.dtype == got.dtype.name
    np.testing.assert_array_equal(got, values)
    array.try_reading()


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_scalars_and_empty_arrays_are_read(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("w", data=np.full(shape, 2.5, "f4"))
    array = stored(tmp_path / "w.h5").root.array("w")
    assert array is not None
    np.testing.assert_array_equal(array.read(), np.full(shape, 2.5, "f4"))


def test_bfloat16_is_read_exactly(tmp_path: Path) -> None:
    values = np.array([0.0, 1.0, -2.5, 3.140625, 1e30], "f4")
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["w"] = (values.view("u4") >> 16).astype("u2").view("V2")
    array = stored(tmp_path / "w.h5").root.array("w")
    assert array is not None
    assert array.dtype == "bfloat16"
    np.testing.assert_array_equal(array.read(), (values.view("u4") & 0xFFFF0000).view("f4"))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["model.keras", "other.h5"], "model.keras"),
        (["model.h5", "model.weights.h5", "golden.npz"], "model.h5"),
        (["resnet.hdf5", "notes.txt"], "resnet.hdf5"),
        (["my.keras"], "my.keras"),
    ],
)
def test_a_version_folder_means_the_model_in_it(tmp_path: Path, names: list[str], found: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert find_model(tmp_path) == tmp_path / found


@pytest.mark.parametrize("names", [[], ["a.keras", "b.h5"], ["notes.txt"]])
def test_a_folder_without_one_clear_model_is_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(CorruptFileError, match="model file"):
        find_model(tmp_path)


def test_a_fifo_or_device_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.keras")
    for path in (tmp_path / "model.keras", tmp_path, Path("/dev/zero")):
        with pytest.raises(UnsafeFileError, match="no regular file"):
            open_archive(path)
    with pytest.raises(CorruptFileError, match="No such file"):
        open_archive(tmp_path / "missing.keras")
    with pytest.raises(CorruptFileError, match="no valid path"):
        open_archive("nul\0byte.keras")


def test_a_large_config_is_read(tmp_path: Path) -> None:
    """Attributes above 64 kB are stored elsewhere in the file."""
    path = tmp_path / "m.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs["model_config"] = json.dumps({**CONFIG, "padding": "x" * 200_000})
        file.create_group("model_weights").attrs["layer_names"] = np.empty(0)
    with open_archive(path) as archive:
        assert len(archive.config["padding"]) == 200_000
