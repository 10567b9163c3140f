"""Data files that the server reads: what is in them, and that nothing outside of the root is."""

from __future__ import annotations

import os
import struct
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from layerserve.values.table_files.csv_table import CsvTable
from layerserve.values.table_files.table import Selection
from layerserve_server.datasets import reader
from layerserve_server.datasets.data_file import DataFile
from layerserve_server.errors import (
    ForbiddenPathError,
    InvalidRequestError,
    InvalidTensorError,
    NotTrainableError,
    TooLargeError,
)
from layerserve_server.training.request import DataArray, Role
from layerserve_server.training.run_folder.data import array_file, read_data
from peak_memory import PeakMemory

X = np.arange(24, dtype=np.float32).reshape(8, 3)


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    (folder / "sub").mkdir(parents=True)
    np.save(folder / "sub" / "x.npy", X)
    return folder


def file_of(root, path):
    return DataFile(str(root), path)


def describe(root, path, key=""):
    return reader.describe(file_of(root, path), [Selection(key=key)])[1][0]


def array_of(root, path, *selections, name="x"):
    """Arrays of a run in a file, once that is described."""
    file, found = reader.describe(file_of(root, path), selections)
    return tuple(
        DataArray(Role.X, name, one.dtype, one.shape, file, Selection(one.columns, fill=one.fill), one.mapped)
        for one in found
    )


def read(root, tmp_path, path, key=""):
    """The array as a run reads it: described first, then mapped, or unpacked into its folder."""
    (array,) = array_of(root, path, Selection(key=key))
    (tmp_path / "run").mkdir(parents=True, exist_ok=True)
    (values,) = read_data(tmp_path / "run", (array,))
    assert values.shape == array.shape
    return array, values


def parquet(path, **columns):
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path)


def test_an_npy_file_is_mapped(root, tmp_path):
    found, values = read(root, tmp_path, "sub/x.npy")
    assert (found.dtype, found.shape, found.mapped) == ("float32", (8, 3), True)
    assert isinstance(values, np.memmap)
    np.testing.assert_array_equal(values, X)
    assert not array_file(tmp_path / "run", 0).exists()


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
    with pytest.raises(InvalidRequestError, match="a compressed array can't be mapped"):
        reader.mapped(found.file, found.in_file)
    held = array_file(tmp_path / "run", 0)
    before = held.stat().st_mtime_ns
    read(root, tmp_path, "packed.npz")
    assert held.stat().st_mtime_ns == before


def test_columns_of_a_parquet_file(root, tmp_path):
    parquet(root / "t.parquet", a=[1.0, 2.0, 3.0], b=[4, 5, 6], text=["x", "y", "z"])
    found, values = read(root, tmp_path / "one", "t.parquet", "b")
    assert (found.dtype, values.take(slice(0, 3)).tolist()) == ("int64", [4, 5, 6])
    found, values = read(root, tmp_path / "two", "t.parquet", "a,b")
    assert (found.dtype, values.take(slice(0, 3)).tolist()) == ("float64", [[1, 4], [2, 5], [3, 6]])
    with pytest.raises(InvalidTensorError, match=r"got columns of numbers and of text \('text'\), expected one kind"):
        describe(root, "t.parquet", "a,text")
    with pytest.raises(InvalidRequestError, match="unknown column 'c'"):
        describe(root, "t.parquet", "c")


TEXTS = ["", "a", "über", "b" * 300, "", "z"]


def test_text_of_a_file_is_unpacked(root, tmp_path):
    rows = np.array(TEXTS).reshape(3, 2)
    encoded = [text.encode() for text in TEXTS]
    np.save(root / "u.npy", rows)
    np.save(root / "s.npy", np.array(encoded).reshape(3, 2))
    np.save(root / "big.npy", rows.astype(rows.dtype.newbyteorder(">")))
    np.savez(root / "plain.npz", x=rows)
    np.savez_compressed(root / "packed.npz", x=rows)
    for path in ("u.npy", "s.npy", "big.npy", "plain.npz", "packed.npz"):
        found, text = read(root, tmp_path / path, path)
        assert (found.dtype, found.shape, found.mapped) == ("string", (3, 2), False)
        assert text.take(slice(0, 3)).ravel().tolist() == encoded, path
        assert read(root, tmp_path / path, path)[1].take(slice(1, 2)).tolist() == [encoded[2:4]]


def test_columns_of_text(root, tmp_path):
    import pyarrow

    words = pyarrow.array(TEXTS)
    kinds = {
        "plain": words,
        "large": words.cast(pyarrow.large_string()),
        "categories": words.dictionary_encode(),
        "bytes": words.cast(pyarrow.binary()),
    }
    parquet(
        root / "t.parquet", **kinds, structs=[{"text": text} for text in TEXTS], nulls=["a", None, "b", "c", "d", "e"]
    )
    encoded = [text.encode() for text in TEXTS]
    for kind in kinds:
        found, text = read(root, tmp_path / kind, "t.parquet", kind)
        assert (found.dtype, found.shape) == ("string", (6,))
        assert text.take(slice(0, 6)).tolist() == encoded, kind
    _, text = read(root, tmp_path / "two", "t.parquet", "plain,bytes")
    assert text.take(slice(1, 3)).tolist() == [[encoded[1]] * 2, [encoded[2]] * 2]
    with pytest.raises(InvalidTensorError, match=r"column 'structs' has type struct.*expected numbers, text or dates"):
        describe(root, "t.parquet", "structs")
    with pytest.raises(InvalidTensorError, match="column 'nulls', row 2: got no value"):
        describe(root, "t.parquet", "nulls")


