"""Arrays in files: which of them an argument names, and that each comes back with its own values."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from layerserve import InvalidArgument, ServerFile
from layerserve.cli.array_files import read_arrays, write_arrays
from layerserve.values.tensor_spec import TensorSpec

A = np.arange(6, dtype=np.float32).reshape(2, 3)
B = np.array([[7], [8]], np.int64)


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", A)
    np.savez("one.npz", only=B)
    np.savez("two.npz", a=A, b=B)
    np.savez("odd:name.npz", a=A, b=B)
    (tmp_path / "value.json").write_text("[[1, 2]]")
    (tmp_path / "named.json").write_text('{"a": [[1, 2]], "b": [3]}')


def same(got, expected):
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == expected.dtype


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("a.npy", A),
        ("one.npz", B),
        ("one.npz:only", B),
        ("two.npz:a", A),
        ("two.npz:b", B),
        ("odd:name.npz:b", B),
    ],
)
def test_one_array(argument, expected):
    same(read_arrays([argument]), expected)
    named = read_arrays([f"x={argument}"])
    assert list(named) == ["x"]
    same(named["x"], expected)


def test_a_key_picks_one_array_of_an_archive_for_each_name():
    got = read_arrays(["x=two.npz:b", "y=two.npz:a", "z=a.npy"])
    assert list(got) == ["x", "y", "z"]
    for name, expected in (("x", B), ("y", A), ("z", A)):
        same(got[name], expected)


@pytest.mark.parametrize("argument", ["two.npz", "odd:name.npz"])
def test_an_archive_of_several_arrays_gives_all_by_name(argument):
    got = read_arrays([argument])
    assert list(got) == ["a", "b"]
    same(got["a"], A)
    same(got["b"], B)
    assert list(read_arrays([argument, "c=a.npy"])) == ["a", "b", "c"]


def test_json_is_a_value_or_values_by_name(monkeypatch):
    assert read_arrays(["value.json"]) == [[1, 2]]
    assert read_arrays(["x=value.json"]) == {"x": [[1, 2]]}
    assert read_arrays(["named.json"]) == {"a": [[1, 2]], "b": [3]}
    for text, expected in (("[4]", [4]), ('{"c": [4]}', {"c": [4]})):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        assert read_arrays(["-"]) == expected


def test_files_of_the_server_have_a_path_and_perhaps_a_key():
    assert read_arrays(["server:f/a.npy"]) == ServerFile("f/a.npy", "")
    assert read_arrays(["x=server:f/a.npz:k", "y=server:t.parquet:p,q"]) == {
        "x": ServerFile("f/a.npz", "k"),
        "y": ServerFile("t.parquet", "p,q"),
    }


def test_images_are_rows():
    for name in ("a.jpg", "b.PNG"):
        Path(name).write_bytes(name.encode())
    assert read_arrays(["a.jpg"]).tolist() == [b"a.jpg"]
    assert read_arrays(["a.jpg", "b.PNG"]).tolist() == [b"a.jpg", b"b.PNG"]
    np.save("x.npy", [1])
    both = read_arrays(["x=b.PNG", "y=x.npy", "x=a.jpg"])
    assert (both["x"].tolist(), both["y"].tolist()) == ([b"b.PNG", b"a.jpg"], [1])
    with pytest.raises(InvalidArgument, match="got an image without a name"):
        read_arrays(["a.jpg", "y=x.npy"])
    with pytest.raises(FileNotFoundError):
        read_arrays(["missing.gif"])


def test_a_npy_file_is_mapped_and_not_read():
    assert isinstance(read_arrays(["a.npy"]), np.memmap)


def write_damaged(path):
    """A table whose footer is whole: `a` is compressed data, and `b` the lengths of texts, that make no sense."""
    import pyarrow
    from pyarrow import parquet

    columns = {"a": np.arange(1000.0), "b": [f"text {number}" for number in range(1000)]}
    compression = {"a": "snappy", "b": "none"}
    parquet.write_table(pyarrow.table(columns), path, compression=compression, use_dictionary=False)
    content = bytearray(path.read_bytes())
    place = content.index(b"text 500") - 4
    content[place : place + 4] = b"\xff" * 4
    content[200:400] = bytes(200)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["two.npz:c"], "two.npz: got key 'c', expected one of a, b"),
        (["two.npz:"], "two.npz: got key '', expected one of a, b"),
        (["x=two.npz"], "two.npz: got 2 arrays for 'x', expected one; pick it by PATH:KEY"),
        (["x=named.json"], "named.json: got 2 arrays for 'x'"),
        (["a.npy", "x=a.npy"], "a.npy: got several arrays, one of them without a name, expected NAME=PATH"),
        (["two.npz", "a=a.npy"], "a: got several arrays with this name, expected one"),
        (["a.npy:a"], "a.npy:a: got .npy:a, expected .npy, .npz, .csv, .tsv, .parquet or .json"),
        (["a"], "a: got no suffix, expected .npy, .npz, .csv, .tsv, .parquet or .json"),
        (["short.npy"], "short.npy: got a damaged file ("),
        (["short.npz"], "short.npz: got a damaged file ("),
        (["short.npz:a"], "short.npz: got a damaged file ("),
        (["objects.npy"], "objects.npy: got Python objects, or another kind of file, expected an array in .npy format"),
        (["objects.npz"], "objects.npz: got Python objects, or another kind of file, expected arrays in .npz format"),
        (["text.npy"], "text.npy: got Python objects, or another kind of file, expected an array in .npy format"),
        (["bad.json"], "bad.json: got invalid JSON"),
        (["bad.parquet:a"], "bad.parquet: OSError: "),
        (["damaged.parquet:a"], "damaged.parquet: OSError: Corrupt snappy"),
        (["damaged.parquet:b"], "damaged.parquet: ArrowInvalid: "),
    ],
)
def test_what_is_no_array_is_told(tmp_path, arguments, text):
    (tmp_path / "short.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:40])
    (tmp_path / "short.npz").write_bytes((tmp_path / "two.npz").read_bytes()[:-60])
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "bad.json").write_text("[1")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1" + bytes(20) + b"PAR1")
    write_damaged(tmp_path / "damaged.parquet")
    objects = np.array([print], object)
    np.save("objects.npy", objects, allow_pickle=True)
    np.savez("objects.npz", a=objects)
    with pytest.raises(InvalidArgument) as caught:
        read_arrays(arguments)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("argument", ["nope.npy", "nope.npz", "nope.npz:a", "nope.json"])
def test_a_file_that_is_missing_is_an_os_error(argument):
    with pytest.raises(FileNotFoundError):
        read_arrays([argument])


TEXT = np.array([[b"a", b"longer"]], object)


def test_arrays_are_written_and_read_again(tmp_path):
    write_arrays(tmp_path / "out.npy", {"y": A}, {})
    same(np.load("out.npy"), A)
    # Names that are parameters of NumPy's own function.
    arrays = {"file": A, "allow_pickle": B, "text": TEXT}
    write_arrays(tmp_path / "out.npz", arrays, {})
    with np.load("out.npz", allow_pickle=False) as written:
        assert written.files == list(arrays)
        same(written["file"], A)
        same(written["allow_pickle"], B)
        assert written["text"].tolist() == TEXT.tolist()
    with zipfile.ZipFile("out.npz") as archive:
        assert archive.testzip() is None
    write_arrays(tmp_path / "out.json", {"y": A}, {"outputs": {"y": A}, "score": np.nan})
    assert json.loads((tmp_path / "out.json").read_text()) == {
        "outputs": {"y": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]},
        "score": "NaN",
    }


@pytest.mark.parametrize(
    ("name", "arrays", "text"),
    [
        ("out.npy", {"a": A, "b": B}, "got 2 outputs (a, b), expected one for .npy"),
        ("out.csv", {"a": A}, "got .csv, expected .npy, .npz or .json"),
        ("out", {"a": A}, "got no suffix, expected .npy, .npz or .json"),
    ],
)
def test_what_can_not_be_written_is_told(tmp_path, name, arrays, text):
    with pytest.raises(InvalidArgument) as caught:
        write_arrays(tmp_path / name, arrays, {})
    assert text in str(caught.value)
    assert not (tmp_path / name).exists()


def test_an_archive_may_have_arrays_that_are_larger_than_zip_32_can_say(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    write_arrays(tmp_path / "a.npz", {"x": np.arange(1000)}, None)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npz")["x"], np.arange(1000))


def test_columns_beside_those_of_the_input_are_told(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,label\n1,2,0\n")
    spec = TensorSpec("x", (None, 2), "float32")
    text = r"t\.csv: got 3 columns for 'x', expected 2; name them: t\.csv:COLUMN,COLUMN"
    with pytest.raises(InvalidArgument, match=text):
        read_arrays(["t.csv"], lambda: [spec])
    assert read_arrays(["t.csv:a,b"], lambda: [spec]).tolist() == [[1, 2]]
