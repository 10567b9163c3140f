"""What is read of the file of a dataset: its arrays and columns, and their first rows."""

from __future__ import annotations

import base64
import zipfile
from dataclasses import asdict

import numpy as np
import pytest
from layerserve.values import tensors
from layerserve_server.datasets import description as descriptions
from layerserve_server.datasets import reader
from layerserve_server.datasets.data_file import DataFile
from layerserve_server.datasets.description import SAMPLE_TEXT, describe_dataset, read_description
from layerserve_server.errors import InvalidRequestError

X = np.arange(24, dtype=np.float32).reshape(8, 3)


def read(folder, name="content.npz"):
    return describe_dataset({"file": asdict(DataFile(str(folder), name))}, None)


def sample(reply, name):
    (array,) = (one for one in reply["arrays"] if one["name"] == name)
    held = reply["samples"][name]
    data = base64.b64decode(held["data"])
    return tensors.decode_data(data, array["dtype"], (held["rows"], *array["shape"][1:]))


ARRAYS = {
    "numbers": X,
    "column-major": np.asfortranarray(X),
    "big-endian": X.astype(">f8"),
    "one": np.arange(3, dtype=np.uint8),
    "flags": X > 5,
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_described_with_their_first_rows(tmp_path, save):
    save(tmp_path / "content.npz", **ARRAYS)
    reply = read(tmp_path)
    found = read_description(reply)
    assert [(one.name, one.shape) for one in found.arrays] == [(name, one.shape) for name, one in ARRAYS.items()]
    assert [one.dtype for one in found.arrays] == ["float32", "float32", "float64", "uint8", "bool"]
    for name, array in ARRAYS.items():
        if name == "column-major" and save is np.savez_compressed:
            assert len(sample(reply, name)) == 0
        else:
            np.testing.assert_array_equal(sample(reply, name), array[:5])


def test_long_texts_are_cut_and_long_rows_left_out(tmp_path):
    texts = np.array(["short", "ä" * 300, "x", "", "é", "z"])
    np.savez(tmp_path / "content.npz", text=texts, images=np.zeros((4, 100, 100)), none=np.zeros((0, 2)))
    reply = read(tmp_path)
    assert sample(reply, "text").tolist() == [one.encode()[:SAMPLE_TEXT] for one in texts[:5]]
    assert "images" not in reply["samples"]
    assert len(sample(reply, "none")) == 0


def test_samples_have_a_limit_together(tmp_path, monkeypatch):
    monkeypatch.setattr(descriptions, "SAMPLES_BYTES", 200)
    np.savez(tmp_path / "content.npz", **{f"a{number}": X for number in range(10)})
    assert sorted(read(tmp_path)["samples"]) == ["a0", "a1"]


def test_columns_of_a_parquet_file(tmp_path):
    import pyarrow
    from pyarrow import parquet

    columns = {"age": [1.5, 2.5], "name": ["a", "b"], "missing": [None, 1.0], "lists": [[1, 2], [3, 4]]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "content.parquet")
    check_columns(read(tmp_path, "content.parquet"))


def test_columns_of_a_csv_file(tmp_path):
    text = ",age,name,missing,missing too\n0,1.5,a,,\n1,2.5,b,1.0,1"
    (tmp_path / "content.csv").write_text(text)
    reply = read(tmp_path, "content.csv")
    check_columns(reply)
    assert reply["arrays"][0]["problem"] == "got an array or column without a name"
    (tmp_path / "content.tsv").write_text(text.replace(",", "\t"))
    check_columns(read(tmp_path, "content.tsv"))


def check_columns(reply):
    found = {one["name"]: (one["dtype"], one["shape"]) for one in reply["arrays"] if not one["problem"]}
    assert (found["age"], found["name"]) == (("float64", [2]), ("string", [2]))
    assert found.get("lists", ("int64", [2, 2])) == ("int64", [2, 2])
    assert sample(reply, "age").tolist() == [1.5, 2.5]
    assert sample(reply, "name").tolist() == [b"a", b"b"]
    (missing,) = (one for one in reply["arrays"] if one["name"] == "missing")
    assert "row 1: got no" in missing["problem"] or "row 1: got an empty" in missing["problem"], missing


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({f"a{number}": X[:1] for number in range(4)}, "got 4 arrays, expected 1 to 3"),
        ({"a" * 501: X}, "got a name of 501 characters"),
        ({"when": np.array(["2026-01-01"], "datetime64[D]")}, "expected numbers or text"),
        ({}, "got 0 arrays, expected 1 to 3"),
    ],
)
def test_what_is_no_dataset_is_refused(tmp_path, monkeypatch, arrays, text):
    monkeypatch.setattr(descriptions, "MAX_ARRAYS", 3)
    np.savez(tmp_path / "content.npz", **arrays)
    with pytest.raises(InvalidRequestError) as caught:
        read(tmp_path)
    assert text in str(caught.value)


def test_arrays_of_one_name_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "content.npz", "w") as archive:
        archive.writestr("x.npy", b"")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x.npy", b"")
    with pytest.raises(InvalidRequestError, match="got 2 arrays of the name 'x'"):
        read(tmp_path)


def test_a_file_whose_names_take_too_much_memory_is_not_taken_for_a_corrupt_one(tmp_path, monkeypatch):
    def too_many(archive):
        raise MemoryError

    np.savez(tmp_path / "content.npz", x=X)
    monkeypatch.setattr(reader, "names_in", too_many)
    with pytest.raises(MemoryError):
        read(tmp_path)
