"""Spool: what of a run's data belongs to which array, and that it is what was sent."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest
from failing_files import fail_writes
from layerserve.values import tensors
from layerserve_server.datasets.data_file import DataFile
from layerserve_server.errors import (
    IncompleteDataError,
    InvalidRequestError,
    InvalidTensorError,
    NotTrainableError,
    TooLargeError,
)
from layerserve_server.training.request import DataArray, Role
from layerserve_server.training.run_folder.data import array_file, read_data
from layerserve_server.training.run_folder.upload import Upload
from open_files import open_below

X = np.arange(12, dtype=np.float32).reshape(6, 2)
A, B = (DataArray(role, role.value, "float32", (6, 2)) for role in (Role.X, Role.Y))


def array(role="x", dtype="float32", shape=(6, 2)):
    return DataArray(Role(role), "", dtype, shape)


def test_chunks_of_arrays_that_take_turns_become_arrays(tmp_path):
    arrays = (array(), array("y", dtype="bfloat16", shape=(6,)), array("sample_weight", dtype="bool", shape=(6,)))
    y, w = np.arange(6, dtype=np.float32), np.array([True, False] * 3)
    with Upload(tmp_path, arrays) as upload:
        for start in (0, 2, 4):
            rows = slice(start, start + 2)
            upload.add(0, tensors.encode_data(X[rows], "float32"))
            upload.add(1, tensors.encode_data(y[rows], "bfloat16"))
            upload.add(2, tensors.encode_data(w[rows], "bool"))
        upload.check_complete()
    for got, expected in zip(read_data(tmp_path, arrays), (X, y, w), strict=True):
        assert got.dtype == expected.dtype
        np.testing.assert_array_equal(got, expected)


def test_arrays_without_elements_need_no_chunk(tmp_path):
    arrays = (array(shape=(6, 0)),)
    with Upload(tmp_path, arrays) as upload:
        upload.check_complete()
    assert read_data(tmp_path, arrays)[0].shape == (6, 0)


@pytest.mark.parametrize(
    ("index", "data", "error", "text"),
    [
        (1, b"", InvalidRequestError, "got a chunk for array 1, but the spec declares 1 arrays"),
        (-1, b"", InvalidRequestError, "got a chunk for array -1"),
        (0, bytes(7), InvalidTensorError, "x: got a chunk of 7 bytes, expected whole rows of 8 bytes each"),
        (0, bytes(56), InvalidRequestError, "x: got more than the 6 rows"),
    ],
)
def test_chunks_that_do_not_fit(tmp_path, index, data, error, text):
    with Upload(tmp_path, (array(),)) as upload, pytest.raises(error) as caught:
        upload.add(index, data)
    assert text in str(caught.value)


def test_chunks_of_text_become_rows(tmp_path):
    texts = np.array([["", "a"], ["über", "b" * 300], ["", ""]], object)
    arrays = (array("x", dtype="string", shape=(3, 2)), array())
    with Upload(tmp_path, arrays) as upload:
        upload.add(0, tensors.encode_data(texts[:1], "string"))
        upload.add(1, X.tobytes())
        upload.add(0, tensors.encode_data(texts[1:], "string"))
        upload.check_complete()
    text, numbers = read_data(tmp_path, arrays)
    assert text.shape == (3, 2)
    assert text.take(slice(0, 3)).tolist() == [[t.encode() for t in row] for row in texts.tolist()]
    np.testing.assert_array_equal(numbers, X)


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (b"\x01\0\0", InvalidTensorError, "got a chunk that ends within text 0, expected whole texts"),
        (b"\x01\0\0\0", InvalidTensorError, "got a chunk that ends within text 0"),
        (b"\x01\0\0\0a\xff\xff\xff\xffb", InvalidTensorError, "got a chunk that ends within text 1"),
        (bytes(4), InvalidTensorError, "got a chunk of 1 texts, expected whole rows of 2 texts each"),
        (bytes(4 * 8), InvalidRequestError, "got more than the 3 rows that the spec declares"),
        (b"\x0b\0\0\0abcdefghijk" + bytes(4), TooLargeError, "got more than 10 bytes of text"),
    ],
)
def test_chunks_of_text_that_do_not_fit(tmp_path, data, error, text):
    with Upload(tmp_path, (array("x", dtype="string", shape=(3, 2)),), 10) as upload:
        with pytest.raises(error) as caught:
            upload.add(0, data)
        assert text in str(caught.value)
        with pytest.raises(IncompleteDataError, match="the stream ended after 0 rows, expected 3"):
            upload.check_complete()


def test_text_without_a_byte(tmp_path):
    arrays = (array("x", dtype="string", shape=(3,)), array("x", dtype="string", shape=(3, 0)))
    with Upload(tmp_path, arrays) as upload:
        upload.add(0, bytes(12))
        upload.check_complete()
    texts, none = read_data(tmp_path, arrays)
    assert texts.take(slice(0, 3)).tolist() == [b"", b"", b""]
    assert none.take(slice(0, 3)).shape == (3, 0)


def test_rows_that_are_missing_are_told(tmp_path):
    with Upload(tmp_path, (array(),)) as upload:
        upload.add(0, bytes(16))
        with pytest.raises(IncompleteDataError, match="x: the stream ended after 2 rows, expected 6"):
            upload.check_complete()


def test_the_data_is_mapped_and_not_read(tmp_path):
    with Upload(tmp_path, (array(),)) as upload:
        upload.add(0, X.tobytes())
    assert isinstance(read_data(tmp_path, (array(),))[0], np.memmap)
    assert array_file(tmp_path, 0).exists()


@pytest.mark.parametrize("index", [-1, 2])
def test_a_digest_of_no_array_is_told(tmp_path, index):
    with Upload(tmp_path, (A, B)) as upload, pytest.raises(InvalidRequestError) as caught:
        upload.check_digest(index, b"")
    assert str(caught.value) == f"got a digest for array {index}, but the spec declares 2 arrays"


@pytest.mark.parametrize("index", [0, 1])
def test_each_array_has_its_own_digest(tmp_path, index):
    sent = [X.tobytes(), (X + 1).tobytes()]
    with Upload(tmp_path, (A, B)) as upload:
        for place, data in enumerate(sent):
            upload.add(place, data[:16])
            upload.add(place, data[16:])
        upload.check_digest(index, hashlib.sha256(sent[index]).digest())
        other = hashlib.sha256(sent[1 - index])
        with pytest.raises(IncompleteDataError) as caught:
            upload.check_digest(index, other.digest())
    label, got = "xy"[index], hashlib.sha256(sent[index]).hexdigest()
    assert str(caught.value) == f"{label} '{label}': got data with sha256 {got}, expected {other.hexdigest()}"


def test_an_array_in_a_file_takes_no_chunk_and_lacks_none(tmp_path):
    filed = DataArray(Role.X, "x", "float32", (6, 2), DataFile("", "x.npy"))
    with Upload(tmp_path, (filed, B)) as upload:
        upload.add(1, X.tobytes())
        upload.check_complete()
        with pytest.raises(
            InvalidRequestError, match="x 'x': got a chunk, expected none for an array read from a file"
        ):
            upload.add(0, X.tobytes())
    assert sorted(os.listdir(tmp_path / "data")) == ["1.npy"]


def test_a_folder_that_can_not_be_written_is_told_and_nothing_stays_open(tmp_path):
    (tmp_path / "data" / "1.npy").mkdir(parents=True)  # the second of two files can't be made
    with pytest.raises(NotTrainableError, match="the data can't be stored: Is a directory"):
        Upload(tmp_path, (A, B))
    assert open_below(tmp_path) == []


TEXT = DataArray(Role.X, "x", "string", (6, 2))


@pytest.mark.parametrize("array", [A, TEXT])
def test_data_whose_last_bytes_can_not_be_written_is_not_complete(tmp_path, array):
    with Upload(tmp_path, (array, B)) as upload:
        file = upload._sent[0].file
        for one in (file._file,) if array is A else (file._content, file._ends):
            fail_writes(one)
        upload.add(0, X.tobytes() if array is A else tensors.encode(np.full((6, 2), "a"), "x").data)
        upload.add(1, X.tobytes())
        with pytest.raises(NotTrainableError, match="the data can't be stored: Bad file descriptor"):
            upload.check_complete()
    assert open_below(tmp_path) == []
    assert not (tmp_path / "digests.json").exists()


def test_an_upload_that_ends_early_ends_with_its_own_error(tmp_path):
    with Upload(tmp_path, (A, TEXT)) as upload:
        for one in (upload._sent[0].file._file, upload._sent[1].file._content, upload._sent[1].file._ends):
            fail_writes(one)
        upload.add(0, X[:1].tobytes())
        with pytest.raises(IncompleteDataError):
            upload.check_complete()
    assert open_below(tmp_path) == []


@pytest.mark.parametrize("array", [A, TEXT])
@pytest.mark.parametrize("damage", ["empty", "zeros", "cut", "another shape", "another type"])
def test_data_that_is_damaged_is_named(tmp_path, array, damage):
    with Upload(tmp_path, (array,)) as upload:
        upload.add(0, X.tobytes() if array is A else tensors.encode(np.full((6, 2), "a"), "x").data)
    read_data(tmp_path, (array,))
    path = tmp_path / "data" / "0.npy"
    held = np.load(path)
    if damage in ("empty", "zeros", "cut"):
        path.write_bytes({"empty": b"", "zeros": bytes(500), "cut": path.read_bytes()[:-20]}[damage])
    else:
        np.save(path, held[:-1] if damage == "another shape" else held.astype("u1"))
    with pytest.raises(NotTrainableError, match=r"^x 'x': the run's file 0.npy is damaged: "):
        read_data(tmp_path, (array,))


def test_text_that_is_cut_is_named(tmp_path):
    with Upload(tmp_path, (TEXT,)) as upload:
        upload.add(0, tensors.encode(np.full((6, 2), "a"), "x").data)
    (tmp_path / "data" / "0.text").write_bytes(b"a" * 11)
    with pytest.raises(NotTrainableError, match=r"got int64 of shape \(12,\) for the ends of texts of 11 bytes"):
        read_data(tmp_path, (TEXT,))


def test_all_files_are_closed_when_the_data_has_come(tmp_path):
    with Upload(tmp_path, (A, B)) as upload:
        upload.add(0, X.tobytes())
    assert open_below(tmp_path) == []
