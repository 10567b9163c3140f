"""Datasets made of sampled requests, through a real port."""

import os

import grpc
import numpy as np
import pytest
from layerserve.v1 import datasets_pb2 as pb
from layerserve.v1 import datasets_pb2_grpc, prediction_pb2, prediction_pb2_grpc, tensor_pb2
from layerserve.values import tensors
from layerserve_server.extensions.mirroring.sample_files import Sample, SampleFiles
from tokens import bearer, write_tokens

MODEL = tensor_pb2.ModelSpec(name="double")


class Server:
    """Calls of one server."""

    def __init__(self, app, channel):
        self.app = app
        self.stub = datasets_pb2_grpc.DatasetServiceStub(channel)

    def list(self):
        return [dataset.id for dataset in self.stub.ListDatasets(pb.ListDatasetsRequest(), timeout=30).datasets]


#: Callers by token, and the requests of which a dataset of theirs is made.
CALLERS = {
    "ann": ('["predict", "train"]', [1, 3]),
    "bob": ('["predict", "read", "train"]', [2]),
    "manages-one": ('["train", "manage"]\nmodels = ["double"]', []),
    "manages": ('["train", "manage"]', [1, 2, 3, 4]),
}


@pytest.fixture
def server(put, start, connect):
    put("double")
    app = start()
    return Server(app, connect(app))


