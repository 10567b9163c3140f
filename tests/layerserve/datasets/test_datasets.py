"""Datasets in both clients: uploads that go on after cuts, what is sent, and runs that name datasets."""

from __future__ import annotations

import hashlib
import io
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from blocking import both_clients
from layerserve import (
    DataLoss,
    DatasetNotFound,
    InvalidArgument,
    Overloaded,
    QuotaExceeded,
    ServerFile,
    Split,
    TooLarge,
    Unavailable,
)
from layerserve.datasets import DatasetArray
from layerserve.datasets import content as content_module
from layerserve.datasets import upload as dataset_upload
from layerserve.datasets.content import MAX_PADDING, ArrayContent, FileContent, measured, role_arrays
from layerserve.datasets.info import DatasetColumn, DatasetInfo, DatasetList
from layerserve.training.data import ROLES
from layerserve.values.tensor_spec import TensorSpec

X = np.arange(12, dtype=np.float32).reshape(4, 3)
BIG = np.arange(600_000, dtype=np.float32).reshape(-1, 3)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    monkeypatch.setattr(dataset_upload, "PAUSES", (0.0, 0.0))


def sent(server):
    """The declarations of the uploads."""
    return [request for method, request in server.calls if method == "UploadDataset"]


def test_arrays_are_uploaded_as_an_npz_file(client, server):
    phases = []
    found = client.datasets.upload(X, [[1], [2], [3], [4]], title="t", progress=lambda *given: phases.append(given))
    assert (found.title, found.format, found.rows, found.owner) == ("t", "npz", 4, "anyone")
    assert [(one.name, one.dtype, one.shape) for one in found.arrays] == [
        ("x", "float32", (4, 3)),
        ("y", "int64", (4, 1)),
    ]
    data = server.datasets.bytes[found.id]
    assert hashlib.sha256(data).hexdigest() == found.id
    with np.load(io.BytesIO(data)) as archive:
        np.testing.assert_array_equal(archive["x"], X)
    assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None
    assert [phase for phase, _, _ in phases][-1] == "checking"
    assert phases[-1][1:] == (len(data), len(data))


def test_a_file_is_uploaded_as_it_is(client, server, tmp_path):
    (tmp_path / "a.csv").write_bytes(b"a,b\n1,2\n")
    found = client.datasets.upload(tmp_path / "a.csv", shared=True, keep_seconds=5)
    assert (server.datasets.bytes[found.id], found.format, found.shared) == (b"a,b\n1,2\n", "csv", True)
    assert sent(server)[0].keep_seconds == 5


def test_the_same_content_is_not_sent_again(client, server):
    first = client.datasets.upload(x=X)
    server.datasets.bytes[first.id] = b""
    assert client.datasets.upload(x=X).id == first.id
    assert server.datasets.bytes[first.id] == b""


@both_clients
def test_an_upload_that_is_cut_goes_on_by_itself(client, server):
    server.datasets.cuts = [500_000, 1_500_000, 2_000_000]
    found = client.datasets.upload(x=BIG)
    assert hashlib.sha256(server.datasets.bytes[found.id]).hexdigest() == found.id
    assert len(sent(server)) == 4


@both_clients
def test_an_upload_without_progress_ends_and_one_with_progress_goes_on(client, server):
    # The first attempt, and one after each pause.
    one = np.zeros((1, 1), np.float32)
    server.fail_next(Unavailable("gone"), "UploadDataset", times=3)
    with pytest.raises(Unavailable):
        client.datasets.upload(x=one)
    assert len(sent(server)) == 3
    # With progress in between, there is no limit: each piece is cut here.
    server.datasets.cuts = [1] * 5
    assert client.datasets.upload(x=BIG).rows == len(BIG)
    assert len(sent(server)) == 3 + 6


