"""Spool: what of a run's data belongs to which array, and that it is what was sent."""

from __future__ import annotations

import hashlib
import os

import numpy as np
import pytest
from failing_files import fail_writes
from layerserve.values import tensors
from layerserve_server.datasets.data_file import DataFile
from layerserve_server.errors import IncompleteDataError, InvalidRequestError, NotTrainableError
from layerserve_server.training.request import DataArray, Role
from layerserve_server.training.run_folder.data import read_data
from layerserve_server.training.run_folder.upload import Upload
from open_files import open_below

X = np.arange(12, dtype=np.float32).reshape(6, 2)
A, B = (DataArray(role, role.value, "float32", (6, 2)) for role in (Role.X, Role.Y))


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
