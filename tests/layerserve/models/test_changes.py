"""Changes of models by both clients: what is sent, what comes back, and what a failed upload leaves."""

import hashlib
import threading
from functools import partial

import pytest
from blocking import both_clients
from layerserve import (
    Client,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    LabelNotFound,
    ModelNotFound,
    ModelNotReady,
    Unavailable,
    VersionNotFound,
    VersionWarning,
)
from layerserve.models import changes as model_changes
from layerserve.testing import FakeServer
from layerserve.v1 import management_pb2


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "any name.keras"
    path.write_bytes(bytes(range(256)) * 4000)
    return path


@both_clients
def test_an_upload_is_a_new_version(client, server, file):
    seen = []
    change = client.upload("double", file, label="new", progress=lambda *step: seen.append(step))
    assert change.version == 2
    assert [(info.version, info.labels) for info in change.versions] == [(2, ("new",)), (1, ("stable",))]
    assert (change.default.version, change.lagging) == (2, ())
    assert server.uploaded == {"model.keras": file.read_bytes()}
    size = len(file.read_bytes())
    assert seen[-1] == ("testing", size, size)
    assert [step[1] for step in seen[:-1]] == sorted(step[1] for step in seen[:-1])
    assert seen[-2] == ("sending", size, size)
    assert client.predict("double", [[1, 2, 3]], version=2).tolist() == [[2, 4, 6]]


def test_a_version_with_other_inputs_is_warned_of(client, server, file, monkeypatch):
    texts = ["input 'x': version 2 has (None, 4) float32, version 1 has (None, 3) float32", "output 'y': ..."]
    published = partial(management_pb2.UploadPublished, differences=texts)
    monkeypatch.setattr(management_pb2, "UploadPublished", published)
    with pytest.warns(VersionWarning) as caught:
        change = client.upload("double", file)
    assert [str(one.message) for one in caught] == [f"model 'double': {text}" for text in texts]
    assert change.differences == tuple(texts)


def test_a_folder_is_uploaded_with_what_belongs_to_a_version(client, server, tmp_path):
    folder = tmp_path / "1"
    (folder / "variables").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("saved_model.pb", "variables/variables.index", "empty", ".hidden/x", ".y", "manifest.json"):
        (folder / name).write_text("" if name == "empty" else name)
    for name in ("proof.npz", "own.toml"):
        (tmp_path / name).write_text(name)
    client.upload("new", folder, golden=tmp_path / "proof.npz", settings=str(tmp_path / "own.toml"))
    assert server.uploaded == {
        "saved_model.pb": b"saved_model.pb",
        "variables/variables.index": b"variables/variables.index",
        "empty": b"",
        "golden.npz": b"proof.npz",
        "layerserve.toml": b"own.toml",
    }
    spec = next(request for method, request in server.calls if method == "UploadModel")
    assert [file.sha256 for file in spec.files if file.path == "empty"] == [hashlib.sha256(b"").hexdigest()]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("model.txt", r"got suffix '\.txt', expected \.keras, \.h5, \.hdf5, or the folder of a version"),
        ("empty", "it has no files"),
    ],
)
def test_what_is_no_version_is_refused_before_anything_is_sent(client, server, tmp_path, name, error):
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.txt").write_text("x")
    with pytest.raises(InvalidArgument, match=error):
        client.upload("double", tmp_path / name)
    with pytest.raises(InvalidArgument, match="got '', expected the name of a model"):
        client.upload("", tmp_path / name)
    for absent in ("absent.keras", "absent"):
        with pytest.raises(FileNotFoundError, match=absent):
            client.upload("double", tmp_path / absent)
    assert server.calls == []


@both_clients
def test_a_refused_upload_sends_no_content(client, server, file):
    for _ in range(3):
        server.fail_next(FailedPrecondition("the repository can't be written"), "UploadModel")
        with pytest.raises(FailedPrecondition, match="can't be written"):
            client.upload("double", file)
    assert server.uploaded == {}
    # A second answer still finds the channel in order, and no thread waits for ever.
    assert client.upload("double", file).version == 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("upload")]


@both_clients
def test_content_that_changes_while_it_is_sent_is_refused(client, server, file, monkeypatch):
    declared = model_changes._declared

    def changed(inside, source):
        found = declared(inside, source)
        source.write_bytes(b"x" * found.bytes)
        return found

    monkeypatch.setattr(model_changes, "_declared", changed)
    with pytest.raises(DataLoss, match="doesn't match its digest"):
        client.upload("double", file)
    assert len(server.models) == 4


@both_clients
def test_a_file_that_goes_while_it_is_sent_is_told(client, server, file, monkeypatch):
    declared = model_changes._declared

    def removed(inside, source):
        found = declared(inside, source)
        source.unlink()
        return found

    monkeypatch.setattr(model_changes, "_declared", removed)
    with pytest.raises(InvalidArgument, match=r"any name\.keras: No such file or directory"):
        client.upload("double", file)
    assert len(server.models) == 4