def test_an_overloaded_server_is_asked_again_only_if_it_names_a_time(client, server):
    server.fail_next(Overloaded("busy", metadata={"grpc-retry-pushback-ms": "1"}), "UploadDataset")
    assert client.datasets.upload(x=X).rows == 4
    pushed = {"grpc-retry-pushback-ms": "60000"}
    for error in (TooLarge("the disk is full"), QuotaExceeded("its datasets have 9 bytes", metadata=pushed)):
        server.fail_next(error, "UploadDataset")
        with pytest.raises(type(error), match=str(error)):
            client.datasets.upload(x=2 * X)


def test_a_file_that_changes_meanwhile_is_no_dataset(client, server, tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"1,2\n")

    def change(phase, done, total):
        if phase == "reading":
            path.write_bytes(b"1,3\n")

    with pytest.raises(DataLoss):
        client.datasets.upload(path, progress=change)


@both_clients
def test_an_error_while_reading_is_the_callers(client, server, tmp_path):
    class Broken:
        shape, dtype = (4, 3), X.dtype
        reads = 0

        def __getitem__(self, rows):
            self.reads += 1
            if self.reads > 2:
                raise RuntimeError("the disk is gone")
            return X[rows]

    with pytest.raises(InvalidArgument, match="dataset: RuntimeError: the disk is gone"):
        client.datasets.upload(x=Broken())
    with pytest.raises(FileNotFoundError):
        client.datasets.upload(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "got no data, expected a file or arrays"),
        ({"x": "empty.csv"}, "got an empty file, expected data"),
        ({"x": "a.txt"}, "got .txt, expected .npz, .parquet, .csv, .tsv, or arrays"),
        ({"x": "a.csv", "y": X}, "got a path and arrays"),
        ({"x": 3}, "x: got a scalar"),
        ({"x": np.array(["a", "b\0"], object)}, "ends with a zero byte"),
        ({"x": X, "keep_seconds": 0}, "keep_seconds: got 0"),
        ({"x": X, "validation_data": X}, "validation_data: got ndarray, expected (x, y)"),
    ],
)
def test_what_is_no_dataset_is_refused_before_anything_is_sent(client, server, tmp_path, monkeypatch, given, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.csv").touch()
    with pytest.raises(InvalidArgument) as caught:
        client.datasets.upload(**given)
    assert text in str(caught.value)
    assert server.calls == []


def test_datasets_are_listed_shown_and_deleted(client, server):
    first, second = client.datasets.upload(x=X), client.datasets.upload(x=2 * X, title="second")
    assert [one.id for one in client.datasets.list()] == [second.id, first.id]
    assert client.datasets.get(first.id[:10]).id == first.id
    assert "second" in str(client.datasets.list().table().rows)
    client.datasets.delete(first.id)
    with pytest.raises(DatasetNotFound):
        client.datasets.get(first.id)


def test_a_dataset_of_sampled_requests(client, server):
    client.datasets.create_from_samples("double", {"a": X, "b": {"y": X}}, uncorrected=True, title="t")
    ((_, request),) = ((name, one) for name, one in server.calls if name == "MakeDataset")
    assert [(one.request_id, [tensor.name for tensor in one.targets]) for one in request.corrections] == [
        ("a", [""]),
        ("b", ["y"]),
    ]
    assert (request.uncorrected, request.model.name) == (True, "double")
    with pytest.raises(InvalidArgument, match="got 3, expected the id of a request"):
        client.datasets.create_from_samples("double", {3: X})


# Runs.


def data_of(server):
    spec = next(request for method, request in reversed(server.calls) if method in ("Train", "Evaluate"))
    return [(array.role, array.name, array.dataset, array.key or ",".join(array.columns)) for array in spec.data]


def test_a_run_names_a_dataset_and_sends_no_data(client, server):
    info = client.datasets.upload(x=X, y=X, validation_data=(X, X))
    run = client.train("double", client.datasets.get(info.id[:12]), split=Split("a", {"a": 0.5}, seed=3))
    run.wait()
    expected = [(ROLES["x"], "", info.id, "x"), (ROLES["y"], "", info.id, "y")]
    validation = [(ROLES[f"validation_{name}"], "", info.id, f"validation_{name}") for name in "xy"]
    assert data_of(server) == expected + validation
    assert server.runs[run.id].chunk_sizes == []
    view = server.runs[run.id].spec.view
    assert (view.splits, view.split, view.seed) == ('{"a": 0.5}', "a", 3)
    client.evaluate("double", info)
    assert data_of(server) == expected


def test_arrays_of_datasets_and_arrays_may_be_mixed(client, server):
    client.train("double", DatasetArray("0123", "a,b"), X).wait()
    assert data_of(server) == [(ROLES["x"], "x", "0123", "a,b"), (ROLES["y"], "y", "", "")]


DATASET = DatasetInfo("0123", "", "npz", 1, 4, (), "", False, None, None, None)


def shares(given):
    return {"x": X, "y": X, "split": Split("a", given)}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "x: got none, expected data"),
        ({"x": X}, "y: got none"),
        (
            {"x": "0123", "y": X},
            "got '0123', expected an array of rows; a file of the server is a ServerFile, a dataset",
        ),
        ({"x": DATASET, "y": X}, "y: got it with a dataset as x, expected none; a DatasetArray is one array"),
        ({"x": DATASET, "sample_weight": X}, "sample_weight: got it with a dataset as x"),
        (shares({"a": 2}), "split.shares: got 2 for 'a'"),
        (shares({"a": 0.6, "b": 0.6}), "split.shares: got shares of 1.2 together"),
        (shares({}), "split.shares: got 0 splits"),
        (shares(dict.fromkeys(map(str, range(101)), 0.001)), "split.shares: got 101 splits"),
        (shares({"a" * 101: 0.5}), "split.shares: got the name 'aaa"),
        (shares({"": 0.5}), "split.shares: got the name ''"),
        (shares({"a": True}), "split.shares: got True for 'a'"),
        (shares(0.8), "split.shares: got 0.8"),
    ],
)
def test_data_that_means_nothing_is_refused(client, given, text):
    for method in (client.train, client.evaluate):
        with pytest.raises(InvalidArgument) as caught:
            method("double", **given)
        assert text in str(caught.value)


