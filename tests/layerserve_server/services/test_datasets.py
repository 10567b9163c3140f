"""The dataset service through a real port: uploads, runs that read datasets, and who may see them."""

from __future__ import annotations

import io
import time
from hashlib import sha256
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from layerserve.v1 import datasets_pb2 as pb
from layerserve.v1 import datasets_pb2_grpc, tensor_pb2, training_pb2, training_pb2_grpc
from layerserve.values import tensors
from layerserve_server.datasets.data_file import DataFile
from layerserve_server.services.open_work import OpenWork
from tokens import bearer, entry

X = np.arange(20, dtype=np.float32).reshape(10, 2)
MODEL = tensor_pb2.ModelSpec(name="double")


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


CONTENT = npz(x=X, y=2 * X)


def declared(content=CONTENT, **fields):
    fields.setdefault("format", pb.DATASET_FORMAT_NPZ)
    declaration = pb.DatasetDeclaration(bytes=len(content), sha256=sha256(content).digest(), **fields)
    return pb.UploadDatasetRequest(declaration=declaration)


def chunk(offset, data):
    return pb.UploadDatasetRequest(chunk=pb.DatasetChunk(offset=offset, data=data))


class Server:
    """Calls of one server, with a token or without."""

    def __init__(self, app, channel):
        self.app = app
        self.stub = datasets_pb2_grpc.DatasetServiceStub(channel)
        self.training = training_pb2_grpc.TrainingServiceStub(channel)

    def send(self, *messages, token=None):
        return list(self.stub.UploadDataset(iter(messages), timeout=30, metadata=bearer(token)))

    def upload(self, content=CONTENT, token=None, **fields):
        *_, last = self.send(declared(content, **fields), chunk(0, content), token=token)
        return last.dataset

    def list(self, token=None):
        reply = self.stub.ListDatasets(pb.ListDatasetsRequest(), timeout=30, metadata=bearer(token))
        return [dataset.id for dataset in reply.datasets]

    def get(self, id, token=None):
        return self.stub.GetDataset(pb.GetDatasetRequest(dataset_id=id), timeout=30, metadata=bearer(token)).dataset

    def delete(self, id, token=None):
        self.stub.DeleteDataset(pb.DeleteDatasetRequest(dataset_id=id), timeout=30, metadata=bearer(token))

    def train(self, data, description="train", token=None, **fields):
        compile = training_pb2.CompileSettings(optimizer='"sgd"', loss='"mse"')
        spec = training_pb2.TrainSpec(model=MODEL, data=data, compile=compile, description=description, **fields)
        messages = iter([training_pb2.TrainRequest(spec=spec)])
        return (reply.event for reply in self.training.Train(messages, timeout=60, metadata=bearer(token)))

    def begin(self, data):
        """Starts a run whose process waits for `go`, and returns its id."""
        for event in self.train(data, "wait"):
            if event.HasField("step"):
                return event.run_id
        raise AssertionError("the run ended before its first step")


def arrays(id, x="x", y="y"):
    return [
        training_pb2.DataArray(role=training_pb2.DATA_ROLE_X, dataset=id, key=x),
        training_pb2.DataArray(role=training_pb2.DATA_ROLE_Y, dataset=id, key=y),
    ]


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


def test_a_dataset_is_uploaded_described_and_deleted(server):
    position, done = server.send(declared(title="first"), chunk(0, CONTENT))
    assert position.position.received == 0
    dataset = done.dataset
    assert (dataset.id, dataset.title, dataset.bytes) == (sha256(CONTENT).hexdigest(), "first", len(CONTENT))
    assert (dataset.rows, dataset.owner, dataset.shared) == (10, "", False)
    assert dataset.expires_time.ToSeconds() - dataset.used_time.ToSeconds() == 30 * 86400
    found = server.get(dataset.id[:6])
    assert [(one.name, one.dtype, list(one.shape)) for one in found.arrays] == [
        ("x", tensor_pb2.DATA_TYPE_FLOAT32, [10, 2]),
        ("y", tensor_pb2.DATA_TYPE_FLOAT32, [10, 2]),
    ]
    np.testing.assert_array_equal(tensors.decode(found.arrays[1].sample), 2 * X[:5])
    assert server.list() == [dataset.id]
    server.delete(dataset.id)
    assert server.list() == []
    assert refused(lambda: server.get(dataset.id))[0] is grpc.StatusCode.NOT_FOUND


