"""Data files that the server reads: what is in them, and that nothing outside of the root is."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from layerserve_server.errors import ForbiddenPathError, InvalidRequestError, InvalidTensorError, NotTrainableError
from layerserve_server.training import data_root
from layerserve_server.training.request import DataArray, Role
from layerserve_server.training.spool import data_file, read_data

X = np.arange(24, dtype=np.float32).reshape(8, 3)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    (folder / "sub").mkdir(parents=True)
    np.save(folder / "sub" / "x.npy", X)
    return folder


def read(root, tmp_path, path, key=""):
    """The array as a run reads it: described first, then mapped, or unpacked into its folder."""
    found = data_root.describe(root, path, key)
    array = DataArray(Role.X, "x", found.dtype, found.shape, path, key, found.mapped, found.stamp)
    (tmp_path / "run").mkdir(parents=True, exist_ok=True)
    (values,) = read_data(tmp_path / "run", (array,), root)
    assert values.shape == found.shape
    return found, values


def parquet(path, **columns):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path)


def test_an_npy_file_is_mapped(root, tmp_path):
    found, values = read(root, tmp_path, "sub/x.npy")
    assert (found.dtype, found.shape, found.mapped) == ("float32", (8, 3), True)
    assert isinstance(values, np.memmap)
    np.testing.assert_array_equal(values, X)
    assert not data_file(tmp_path / "run", 0).exists()


@pytest.mark.parametrize("array", [np.asfortranarray(X), X.astype(">f8"), X[:0], X[0], X > 5], ids=str)
def test_arrays_of_any_layout_are_read(root, tmp_path, array):
    np.save(root / "a.npy", array)
    np.savez_compressed(root / "a.npz", a=array)
    for path in ("a.npy", "a.npz"):
        np.testing.assert_array_equal(read(root, tmp_path / path, path)[1], array)


def test_an_array_in_an_archive_is_mapped_where_it_lies_uncompressed(root, tmp_path):
    np.savez(root / "plain.npz", x=X, y=np.arange(8))
    found, values = read(root, tmp_path, "plain.npz", "x")
    assert found.mapped
    assert isinstance(values, np.memmap)
    np.testing.assert_array_equal(values, X)
    np.testing.assert_array_equal(read(root, tmp_path, "plain.npz", "y")[1], np.arange(8))


def test_a_compressed_array_is_unpacked_once(root, tmp_path):
    np.savez_compressed(root / "packed.npz", x=X)
    found, values = read(root, tmp_path, "packed.npz")
    assert not found.mapped
    np.testing.assert_array_equal(values, X)
    held = data_file(tmp_path / "run", 0)
    before = held.stat().st_mtime_ns
    read(root, tmp_path, "packed.npz")
    assert held.stat().st_mtime_ns == before


def test_columns_of_a_parquet_file(root, tmp_path):
    parquet(root / "t.parquet", a=[1.0, 2.0, 3.0], b=[4, 5, 6], text=["x", "y", "z"])
    found, values = read(root, tmp_path / "one", "t.parquet", "b")
    assert (found.dtype, values.tolist()) == ("int64", [4, 5, 6])
    found, values = read(root, tmp_path / "two", "t.parquet", "a,b")
    assert (found.dtype, values.tolist()) == ("float64", [[1, 4], [2, 5], [3, 6]])
    with pytest.raises(InvalidTensorError, match="column 'text' has type string, expected numbers"):
        data_root.describe(root, "t.parquet", "text")
    with pytest.raises(InvalidRequestError, match="unknown column 'c'"):
        data_root.describe(root, "t.parquet", "c")


def test_nulls_are_no_numbers(root, tmp_path):
    parquet(root / "t.parquet", a=[1.0, None])
    with pytest.raises(InvalidTensorError, match="column 'a' has nulls"):
        read(root, tmp_path, "t.parquet", "a")


@pytest.mark.parametrize(
    "path", ["../x.npy", "/etc/x.npy", "sub/../../x.npy", "sub//x.npy", "./sub/x.npy", "sub\0/x.npy"]
)
def test_a_path_that_leads_out_is_forbidden(root, path):
    np.save(root.parent / "x.npy", X)
    with pytest.raises(ForbiddenPathError, match="expected a path below the data root"):
        data_root.describe(root, path, "")


def test_symbolic_links_are_never_followed(root):
    np.save(root.parent / "secret.npy", X)
    (root / "file.npy").symlink_to(root.parent / "secret.npy")
    (root / "inner.npy").symlink_to(root / "sub" / "x.npy")
    (root / "folder").symlink_to(root.parent)
    for path in ("file.npy", "inner.npy", "folder/secret.npy"):
        with pytest.raises(ForbiddenPathError, match="is a symbolic link"):
            data_root.describe(root, path, "")


@pytest.mark.parametrize(
    ("path", "key", "text"),
    [
        ("sub/y.npy", "", "data file 'sub/y.npy': No such file or directory"),
        ("sub", "", "got no suffix, expected .npy, .npz, .parquet"),
        ("sub/x.csv", "", "got .csv"),
        ("sub/x.npy", "x", "expected no key"),
        ("sub/x.npy/x.npy", "", "Not a directory"),
        ("two.npz", "", "has 2 arrays, expected a key: a, b"),
        ("two.npz", "c", "unknown key 'c'"),
        ("rubbish.npy", "", "rubbish.npy"),
        ("rubbish.npz", "", "rubbish.npz"),
        ("rubbish.parquet", "", "rubbish.parquet"),
        ("pipe.npy", "", "expected a regular file"),
    ],
)
def test_files_that_are_none(root, path, key, text):
    np.savez(root / "two.npz", a=X, b=X)
    for suffix in ("npy", "npz", "parquet"):
        (root / f"rubbish.{suffix}").write_bytes(b"rubbish" * 10)
    os.mkfifo(root / "pipe.npy")
    with pytest.raises(InvalidRequestError, match=text):
        data_root.describe(root, path, key)


def test_objects_are_no_numbers(root):
    np.save(root / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidTensorError, match="got type object, expected numbers"):
        data_root.describe(root, "o.npy", "")


def test_a_file_that_is_shorter_than_its_array_is_told(root, tmp_path):
    whole = (root / "sub" / "x.npy").read_bytes()
    (root / "short.npy").write_bytes(whole[:-8])
    with pytest.raises(InvalidTensorError, match="shorter than its array"):
        read(root, tmp_path, "short.npy")


def test_a_file_that_changes_between_request_and_training_is_told(root, tmp_path):
    found, _ = read(root, tmp_path, "sub/x.npy")
    array = DataArray(Role.X, "x", found.dtype, found.shape, "sub/x.npy", "", True, found.stamp)
    os.utime(root / "sub" / "x.npy", ns=(0, 0))
    with pytest.raises(InvalidRequestError, match="has changed since the run was accepted"):
        read_data(tmp_path, (array,), root)
    read_data(tmp_path, (replace(array, stamp=()),), root)


def test_a_server_without_a_root_reads_nothing():
    with pytest.raises(NotTrainableError, match="it has no data root"):
        data_root.describe(None, "x.npy", "")


def test_parquet_says_what_to_install(root, monkeypatch):
    parquet(root / "t.parquet", a=[1.0])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(NotTrainableError, match=r"layerserve\[parquet\]"):
        data_root.describe(root, "t.parquet", "a")