# Names of arrays.

INPUTS = [TensorSpec("title", (None, 3), "float32"), TensorSpec("body", (None, 3), "float32")]
OUTPUTS = [TensorSpec("priority", (None, 1), "float32"), TensorSpec("title", (None, 1), "float32")]


def roles(names, inputs=INPUTS, outputs=OUTPUTS, validates=True):
    info = DatasetInfo(
        "0" * 64, "", "npz", 1, 4, tuple(DatasetColumn(n, "float32", (4,)) for n in names), "", False, *[None] * 3
    )
    found = info.training_arrays(inputs, outputs, validates=validates)
    names_of = {role: name for name, role in ROLES.items()}
    return {array.rows.columns[0]: (names_of[array.role], array.name) for array in found}


def test_names_are_roles_with_names_or_positions_of_inputs():
    assert roles(["x/title", "x/1", "y/0", "sample_weight", "validation_x/0"]) == {
        "x/title": ("x", "title"),
        "x/1": ("x", "body"),
        "y/0": ("y", "priority"),
        "sample_weight": ("sample_weight", ""),
        "validation_x/0": ("validation_x", "title"),
    }
    assert "validation_x/0" not in roles(["x/title", "y/0", "validation_x/0"], validates=False)


def test_names_are_those_of_inputs_and_outputs():
    assert roles(["id", "title", "body", "priority", "output:title", "request_id"]) == {
        "title": ("x", "title"),
        "body": ("x", "body"),
        "priority": ("y", "priority"),
        "output:title": ("y", "title"),
    }


def test_an_input_that_has_the_name_of_a_role():
    x, z, y = (TensorSpec(name, (None, 1), "float32") for name in "xzy")
    assert roles(["x", "z", "y"], [x, z], [y]) == {"x": ("x", "x"), "z": ("x", "z"), "y": ("y", "y")}
    # A dataset of roles alone, for a model whose input is named as one.
    assert roles(["x", "y"], [y], [z]) == {"x": ("x", ""), "y": ("y", "")}