def test_columns_of_one_file_are_unpacked_in_one_pass_by_one_of_several_workers(root, tmp_path, monkeypatch):
    (root / "t.csv").write_text("a,b\n1,x\n2,y\n")
    arrays = array_of(root, "t.csv", Selection(("a",)), Selection(("b",), text=True))
    original, passes, together = reader.unpack, [], threading.Barrier(4)

    def unpack(file, wanted):
        passes.append(len(wanted))
        original(file, wanted)

    def work():
        together.wait()
        numbers, texts = read_data(tmp_path, arrays)
        return numbers.tolist(), texts.take(slice(0, 2)).tolist()

    monkeypatch.setattr(reader, "unpack", unpack)
    with ThreadPoolExecutor(4) as pool:
        results = [future.result() for future in [pool.submit(work) for _ in range(4)]]
    assert results == [([1, 2], [b"x", b"y"])] * 4
    assert passes == [2]


def test_text_that_outgrows_the_disk_is_refused(root, tmp_path):
    # A kilobyte in the file, 60 megabytes of text.
    deflated(root / "t.npz", "words.npy", header((600,), "|S100000") + b"x" * 60_000_000)
    (array,) = array_of(root, "t.npz", Selection(key="words"))
    with (
        PeakMemory() as memory,
        pytest.raises(TooLargeError, match="x 'x': got more than 5000000 bytes of text"),
    ):
        read_data(tmp_path, (array,), 5_000_000)
    assert memory.growth < 30_000_000
    assert not array_file(tmp_path, 0).exists()


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.array(["a"], object), "expected numbers or text; NumPy pickles objects, save text as an array of str"),
        (np.asfortranarray([["a", "b"], ["c", "d"]]), "got text in column-major order, expected row-major order"),
        (np.zeros(3, "datetime64[s]"), "got type datetime64"),
    ],
    ids=["objects", "fortran", "dates"],
)
def test_arrays_that_are_no_text(root, array, text):
    np.save(root / "a.npy", array)
    with pytest.raises(InvalidTensorError) as caught:
        describe(root, "a.npy", "")
    assert text in str(caught.value)


def test_nulls_are_no_numbers(root, tmp_path):
    parquet(root / "t.parquet", a=[1.0, None])
    with pytest.raises(InvalidTensorError, match="column 'a', row 2: got no value"):
        read(root, tmp_path, "t.parquet", "a")


@pytest.mark.parametrize(
    "path",
    [
        *("../x.npy", "/etc/x.npy", "sub/../../x.npy", "sub//x.npy", "./sub/x.npy", "sub\0/x.npy"),
        # The state folder of models below the data root.
        "models/.layerserve/datasets/1/content.npz",
    ],
)
def test_a_path_that_leads_out_is_forbidden(root, path):
    np.save(root.parent / "x.npy", X)
    with pytest.raises(ForbiddenPathError, match="expected a path below the data root"):
        describe(root, path, "")


def test_symbolic_links_are_never_followed(root):
    np.save(root.parent / "secret.npy", X)
    (root / "file.npy").symlink_to(root.parent / "secret.npy")
    (root / "inner.npy").symlink_to(root / "sub" / "x.npy")
    (root / "folder").symlink_to(root.parent)
    for path in ("file.npy", "inner.npy", "folder/secret.npy"):
        with pytest.raises(ForbiddenPathError, match="is a symbolic link"):
            describe(root, path, "")