def refused(call):
    """The status and the text of a call that is refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code(), caught.value.details()


def sampled(server, *samples, version=1, owner=""):
    """Has requests of "double" kept: their ids, and rows of their input."""
    files = SampleFiles(server.app.settings.state_folder / "samples", 1 << 30, lambda count: None)
    for moment, (id, x) in enumerate(samples):
        x = np.float32(x)
        files.add(Sample("double", version, {"x": x, "y": 2 * x}, len(x), id, owner, 1000.0 + moment))
    files.close()


def made(server, corrections, **fields):
    request = pb.MakeDatasetRequest(
        model=MODEL,
        corrections=[
            pb.Correction(request_id=id, targets=[tensors.encode(np.float32(y), "")]) for id, y in corrections.items()
        ],
        **fields,
    )
    return server.stub.MakeDataset(request, timeout=30).dataset


def content(server, dataset):
    path = server.app.datasets.folder / dataset.id / "content.npz"
    with np.load(path) as archive:
        return {name: archive[name].tolist() for name in archive.files}


def test_corrected_requests_become_a_dataset(server):
    sampled(server, ("a", [[1, 2]]), ("b", [[3, 4], [5, 6]]), ("a", [[7, 8]]), ("c", [[9, 10]]))
    dataset = made(server, {"b": [[1, 1], [2, 2]], "a": [[3, 3]]}, title="corrected")
    assert (dataset.title, dataset.rows) == ("corrected", 3)
    # Of the two requests "a" the last.
    expected = {"x/x": [[3, 4], [5, 6], [7, 8]], "y/y": [[1, 1], [2, 2], [3, 3]]}
    assert content(server, dataset) == expected
    assert [array.name for array in dataset.arrays] == ["x/x", "y/y"]
    more = made(server, {"a": [[3, 3]]}, uncorrected=True)
    assert content(server, more) == {
        "x/x": [[3, 4], [5, 6], [7, 8], [9, 10]],
        "y/y": [[6, 8], [10, 12], [3, 3], [18, 20]],
    }
    assert not [name for name in os.listdir(server.app.datasets.folder) if name.startswith(".made")]


#: Bytes of a damaged file of samples, of those of a whole one.
DAMAGES = {
    "empty": lambda whole: b"",
    "cut": lambda whole: whole[: len(whole) // 2],
    "zeros": lambda whole: bytes(len(whole)),
    "text": lambda whole: b"{}",
    "ids": lambda whole: whole.replace(b"a", b"z"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_samples_costs_no_more_than_its_requests(server, damage):
    sampled(server, ("a", [[1, 2]]))
    folder = server.app.settings.state_folder / "samples"
    (file,) = folder.rglob("*.npz")
    # The next file of this moment has the same name.
    file = file.rename(file.with_name("earlier.npz"))
    sampled(server, ("b", [[3, 4]]))
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    dataset = made(server, {"b": [[1, 1]]}, uncorrected=True)
    assert content(server, dataset) == {"x/x": [[3, 4]], "y/y": [[1, 1]]}
    assert "no sampled request of this model has this id" in refused(lambda: made(server, {"a": [[0, 0]]}))[1]


def test_samples_of_which_only_rows_are_damaged_are_refused_with_the_reason(server):
    sampled(server, ("a", [[1, 2]]))
    (file,) = (server.app.settings.state_folder / "samples").rglob("*.npz")
    rows = np.float32([[1, 2]]).tobytes()
    file.write_bytes(file.read_bytes().replace(rows, bytes(len(rows))))
    code, text = refused(lambda: made(server, {"a": [[0, 0]]}))
    assert (code, text) == (grpc.StatusCode.INVALID_ARGUMENT, "a file of sampled requests is damaged")


def test_a_request_that_names_a_version_takes_its_samples_only(server):
    sampled(server, ("a", [[1, 2]]))
    sampled(server, ("b", [[3, 4]]), version=2)
    whole = made(server, {"a": [[0, 0]]}, uncorrected=True)
    assert content(server, whole) == {"x/x": [[1, 2], [3, 4]], "y/y": [[0, 0], [6, 8]]}
    request = pb.MakeDatasetRequest(model={"name": "double", "version": 1}, uncorrected=True)
    one = server.stub.MakeDataset(request, timeout=30).dataset
    assert content(server, one) == {"x/x": [[1, 2]], "y/y": [[2, 4]]}


def test_samples_of_a_deleted_model_are_not_those_of_another_with_its_name(server, put):
    sampled(server, ("a", [[1, 2]]))
    server.app.repository.publisher.writer.withdraw_model("double", 1)
    put("double")
    sampled(server, ("b", [[3, 4]]), version=2)
    put("double", version=2)
    server.app.repository.scan()
    assert content(server, made(server, {}, uncorrected=True))["x/x"] == [[3, 4]]
    request = pb.MakeDatasetRequest(model={"name": "double", "version": 1}, uncorrected=True)
    assert "got none, expected at least one" in refused(lambda: server.stub.MakeDataset(request, timeout=30))[1]


@pytest.mark.parametrize("token", CALLERS)
def test_a_dataset_has_the_requests_of_its_caller_only(put, start, connect, tmp_path, finish, token):
    put("double")
    tokens = write_tokens(
        tmp_path / "tokens.toml", {name: f"rights = {rights}" for name, (rights, _) in CALLERS.items()}
    )
    app = start(tokens=tokens, allow_anonymous="predict", sample_models="double=1")
    channel = connect(app)
    predict = prediction_pb2_grpc.PredictionServiceStub(channel).Predict
    for number, whose in enumerate(("ann", "bob", "ann", None), 1):
        x = tensors.encode(np.full((1, 2), number, np.float32), "x")
        predict(prediction_pb2.PredictRequest(model=MODEL, inputs=[x], id="a"), metadata=bearer(whose), timeout=30)
    finish(app, 4)
    server, expected = Server(app, channel), CALLERS[token][1]

    def make(**fields):
        request = pb.MakeDatasetRequest(model=MODEL, **fields)
        return server.stub.MakeDataset(request, metadata=bearer(token), timeout=30).dataset

    correction = pb.Correction(request_id="a", targets=[tensors.encode(np.zeros((1, 2), np.float32), "")])
    if not expected:
        assert "got none, expected at least one" in refused(lambda: make(uncorrected=True))[1]
        assert "request 'a': no sampled request" in refused(lambda: make(corrections=[correction]))[1]
        return
    assert content(server, make(uncorrected=True))["x/x"] == [[number] * 2 for number in expected]
    # Of several requests with the id, the last of its own.
    assert content(server, make(corrections=[correction]))["x/x"] == [expected[-1:] * 2]


@pytest.mark.parametrize(
    ("corrections", "fields", "text"),
    [
        ({"z": [[1, 1]]}, {}, "request 'z': no sampled request of this model has this id"),
        ({"b": [[1, 1]]}, {}, "request 'b', output 'y': got shape (1, 2), expected 2 rows"),
        ({"a": [[1, 1]], "b": [1, 2]}, {}, "'y/y': got rows of float32 () and of float32 (2,)"),
        ({}, {}, "corrections: got none, expected at least one"),
        ({"a": [1]}, {"uncorrected": True}, "expected the same for all"),
        ({"": [1]}, {}, "request_id: got 0 characters"),
    ],
    ids=range(6),
)
def test_corrections_that_do_not_fit_are_refused(server, corrections, fields, text):
    sampled(server, ("a", [[1, 2]]), ("b", [[3, 4], [5, 6]]))
    code, details = refused(lambda: made(server, corrections, **fields))
    assert (code, text in details) == (grpc.StatusCode.INVALID_ARGUMENT, True), details
    assert server.list() == []