def test_a_dataset_may_be_kept_for_any_number_of_seconds(put, start, connect):
    put("double")
    app = start(dataset_seconds=0)
    server = Server(app, connect(app))
    _, done = server.send(declared(keep_seconds=1e300), chunk(0, CONTENT))
    assert done.dataset.expires_time.ToDatetime().year == 9999
    assert server.list() == [done.dataset.id]


def test_what_has_come_is_not_sent_again(server):
    code, text = refused(lambda: server.send(declared(), chunk(0, CONTENT[:100])))
    assert code is grpc.StatusCode.DATA_LOSS
    assert "ended after 100 bytes" in text
    assert server.list() == []
    position, done = server.send(declared(), chunk(100, CONTENT[100:]))
    assert position.position.received == 100
    (again,) = server.send(declared())
    assert again.dataset.id == done.dataset.id


def test_a_client_that_leaves_has_its_bytes_kept(server, wait_until):
    def messages():
        yield declared()
        yield chunk(0, CONTENT[:100])
        yield chunk(100, CONTENT[100:300])
        time.sleep(30)

    call = server.stub.UploadDataset(messages(), timeout=60)
    assert next(call).position.received == 0
    parts = server.app.datasets.open_parts
    wait_until(lambda: [part.size for part in parts.values()] == [300])
    call.cancel()
    wait_until(lambda: not parts)
    position, _ = server.send(declared(), chunk(300, CONTENT[300:]))
    assert position.position.received == 300


@pytest.mark.parametrize(
    ("content", "fields", "messages", "code", "text"),
    [
        (CONTENT, {"format": 0}, [], "INVALID_ARGUMENT", "format: got 0, expected one of 1 (npz)"),
        (b"", {}, [], "INVALID_ARGUMENT", "bytes: got 0, expected 1 to"),
        (CONTENT, {"title": "t" * 201}, [], "INVALID_ARGUMENT", "title: got 201 characters"),
        (CONTENT, {"keep_seconds": -1.0}, [], "INVALID_ARGUMENT", "keep_seconds: got -1"),
        (CONTENT, {"keep_seconds": float("nan")}, [], "INVALID_ARGUMENT", "keep_seconds: got nan"),
        (CONTENT, {}, [declared()], "INVALID_ARGUMENT", "every message after the first must be a chunk"),
        (CONTENT, {}, [chunk(5, b"abc")], "INVALID_ARGUMENT", "chunk: got one at byte 5"),
        (CONTENT, {}, [chunk(0, CONTENT + b"a")], "INVALID_ARGUMENT", f"expected {len(CONTENT)} as declared"),
        (CONTENT, {}, [chunk(0, CONTENT[::-1])], "DATA_LOSS", "it is removed"),
        (b"no archive", {}, [chunk(0, b"no archive")], "INVALID_ARGUMENT", "File is not a zip file"),
        (npz(), {}, [chunk(0, npz())], "INVALID_ARGUMENT", "got 0 arrays, expected 1 to 2000"),
    ],
    ids=range(11),
)
def test_what_makes_no_dataset_is_named_and_leaves_nothing_half(server, content, fields, messages, code, text):
    got, details = refused(lambda: server.send(declared(content, **fields), *messages))
    assert (got.name, text in details) == (code, True), details
    assert server.list() == []


def test_arrays_that_runs_cannot_use_are_named(server):
    dataset = server.upload(npz(x=X, when=np.array(["2026-01-01"], "datetime64[D]")))
    assert [bool(array.problem) for array in dataset.arrays] == [False, True]
    assert "expected numbers or text" in dataset.arrays[1].problem
    assert dataset.rows == 10