@both_clients
def test_progress_that_raises_ends_the_upload(client, server, file):
    def progress(*step):
        raise ZeroDivisionError("mine")

    with pytest.raises(InvalidArgument, match="progress: ZeroDivisionError: mine"):
        client.upload("double", file, progress=progress)
    assert len(server.models) == 4


def test_a_model_is_unloaded_and_loaded(client, server):
    change = client.unload("double")
    assert (change.default, [info.state for info in change.versions]) == (None, ["unloaded"])
    with pytest.raises(ModelNotReady, match="the model isn't loaded"):
        client.predict("double", [[1, 2, 3]])
    change = client.load("double")
    assert (change.default.state, change.version) == ("ready", None)
    with pytest.raises(ModelNotFound):
        client.load("dooble")


def test_the_default_moves_and_stays(client, server, file):
    for _ in range(2):
        client.upload("double", file)
    change = client.roll_back("double")
    assert (change.version, change.default.version, change.default.pinned) == (2, 2, True)
    assert client.upload("double", file).default.version == 2
    assert client.roll_back("double", version=1).version == 1
    with pytest.raises(ModelNotReady, match="no version to roll back to"):
        client.roll_back("double")
    assert client.pin("double", 3).default.version == 3
    assert client.unpin("double").default.version == 4
    with pytest.raises(VersionNotFound):
        client.pin("double", 9)


def test_labels_move_and_go(client, server, file):
    client.upload("double", file)
    change = client.set_label("double", "stable", 2)
    assert [info.labels for info in change.versions] == [("stable",), ()]
    assert client.remove_label("double", "stable").versions[0].labels == ()
    with pytest.raises(LabelNotFound):
        client.remove_label("double", "stable")


def test_the_share_of_a_canary_is_set(client, server, file):
    client.upload("double", file)
    with pytest.raises(FailedPrecondition, match="no label 'canary'"):
        client.set_canary("double", "5%")
    client.set_label("double", "canary", 2)
    with pytest.raises(FailedPrecondition, match="version 2: it is the default"):
        client.set_canary("double", "5%")
    client.set_label("double", "canary", 1)
    change = client.set_canary("double", "5%")
    assert (change.default.version, change.canary.version, change.canary.canary_share) == (2, 1, 0.05)
    assert server.canaries == {"double": 0.05}
    assert [info.canary_share for info in client.models("double")] == [0, 0.05]
    assert client.model("double", version=1).canary_share == 0.05
    assert client.set_canary("double", None).canary is None
    client.set_canary("double", "0.5 %")
    assert server.canaries == {"double": 0.005}
    assert client.roll_back("double").canary is None


@pytest.mark.parametrize("wrong", [5, 0.05, 1, True, "5", "0.05", "-1%", "101%", "%", "5%%", "nan%", float("nan")])
def test_a_share_without_a_sign_is_refused(client, server, wrong):
    """5 and 0.05 could each mean either."""
    with pytest.raises(
        InvalidArgument, match=r"share: got .*, expected a percentage from '0%' to '100%', such as '5%'"
    ):
        client.set_canary("double", wrong)
    assert not server.calls


def test_versions_and_models_are_deleted(client, server, file):
    client.upload("double", file)
    with pytest.raises(FailedPrecondition):
        client.delete_version("double", 2)
    assert [info.version for info in client.delete_version("double", 2, force=True).versions] == [1]
    with pytest.raises(FailedPrecondition):
        client.delete_model("double")
    assert client.delete_model("double", force=True) == ()
    assert client.models("double") == ()


@pytest.mark.parametrize("version", [0, -1, True, "1", None, 1.0])
def test_what_is_no_version_is_told(client, server, version):
    for call in (client.pin, client.delete_version):
        with pytest.raises(InvalidArgument, match="expected the number of a version"):
            call("double", version)
    with pytest.raises(InvalidArgument, match="expected the number of a version"):
        client.set_label("double", "stable", version)
    assert server.calls == []


def test_processes_that_lag_behind_are_told(client, server, monkeypatch):
    change = server._change
    monkeypatch.setattr(
        FakeServer,
        "_change",
        lambda self, name: management_pb2.ModelChange(
            versions=change(name).versions, lagging=["worker process 1: late"]
        ),
    )
    assert client.load("double").lagging == ("worker process 1: late",)


def test_an_upload_that_is_interrupted_here_ends_there(server, file, monkeypatch):
    """Such as by Ctrl-C while it is sent."""

    class Interrupted(BaseException):
        pass

    with Client(server.address, timeout=20) as client:
        receive = client._channel.receive

        def interrupted(stream, deadline):
            if receive(stream, deadline):
                raise Interrupted

        monkeypatch.setattr(client._channel, "receive", interrupted)
        with pytest.raises(Interrupted):
            client.upload("double", file)
    assert len(server.models) == 4


def test_a_stream_that_ends_before_the_version_is_published_is_an_error(file, monkeypatch):
    monkeypatch.setattr(FakeServer, "UploadModel", lambda *_: iter(()))
    error = pytest.raises(Unavailable, match="the server closed the stream before it published the version")
    with FakeServer() as server, Client(server.address) as client, error:
        client.upload("double", file)
