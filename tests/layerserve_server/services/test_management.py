"""ManagementService over gRPC: what comes back, and that a stream which ends otherwise leaves nothing."""

import hashlib
import json
import os
import threading

import grpc
import pytest
from echo_servers import needs_native
from layerserve.v1 import management_pb2 as pb
from layerserve.v1 import management_pb2_grpc, models_pb2
from layerserve_server.repository.audit import FILE
from layerserve_server.services.management import MAX_UPLOADS

CONTENT = b'{"offset": 7}'


@pytest.fixture(params=["grpcio", pytest.param("native", marks=needs_native)])
def served(request, put, start, connect):
    """A server with a model, and a stub of its service."""
    put(version=1, offset=1)
    server = start(transport=request.param, max_upload_bytes=1000)
    return server, management_pb2_grpc.ManagementServiceStub(connect(server))


def tree(server):
    """All paths in the repository. A folder may go meanwhile."""
    root, found = server.settings.path, set()
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name != ".layerserve"]
        found |= {os.path.relpath(os.path.join(folder, name), root) for name in (*folders, *files)}
    return found


def spec(content=CONTENT, name="double", path="model.keras", **fields):
    digest = hashlib.sha256(content).hexdigest()
    declared = pb.UploadFile(path=path, bytes=len(content), sha256=digest)
    return pb.UploadModelRequest(spec=pb.UploadSpec(name=name, files=[declared], **fields))


def chunk(data, file=0):
    return pb.UploadModelRequest(chunk=pb.UploadChunk(file=file, data=data))


def answering(server, *choice):
    with server.repository.leases.lease(*choice) as version:
        return version.version, version.model.offset


def test_an_upload_is_told_in_three_steps(served):
    server, stub = served
    accepted, received, published = stub.UploadModel(
        iter([spec(label="new"), chunk(CONTENT[:5]), chunk(b""), chunk(CONTENT[5:])]), timeout=30
    )
    assert accepted.WhichOneof("event") == "accepted"
    assert received.WhichOneof("event") == "received"
    assert published.published.version == 2
    newest = published.published.change.versions[0]
    assert (newest.version, newest.state, list(newest.labels), newest.served_by_default) == (
        *(2, models_pb2.VERSION_STATE_READY, ["new"], True),
    )
    assert answering(server, "double") == (2, 7)


WRONG_UPLOADS = (
    ([chunk(b"x")], "INVALID_ARGUMENT", "the first message of the stream must be the spec"),
    ([spec(), spec()], "INVALID_ARGUMENT", "every message after the first must be a chunk"),
    ([spec(), chunk(CONTENT[:5])], "DATA_LOSS", "file 'model.keras': got 5 bytes, expected 13"),
    ([spec(), chunk(b"x" * len(CONTENT))], "DATA_LOSS", "got SHA-256"),
    ([spec(), chunk(CONTENT + b"x")], "INVALID_ARGUMENT", "got more than the 13 bytes"),
    ([spec(b"x" * 1001)], "FAILED_PRECONDITION", "the server takes up to 1000 (setting 'max_upload_bytes')"),
    (
        [spec(b"{"), chunk(b"{")],
        "FAILED_PRECONDITION",
        "the uploaded version can't be loaded: model.keras",
    ),
    ([spec(name="../x")], "INVALID_ARGUMENT", "name: got '../x'"),
    ([spec(path="../x")], "INVALID_ARGUMENT", "path '../x'"),
    ([], "INVALID_ARGUMENT", ""),
)


def test_an_upload_that_fails_leaves_nothing(served):
    server, stub = served
    before = tree(server)
    for messages, code, text in WRONG_UPLOADS:
        with pytest.raises(grpc.RpcError) as raised:
            list(stub.UploadModel(iter(messages), timeout=30))
        assert raised.value.code().name == code, text
        assert text in raised.value.details()
        assert tree(server) == before, text
        assert answering(server, "double") == (1, 1)


@pytest.mark.parametrize("cut", ["cancel", "channel"])
def test_an_upload_that_is_cut_leaves_nothing(served, wait_until, cut):
    server, _ = served
    before = tree(server)
    going = threading.Event()

    def messages():
        yield spec()
        yield chunk(CONTENT[:5])
        going.wait(30)

    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = management_pb2_grpc.ManagementServiceStub(channel).UploadModel(messages())
        next(call)
        wait_until(lambda: tree(server) != before)
        if cut == "cancel":
            call.cancel()
    going.set()
    wait_until(lambda: tree(server) == before)


def test_only_so_many_uploads_come_at_once(served):
    server, stub = served
    before, going = tree(server), threading.Event()

    def messages():
        yield spec()
        going.wait(30)

    # The native transport doesn't report the addresses of streams, by which they would be counted.
    limit = MAX_UPLOADS if server.settings.transport == "native" else MAX_UPLOADS // 2
    calls = [stub.UploadModel(messages()) for _ in range(limit)]
    for call in calls:
        next(call)
    refused = stub.UploadModel(iter([spec()]))
    with pytest.raises(grpc.RpcError) as raised:
        next(refused)
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "models are being uploaded" in raised.value.details()
    going.set()
    for call in calls:
        with pytest.raises(grpc.RpcError, match="got 0 bytes, expected 13"):
            list(call)
    assert tree(server) == before