def test_a_run_reads_a_dataset_and_keeps_it(server, wait_until):
    id = server.upload().id
    run = server.begin(arrays(id[:8]))
    code, text = refused(lambda: server.delete(id))
    assert (code, text) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        f"dataset '{id}': run '{run}' uses it; cancel it first, or delete it",
    )
    assert server.app.datasets.get(id).used > time.time() - 30
    (server.app.runs.table.get(run).folder / "go").touch()
    wait_until(lambda: server.app.runs.table.get(run).log.ended)
    with server.app.repository.leases.lease("double") as version:
        assert (version.version, version.model.offset) == (2, X.sum())
    server.delete(id)
    code, text = refused(lambda: list(server.train(arrays(id))))
    assert (code, text) == (grpc.StatusCode.NOT_FOUND, f"no dataset '{id}'")


@pytest.mark.parametrize(
    ("sweep_ended", "run_ended", "resumable", "used"),
    [
        (True, True, False, ""),
        (False, True, False, "sweep 's'"),
        (True, False, False, "run 'r'"),
        (True, True, True, "run 'r'"),
    ],
)
def test_who_needs_a_dataset(sweep_ended, run_ended, resumable, used):
    request = SimpleNamespace(data=[SimpleNamespace(file=None), SimpleNamespace(file=DataFile("", "", "d"))])
    run = SimpleNamespace(id="r", request=request, log=SimpleNamespace(ended=run_ended), resumable=resumable)
    table = SimpleNamespace(scan=lambda: None, list_all=lambda model="": {"r": run})
    work = OpenWork(SimpleNamespace(table=table))
    work.add("sweep", lambda: [SimpleNamespace(id="s", request=request, ended=sweep_ended)])
    assert work.using("d") == used
    assert work.using("other") == ""


def test_a_run_whose_dataset_is_deleted_while_it_begins_fails(server, monkeypatch):
    id, runs = server.upload().id, server.app.runs
    begin = runs.begin

    def begin_late(*arguments):
        run = begin(*arguments)
        # A server that hasn't seen the run yet.
        server.app.datasets.delete(server.app.datasets.get(id), None, lambda dataset: "")
        return run

    monkeypatch.setattr(runs, "begin", begin_late)
    code, text = refused(lambda: list(server.train(arrays(id))))
    assert (code, text) == (grpc.StatusCode.NOT_FOUND, f"dataset '{id}' has been deleted")
    (run,) = runs.table.list()
    assert run.log.last.reason == text


@pytest.mark.parametrize(
    ("data", "fields", "text"),
    [
        ({"x": "z"}, {}, "'z'"),
        ({"x": ""}, {}, "x: got no key, expected one of dataset"),
        ({}, {"view": training_pb2.DataView(split="train")}, "view: got split 'train' without splits"),
        ({}, {"view": training_pb2.DataView(splits='{"a": 0.5}')}, "view: got no split, expected one of a"),
        ({}, {"view": training_pb2.DataView(splits='{"a": 0.5}', split="b")}, "view: unknown split 'b'"),
        ({}, {"view": training_pb2.DataView(splits='{"a": 0.7, "b": 0.7}', split="b")}, "shares of 1.4 together"),
        ({}, {"view": training_pb2.DataView(splits='["a"]', split="b")}, "view: got no object"),
        ({}, {"view": training_pb2.DataView(splits='{"a": 0.01}', split="a")}, "split 'a' has no rows"),
        (
            {},
            {"view": training_pb2.DataView(splits='{"a": 0.5}', split="a"), "validation_split": 0.5},
            "validation_split: got it with a view",
        ),
        (
            {},
            {"view": training_pb2.DataView(splits='{"a": 0.5}', split="a", validation="a")},
            "got split 'a' for training and for validation",
        ),
    ],
    ids=range(10),
)
def test_a_run_whose_view_or_key_means_nothing_is_refused(server, data, fields, text):
    code, details = refused(lambda: list(server.train(arrays(server.upload().id, **data), **fields)))
    assert (code, text in details) == (grpc.StatusCode.INVALID_ARGUMENT, True), details