@pytest.mark.parametrize(
    ("names", "text"),
    [(["a", "priority"], "expected 'x', or names of the model's inputs: title, body"), (["x", "b"], "expected 'y'")],
)
def test_a_dataset_without_inputs_or_targets(names, text):
    with pytest.raises(InvalidArgument, match=text):
        roles(names)


# Content.


@pytest.mark.parametrize("offset", [0, 1, 63, 1000, 2_400_000])
def test_what_follows_an_offset_is_the_same_each_time(tmp_path, offset):
    content = ArrayContent({"x": BIG, "text": np.array(["a", "longer"], object)})
    whole = b"".join(content.pieces())
    assert b"".join(content.pieces(offset)) == whole[offset:]
    (tmp_path / "a.npz").write_bytes(whole)
    assert b"".join(FileContent(tmp_path / "a.npz").pieces(offset)) == whole[offset:]
    assert measured(content, lambda done: None).sha256 == hashlib.sha256(whole).digest()
    with np.load(io.BytesIO(whole)) as archive:
        assert archive["text"].tolist() == [b"a", b"longer"]


def test_texts_that_would_be_mostly_padding_are_refused():
    texts = np.array(["a"] * 200 + ["b" * (MAX_PADDING // 100)], object)
    with pytest.raises(InvalidArgument, match="expected texts of similar lengths, or a Parquet file"):
        ArrayContent({"x": texts})


@pytest.mark.parametrize("texts", [[""] * 9 + ["b" * 10], ["a" * 10] * 20 + ["b" * 20]])
def test_padding_of_few_bytes_or_beside_as_much_text_is_sent(texts, monkeypatch):
    monkeypatch.setattr(content_module, "MAX_PADDING", 100)
    assert b"".join(ArrayContent({"x": np.array(texts, object)}).pieces())


def test_lists_dicts_and_frames_are_named():
    given = role_arrays([X, X], {"a": X}, None, (X, {"b": X}))
    assert list(given) == ["x/0", "x/1", "y/a", "validation_x", "validation_y/b"]
    assert list(role_arrays([[1, 2], [3, 4]], X, X, None)) == ["x", "y", "sample_weight"]
    columns = {"a": [1, 2], 3: [3, 4]}
    frame = SimpleNamespace(columns=list(columns), items=columns.items)  # as of pandas
    found = role_arrays(frame, X, None, None)
    assert [(name, type(one)) for name, one in found.items()][:2] == [("x/a", np.ndarray), ("x/3", np.ndarray)]


def test_tables_show_datasets():
    info = DatasetInfo("0" * 64, "t", "csv", 9, 0, (DatasetColumn("a", "", (), "no numbers"),), "me", True, *[None] * 3)
    ((*cells,),) = DatasetList([info]).table().rows
    assert cells[0] == "0" * 12
    assert "me (shared)" in cells
    assert info.table().rows[0][1] == "no numbers"


@pytest.mark.parametrize(
    ("sample", "shown"),
    [
        (None, ""),
        (np.array([[1, 2], [3, 4]]), "[1, 2] [3, 4]"),
        (np.array([b"a\xff", b"b"], object), "a\ufffd b"),
        (np.arange(23), " ".join(map(str, range(23)))),  # 60 characters
        (np.arange(123, 200), "123 124 125 126 127 128 129 130 131 132 133 134 135 136 1..."),
    ],
)
def test_first_rows_are_shown_in_60_characters(sample, shown):
    info = DatasetInfo("0", "", "npz", 9, 0, (DatasetColumn("a", "int64", (), "", sample),), "me", True, *[None] * 3)
    assert info.table().rows[0][3] == shown


@pytest.mark.parametrize("kind", [DatasetArray, ServerFile])
def test_data_of_the_server_has_a_key_or_columns(kind):
    assert [str(kind("a.npz")), str(kind("a.npz", "x"))] == ["a.npz", "a.npz:x"]
    with pytest.raises(InvalidArgument, match=r"a.npz: got key and columns, expected one of the two"):
        kind("a.npz", "x", ("y",))