def test_every_change_has_its_reply(served, tmp_path):
    server, stub = served
    list(stub.UploadModel(iter([spec(), chunk(CONTENT)]), timeout=30))
    back = stub.RollBack(pb.RollBackRequest(name="double"), timeout=30)
    assert (back.version, [(one.version, one.pinned) for one in back.change.versions]) == (1, [(2, False), (1, True)])
    assert stub.UnpinVersion(pb.UnpinVersionRequest(name="double")).change.versions[0].served_by_default
    assert stub.PinVersion(pb.PinVersionRequest(name="double", version=1)).change.versions[1].pinned
    labelled = stub.SetLabel(pb.SetLabelRequest(name="double", label="stable", version=2)).change
    assert labelled.versions[0].labels == ["stable"]
    stub.SetLabel(pb.SetLabelRequest(name="double", label="canary", version=2))
    set_ = stub.SetCanary(pb.SetCanaryRequest(name="double", share=0.5))
    assert (set_.share, [one.canary_share for one in set_.change.versions]) == (0.5, [0.5, 0])
    assert stub.SetCanary(pb.SetCanaryRequest(name="double")).share == 0
    stub.RemoveLabel(pb.RemoveLabelRequest(name="double", label="canary"))
    assert stub.RemoveLabel(pb.RemoveLabelRequest(name="double", label="stable")).change.versions[0].labels == []
    assert len(stub.DeleteVersion(pb.DeleteVersionRequest(name="double", version=2)).change.versions) == 1
    unloaded = stub.UnloadModel(pb.UnloadModelRequest(name="double")).change.versions[0]
    assert unloaded.state == models_pb2.VERSION_STATE_UNLOADED
    assert unloaded.reason == "the model isn't loaded; LoadModel loads it"
    assert stub.LoadModel(pb.LoadModelRequest(name="double")).change.versions[0].state == models_pb2.VERSION_STATE_READY
    assert stub.DeleteModel(pb.DeleteModelRequest(name="double", force=True)).lagging == []
    records = [json.loads(line) for line in (server.settings.state_folder / FILE).read_text().splitlines()]
    assert [record["action"] for record in records] == [
        *("upload", "roll back", "unpin", "pin", "set label", "set label", "set canary", "set canary"),
        *("remove label", "remove label", "delete version"),
        *("unload", "load", "delete model"),
    ]
    assert {(record["who"], record["outcome"]) for record in records} == {("anyone", "done")}


#: Methods that need the name of a model only.
OF_A_MODEL = ("LoadModel", "UnloadModel", "RollBack", "UnpinVersion", "DeleteModel")
REFUSED = (
    ("LoadModel", pb.LoadModelRequest(), "INVALID_ARGUMENT"),
    ("LoadModel", pb.LoadModelRequest(name="absent"), "NOT_FOUND"),
    ("UnloadModel", pb.UnloadModelRequest(name="dooble"), "NOT_FOUND"),
    ("RollBack", pb.RollBackRequest(name="double", version=-1), "INVALID_ARGUMENT"),
    ("RollBack", pb.RollBackRequest(name="double"), "FAILED_PRECONDITION"),
    ("PinVersion", pb.PinVersionRequest(name="double"), "INVALID_ARGUMENT"),
    ("PinVersion", pb.PinVersionRequest(name="double", version=9), "NOT_FOUND"),
    ("SetLabel", pb.SetLabelRequest(name="double", version=1), "INVALID_ARGUMENT"),
    ("SetLabel", pb.SetLabelRequest(name="double", label="a/b", version=1), "INVALID_ARGUMENT"),
    ("RemoveLabel", pb.RemoveLabelRequest(name="double", label="a"), "NOT_FOUND"),
    ("SetCanary", pb.SetCanaryRequest(name="double", share=0.5), "FAILED_PRECONDITION"),
    ("SetCanary", pb.SetCanaryRequest(name="double", share=1.5), "INVALID_ARGUMENT"),
    ("SetCanary", pb.SetCanaryRequest(name="double", share=float("nan")), "INVALID_ARGUMENT"),
    ("SetCanary", pb.SetCanaryRequest(name="other"), "NOT_FOUND"),
    *((method, getattr(pb, f"{method}Request")(name="other"), "NOT_FOUND") for method in OF_A_MODEL),
    ("DeleteVersion", pb.DeleteVersionRequest(name="double", version=1), "FAILED_PRECONDITION"),
    ("DeleteModel", pb.DeleteModelRequest(name="double"), "FAILED_PRECONDITION"),
    ("DeleteModel", pb.DeleteModelRequest(force=True), "INVALID_ARGUMENT"),
)


def test_what_is_refused_has_its_status_and_changes_nothing(served):
    server, stub = served
    before = tree(server)
    for method, request, code in REFUSED:
        with pytest.raises(grpc.RpcError) as raised:
            getattr(stub, method)(request, timeout=30)
        assert raised.value.code().name == code, (method, request)
        assert tree(server) == before
        assert answering(server, "double") == (1, 1)
