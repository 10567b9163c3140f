from __future__ import annotations

import hashlib
import os

import pytest
from blocking import both_clients
from failing_files import fail_writes
from layerserve import Client, DataLoss, InvalidArgument, ModelNotFound
from layerserve.models import download
from layerserve.testing import FakeServer
from layerserve.v1.models_pb2 import ModelVersion
from layerserve.v1.tensor_pb2 import ModelFormat

CONTENT = bytes(range(256)) * 20


def test_into_a_directory_the_file_is_named_after_model_and_version(client, tmp_path):
    saved = client.download("double", tmp_path)
    assert saved == tmp_path / "double-1.keras"
    assert saved.read_bytes() == CONTENT
    assert os.listdir(tmp_path) == [saved.name]


def test_folders_that_are_not_there_are_made(client, tmp_path):
    assert client.download("double", f"{tmp_path}/a/b/") == tmp_path / "a/b/double-1.keras"
    assert client.download("double", tmp_path / "c/d.keras") == tmp_path / "c/d.keras"
    assert (tmp_path / "c/d.keras").read_bytes() == bytes(range(256)) * 20
    with pytest.raises(ModelNotFound):
        client.download("dooble", f"{tmp_path}/e/")
    assert not (tmp_path / "e").exists()


def test_a_path_with_the_suffix_of_another_format_is_refused(client, tmp_path):
    path = tmp_path / "a" / "model.h5"
    with pytest.raises(
        InvalidArgument, match=r"model\.h5' for a \.keras file, expected one that ends in \.keras, or a"
    ):
        client.download("double", path)
    assert os.listdir(tmp_path) == []
    assert client.download("double", path, format="keras2_h5") == path
    for name in ("model", "model.bin"):
        assert client.download("double", tmp_path / name) == tmp_path / name


@both_clients
def test_a_file_is_replaced(client, tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("old")
    assert client.download("double", str(path), version=1) == path
    assert path.read_bytes() == CONTENT


@both_clients
def test_a_file_that_came_damaged_does_not_appear(client, tmp_path, monkeypatch):
    path = tmp_path / "model.keras"
    path.write_text("old")
    write = download.PartialFile.write
    monkeypatch.setattr(download.PartialFile, "write", lambda self, data: write(self, data[:-1]))
    with pytest.raises(DataLoss, match=r"file 'model\.keras': got SHA-256 .*, expected "):
        client.download("double", path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["model.keras"]


def test_a_disk_that_becomes_full_leaves_nothing_behind(tmp_path):
    partial = download.PartialFile(tmp_path / "model.keras")
    fail_writes(partial._file)
    partial.write(CONTENT[:100])
    with pytest.raises(OSError, match="Bad file descriptor"):
        partial.publish(hashlib.sha256(CONTENT[:100]).hexdigest())
    partial.discard()
    assert os.listdir(tmp_path) == []


@both_clients
def test_errors_leave_nothing_behind(client, tmp_path):
    with pytest.raises(ModelNotFound):
        client.download("dooble", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        client.download("double", tmp_path / "file" / "folder" / "model.keras")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(("format", "suffix"), [("keras2_h5", ".h5"), ("keras3", ".keras")])
def test_another_format_can_be_asked_for(server, client, tmp_path, format, suffix):
    assert client.download("double", tmp_path, format=format) == tmp_path / f"double-1{suffix}"
    method, request = server.calls[-1]
    assert method == "DownloadModel"
    assert ModelFormat.Name(request.format) == f"MODEL_FORMAT_{format.upper()}"


def test_a_format_that_is_none_is_refused_before_the_call(server, client, tmp_path):
    before = len(server.calls)
    with pytest.raises(InvalidArgument, match="format: got 'onnx', expected one of 'keras3'"):
        client.download("double", tmp_path, format="onnx")
    assert len(server.calls) == before


@pytest.mark.parametrize(
    ("name", "file", "expected"),
    [
        ("m", "model.h5", "m-3.h5"),
        ("../../m", "model.keras", "_.._m-3.keras"),
        ("..", "../x/..", "model-3.keras"),
        ("a b", "model.ke/ras", "a_b-3.keras"),
    ],
)
def test_names_from_the_server_do_not_lead_out_of_the_directory(tmp_path, name, file, expected):
    destination = download._destination(f"{tmp_path}/", ModelVersion(name=name, version=3, file=file))
    assert destination == tmp_path / expected


def test_a_stream_that_ends_before_it_began_is_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(FakeServer, "DownloadModel", lambda self, request, context: iter(()))
    with FakeServer() as silent:
        silent.add_model("double", lambda arrays: {}, [], [], file=b"x")
        with (
            Client(silent.address, timeout=20) as other,
            pytest.raises(DataLoss, match="the server closed the stream without sending data"),
        ):
            other.download("double", tmp_path)
    assert os.listdir(tmp_path) == []