# Callers.

ANN = ["read", "train"]
TOKENS = "\n".join(
    [
        entry("ann", f"rights = {ANN}\nmax_dataset_bytes = {2 * len(CONTENT)}"),
        entry("bob", f"rights = {ANN}"),
        entry("reader", 'rights = ["read"]'),
        entry("manager", "rights = ['read', 'train', 'manage']"),
    ]
)


@pytest.fixture
def guarded(put, start, connect, tmp_path):
    put("double")
    (tmp_path / "tokens.toml").write_text(TOKENS)
    app = start(tokens=tmp_path / "tokens.toml")
    return Server(app, connect(app))


def test_a_dataset_is_its_owners_and_the_managers(guarded):
    id = guarded.upload(token="ann").id
    assert [guarded.list(token) for token in ("ann", "bob", "reader", "manager")] == [[id], [], [], [id]]
    for call in (lambda: guarded.get(id, "bob"), lambda: guarded.delete(id, "bob")):
        assert refused(call) == (grpc.StatusCode.NOT_FOUND, f"no dataset '{id}'")
    assert refused(lambda: list(guarded.train(arrays(id), token="bob")))[0] is grpc.StatusCode.NOT_FOUND
    assert guarded.upload(token="bob").owner == "bob"
    guarded.delete(id, "ann")
    assert [guarded.list(token) for token in ("ann", "bob")] == [[], [id]]
    guarded.delete(id, "manager")
    assert guarded.list("manager") == []


def test_a_shared_dataset_is_used_by_all_and_deleted_by_its_owner(guarded):
    id = guarded.upload(token="ann", shared=True).id
    assert [guarded.list(token) for token in ("bob", "reader")] == [[id], [id]]
    # Refused for its key, not for the dataset.
    assert "'z'" in refused(lambda: list(guarded.train(arrays(id, "z"), token="bob")))[1]
    assert refused(lambda: guarded.delete(id, "bob"))[0] is grpc.StatusCode.PERMISSION_DENIED
    guarded.delete(id, "ann")


def test_an_owner_that_shares_shows_nothing_of_the_others(guarded):
    id = guarded.upload(token="ann", title="secret").id
    guarded.upload(token="bob", title="open", shared=True)
    shown = [(found.owner, found.title) for found in (guarded.get(id, token) for token in ("ann", "bob", "reader"))]
    assert shown == [("ann", "secret"), ("bob", "open"), ("bob", "open")]
    guarded.delete(id, "bob")
    assert [guarded.list(token) for token in ("ann", "bob", "reader")] == [[id], [], []]


def test_a_token_has_a_limit_of_bytes(guarded):
    guarded.upload(token="ann")
    more = npz(x=X, y=3 * X, z=X)
    code, text = refused(lambda: guarded.upload(more, token="ann"))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"caller 'ann': its datasets have {len(CONTENT)} bytes" in text
    guarded.upload(more, token="bob")


def test_callers_without_a_token_own_nothing_where_others_have_one(put, start, connect, tmp_path):
    put("double")
    (tmp_path / "tokens.toml").write_text(entry("anonymous", f"rights = {ANN}"))
    alone = start(allow_anonymous="read,train")
    server = Server(alone, connect(alone))
    earlier = server.upload().id
    # All of them are one there.
    assert server.list() == [earlier]
    alone.stop()
    app = start(tokens=tmp_path / "tokens.toml", allow_anonymous="read,train")
    server = Server(app, connect(app))
    id = server.upload(more := npz(x=X, y=2 * X), token="anonymous").id
    assert (server.list("anonymous"), server.list()) == ([id], [])
    for shared in (False, True):
        assert refused(lambda shared=shared: server.upload(more, shared=shared)) == (
            grpc.StatusCode.UNAUTHENTICATED,
            "datasets belong to callers with a token or certificate; send one as 'authorization: Bearer TOKEN' "
            "(--token-file)",
        )
