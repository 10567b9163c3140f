"""Containers: reading valid files."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from layergraph.archive import LoadLimits, StateTree, allocation, open_archive
from layergraph.archive.allocation import uninitialised
from layergraph.archive.files import FileWindow, open_regular
from layergraph.archive.finding import find_model
from layergraph.archive.hdf5 import Hdf5File, LegacyWeights, reading
from layergraph.errors import CorruptFileError, UnsafeFileError

CONFIG = {"class_name": "Sequential", "config": {"name": "s", "layers": []}}


def stored(path: Path, **limits: int) -> Hdf5File:
    """A standalone HDF5 file, opened as by the archive."""
    descriptor = os.open(path, os.O_RDONLY)
    size = path.stat().st_size
    return Hdf5File(FileWindow(descriptor, 0, size, owns=True), path, size, LoadLimits(**limits))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_keras_zip_gives_config_version_and_weights(tmp_path: Path, compression: int) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["layers/dense/vars/0"] = np.arange(6, dtype="f4").reshape(2, 3)
        for index in range(12):
            file[f"optimizer/vars/{index}"] = index
        file[f"optimizer/vars/{'9' * 5000}"] = 0
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
        # Numeric names are sorted as numbers; one that no Keras writes is left out.
        assert [int(a.read()) for a in archive.optimizer_weights] == list(range(12))


@pytest.mark.parametrize("version", ["\ud800", "3.\u202e0", "3." + "0" * 5000, 3, ""])
def test_a_version_that_is_none_is_unknown(tmp_path: Path, version: Any) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["layers/dense/vars/0"] = 1.0
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
        archive.writestr("config.json", json.dumps(CONFIG))
        archive.write(tmp_path / "w.h5", "model.weights.h5")
    with open_archive(tmp_path / "m.keras") as archive:
        assert archive.keras_version is None


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
        layers = archive.weights.layers()
        assert list(layers) == ["second", "a/first"]
        assert [array.read().tolist() for arrays in layers.values() for array in arrays] == [[1.0, 1.0]] * 2
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
        with pytest.raises(UnsafeFileError, match="isn't a regular file"):
            open_archive(path)
    with pytest.raises(CorruptFileError, match="No such file"):
        open_archive(tmp_path / "missing.keras")
    with pytest.raises(CorruptFileError, match="invalid path"):
        open_archive("nul\0byte.keras")


def test_a_large_config_is_read(tmp_path: Path) -> None:
    """HDF5 stores attributes above 64 kB separately."""
    path = tmp_path / "m.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs["model_config"] = json.dumps({**CONFIG, "padding": "x" * 200_000})
        file.create_group("model_weights").attrs["layer_names"] = np.empty(0)
    with open_archive(path) as archive:
        assert len(archive.config["padding"]) == 200_000


def test_a_file_of_weights_alone_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file.create_group("dense")["kernel"] = np.zeros((2, 2))
    with pytest.raises(
        CorruptFileError, match=r"holds weights alone: .*; expected a file that model\.save writes, or a "
    ):
        open_archive(path)


def test_lists_of_names_have_an_end(tmp_path: Path) -> None:
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("g")
        for index in range(4):
            group[str(index)] = index
        group.attrs["whole"] = [b"a", b"b", b"c", b"d"]
        for index in range(2):
            group.attrs[f"split{index}"] = [b"a", b"b"]
        for index in range(5):
            group.attrs[f"single{index}"] = b"a"
        group.attrs["long"] = np.bytes_("x" * 40)
    allowed, refused = (stored(path, names=names, config_bytes=4000).root.group("g") for names in (4, 3))
    assert allowed is not None
    assert refused is not None
    assert allowed.member_names() == ["0", "1", "2", "3"]
    assert allowed.texts("whole") == ["a", "b", "c", "d"]
    assert allowed.texts("split") == ["a", "b", "a", "b"]
    assert allowed.texts("none") is None
    with pytest.raises(CorruptFileError, match="group 'g' has 4 members"):
        refused.member_names()
    with pytest.raises(CorruptFileError, match="attribute 'whole' of 'g/' is too large"):
        refused.texts("whole")
    for name in ("split", "single"):
        with pytest.raises(CorruptFileError, match=f"attribute '{name}' of 'g/' has too many entries"):
            refused.texts(name)
    short, enough = (stored(path, config_bytes=size).root.group("g") for size in (39, 40))
    assert short is not None
    assert enough is not None
    assert enough.text("long") == "x" * 40
    with pytest.raises(CorruptFileError, match="attribute 'long' of 'g/' is too large"):
        short.text("long")


def test_a_text_is_one_text(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["one"], file.attrs["two"] = ["a"], ["a", "b"]
        file.attrs["padded"] = np.array(b"a\0\0", "S3")
        file.attrs["none"] = np.empty(0)
    root = stored(tmp_path / "w.h5").root
    assert (root.text("one"), root.text("padded"), root.text("absent")) == ("a", "a", None)
    assert root.texts("none") == []
    for name in ("two", "none"):
        with pytest.raises(CorruptFileError, match=f"attribute '{name}' of '/' is ndarray, expected text"):
            root.text(name)


def test_paths_lead_to_groups_and_arrays_of_the_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["a/b/c"] = np.arange(3)
    root = stored(tmp_path / "w.h5").root
    group = root.group("a/b")
    assert group is not None
    assert group.name == "a/b"
    array = group.array("c")
    assert array is not None
    assert array.name == "a/b/c"
    assert root.group("a/b/") is not None
    assert root.group("./a//b") is not None
    assert [root.array(path) for path in ("a/c", "a/b/c/d", "x\0", "a/b\0/c")] == [None] * 4
    with pytest.raises(CorruptFileError, match="'a/b/c' isn't a group"):
        root.group("a/b/c")
    with pytest.raises(CorruptFileError, match="'a/b' isn't an array"):
        root.array("a/b")
    assert root.array("d/" * 256 + "e") is None
    with pytest.raises(CorruptFileError, match="is nested too deep"):
        root.array("d/" * 257 + "e")


def test_a_file_without_an_optimizer_has_none_of_its_weights(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["layers/dense/vars/0"] = 1.0
    assert StateTree(stored(tmp_path / "w.h5").root).optimizer_weights() == []


def test_an_array_claims_no_more_than_its_file_explains(tmp_path: Path) -> None:
    """For a chunked array, there is no other indication."""
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("w", data=np.zeros((1000, 100), "f4"), chunks=(1000, 100), compression="gzip")
    size = (tmp_path / "w.h5").stat().st_size
    for floor, refused in ((400_000 - size, False), (400_000 - size - 1, True)):
        array = stored(tmp_path / "w.h5", inflation=1, inflation_floor=floor).root.array("w")
        assert array is not None
        if refused:
            with pytest.raises(CorruptFileError, match="array 'w' claims 400000 bytes, more than the file can hold"):
                array.read()
        else:
            assert array.read().sum() == 0


def test_a_window_is_a_file_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(bytes(range(100)))
    with open_regular(path) as whole:
        part = whole.window(10, 20)
        assert (whole.length, part.length) == (100, 20)
        assert (part.readable(), part.seekable(), part.tell()) == (True, True, 0)
        assert part.read(3) == bytes([10, 11, 12])
        assert part.seek(2, os.SEEK_CUR) == part.tell() == 5
        assert part.read(2) == bytes([15, 16])
        assert part.seek(-2, os.SEEK_END) == 18
        assert part.read() == bytes([28, 29])
        assert part.read() == b""
        assert part.seek(25) == 25
        assert part.read() == b""
        assert part.seek(0) == 0
        assert part.window(5, 5).read() == bytes(range(15, 20))
        with pytest.raises(OSError, match="seek before the start"):
            part.seek(-1)
        assert part.tell() == 0
        assert io.BufferedReader(part).read() == bytes(range(10, 30))
        os.truncate(path, 15)
        part.seek(0)
        assert part.read() == bytes(range(10, 15)), "what the file has lost meanwhile is missed, and nobody waits"


@pytest.mark.parametrize("count", [2**18 - 1, 2**18, 2**18 + 1, 2**20 + 12345])
def test_large_arrays_lie_in_pages_of_their_own(count: int) -> None:
    """2**18 values of 8 bytes fill a huge page."""
    array = uninitialised((count,), np.dtype("f8"))
    assert (array.shape, array.dtype) == ((count,), np.dtype("f8"))
    if count >= 2**18:
        assert array.ctypes.data % 2**21 == 0
    array[:] = 1.5
    other = uninitialised((count, 1), np.dtype("f8"))
    other[:] = 2.5
    assert array.sum() == 1.5 * count
    assert other.sum() == 2.5 * count


def test_without_huge_pages_arrays_lie_in_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory(allocation.mmap.mmap):
        def madvise(self, *advice: int) -> None:
            raise OSError

    monkeypatch.setattr(allocation.mmap, "mmap", Memory)
    array = uninitialised((2**18, 2), np.dtype("f8"))
    array[:] = 1
    assert array.shape == (2**18, 2)


def test_an_array_that_asks_for_more_memory_than_there_is_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    for raised, text in (
        (MemoryError(), "array 'w' needs more memory than is available"),
        (RuntimeError("x" * 300), f"array 'w' can't be read: {'x' * 200}$"),
        (KeyError("name"), "array 'w' can't be read: 'name'"),
    ):
        with pytest.raises(CorruptFileError, match=text), reading(path, "array 'w'"):
            raise raised
    own = UnsafeFileError(path, "is a link")
    with pytest.raises(UnsafeFileError) as caught, reading(path, "array 'w'"):
        raise own
    assert caught.value is own


def test_a_list_of_names_is_text(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.attrs["numbers"] = [1.0, 2.0]
        file.attrs["odd"] = np.array([b"\xff\xfe", b"b"])
    root = stored(tmp_path / "w.h5").root
    with pytest.raises(CorruptFileError, match="attribute 'numbers' of '/' isn't text"):
        root.texts("numbers")
    assert root.texts("odd") == ["\udcff\udcfe", "b"]