@pytest.mark.parametrize(
    ("path", "key", "text"),
    [
        ("sub/y.npy", "", "data file 'sub/y.npy': No such file or directory"),
        ("sub", "", "got no suffix, expected .npy, .npz, .csv, .tsv, .parquet"),
        ("sub/x.txt", "", "got .txt"),
        ("sub/x.npy", "x", "expected no key"),
        ("sub/x.npy/x.npy", "", "Not a directory"),
        ("two.npz", "", "the file has 2 arrays, expected a key: a, b"),
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
        describe(root, path, key)


def test_objects_are_no_numbers(root):
    np.save(root / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidTensorError, match="got type object, expected numbers"):
        describe(root, "o.npy", "")


def test_a_file_that_is_shorter_than_its_array_is_told(root, tmp_path):
    whole = (root / "sub" / "x.npy").read_bytes()
    (root / "short.npy").write_bytes(whole[:-8])
    with pytest.raises(InvalidTensorError, match="shorter than its array: got 88 bytes, expected 96"):
        describe(root, "short.npy", "")


def test_a_file_that_changes_between_request_and_training_is_told(root, tmp_path):
    array, _ = read(root, tmp_path, "sub/x.npy")
    os.utime(root / "sub" / "x.npy", ns=(0, 0))
    with pytest.raises(InvalidRequestError, match="has changed since the run was accepted"):
        read_data(tmp_path, (array,))
    read_data(tmp_path, (replace(array, file=file_of(root, "sub/x.npy")),))


def test_a_server_without_a_root_reads_nothing():
    with pytest.raises(NotTrainableError, match=r"it has no data root \(--data-root\)$"):
        DataFile("", "x.npy").check()


def test_parquet_says_what_to_install(root, monkeypatch):
    parquet(root / "t.parquet", a=[1.0])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(NotTrainableError, match="requires pyarrow on the server: pip install pyarrow"):
        describe(root, "t.parquet", "a")


# Files that say more than they have.


def header(shape, descr="<f4", version=(1, 0)):
    """The beginning of a .npy file."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + text


def deflated(path, name, data, *, claimed=None):
    """A zip file of one member, whose table of contents says that it has `claimed` bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, data)
    if claimed is not None:
        whole = bytearray(path.read_bytes())
        struct.pack_into("<I", whole, whole.rfind(b"PK\1\2") + 24, claimed)
        path.write_bytes(whole)


def damaged_files(root):
    """Files by what is wrong with them."""
    plenty = header((10**9, 4))
    (root / "short.npy").write_bytes(header((8, 3)) + bytes(95))
    (root / "lying.npy").write_bytes(plenty)
    (root / "negative.npy").write_bytes(header((-1, 3)) + bytes(96))
    (root / "huge.npy").write_bytes(header((10**40, 10**40)) + bytes(96))
    (root / "axes.npy").write_bytes(header((1,) * 40) + bytes(96))
    (root / "long.npy").write_bytes(b"\x93NUMPY\2\0" + (2**31).to_bytes(4, "little"))
    (root / "deep.npy").write_bytes(b"\x93NUMPY\1\0" + (9000).to_bytes(2, "little") + b"(" * 9000)
    (root / "record.npy").write_bytes(header((8,), [("a", "<f4")]) + bytes(32))
    (root / "wide.npy").write_bytes(header((8,), ("<f4", (10**9,))) + bytes(32))
    deflated(root / "few.npz", "x.npy", header((8, 3)) + bytes(95))
    deflated(root / "many.npz", "x.npy", plenty)
    deflated(root / "claims.npz", "x.npy", plenty, claimed=2**32 - 2)
    deflated(root / "bomb.npz", "x.npy", header((8, 3)) + bytes(10**7), claimed=100)
    deflated(root / "more.npz", "x.npy", header((8, 3)) + bytes(10**7))
    np.savez(root / "cut.npz", x=X)
    stored = (root / "cut.npz").read_bytes()
    (root / "cut.npz").write_bytes(stored[: len(stored) // 2])
    with zipfile.ZipFile(root / "lzma.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", header((8, 3)) + bytes(96))
    np.savez_compressed(root / "flipped.npz", x=np.random.default_rng(0).standard_normal((8, 3)))
    flipped = bytearray((root / "flipped.npz").read_bytes())
    flipped[150] ^= 0xFF
    (root / "flipped.npz").write_bytes(flipped)
    parquet(root / "whole.parquet", a=np.arange(10000.0))
    whole = bytearray((root / "whole.parquet").read_bytes())
    whole[100:200] = bytes(100)
    (root / "zeros.parquet").write_bytes(whole)
    return sorted(path.name for path in root.iterdir() if path.is_file() and path.name != "whole.parquet")


def test_files_that_are_damaged_or_lie_are_refused_when_they_are_described(root):
    limit = 64_000_000
    for name in damaged_files(root):
        with PeakMemory() as memory, pytest.raises(InvalidRequestError) as caught:  # InvalidTensorError among them
            describe(root, name, "")
        assert name in str(caught.value)
        assert memory.growth < limit, name


def test_a_packed_array_is_no_longer_than_it_says(root, tmp_path, monkeypatch):
    # Too large to be counted before the run.
    monkeypatch.setattr(reader, "COUNTED_BYTES", 0)
    deflated(root / "more.npz", "x.npy", header((8, 3)) + bytes(10**7))
    (array,) = array_of(root, "more.npz", Selection(key="x"))
    with pytest.raises(InvalidTensorError, match="got more than 96 bytes, expected 96"):
        read_data(tmp_path, (array,))
    # No more than one piece beyond it was written.
    assert array_file(tmp_path, 0).with_suffix(".part").stat().st_size < 1000


def test_a_csv_file_is_read_once_to_be_described(root, monkeypatch):
    (root / "a.csv").write_text("a,b\n1,2\n")
    monkeypatch.setattr(CsvTable, "pieces", None)
    assert describe(root, "a.csv", "b").shape == (1,)
