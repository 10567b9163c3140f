"""A server whose models are in a store: what is there is served, what goes wrong there doesn't reach callers."""

from __future__ import annotations

import hashlib
import json
import threading

import grpc
import numpy as np
import pytest
from layerserve.v1 import (
    management_pb2,
    management_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    prediction_pb2,
    prediction_pb2_grpc,
    tensor_pb2,
)
from layerserve.values import tensors
from layerserve_server.extensions.object_stores.process import ProcessStore
from layerserve_server.extensions.object_stores.store import FsspecStore
from layerserve_server.extensions.stores import source
from layerserve_server.repository.version_states import State

X = np.ones((1, 2), np.float32)
ROOT = "s3://bucket/models"


@pytest.fixture
def served(start, tmp_path, monkeypatch):
    """Starts a server of the store, which it uses in this process: that of its own takes a second to start."""
    monkeypatch.setattr(source, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(source, "ProcessStore", FsspecStore)

    def start_server(path=ROOT, **changes):
        options = {"state": tmp_path / "state", "remote_poll_seconds": 0.1, "poll_seconds": 0.05, **changes}
        return start(path, **options)

    return start_server


def predict(channel, version=None, label=None):
    model = tensor_pb2.ModelSpec(name="double", version=version, label=label)
    message = prediction_pb2.PredictRequest(model=model, inputs=[tensors.encode(X, "x")])
    reply = prediction_pb2_grpc.PredictionServiceStub(channel).Predict(message, timeout=30)
    (y,) = [tensors.decode(one) for one in reply.outputs]
    return reply.model.version, float(y[0, 0]) - 2


def put(s3, version, offset, **facts):
    s3.put(f"models/double/{version}/model.keras", json.dumps({"offset": offset}))


def test_the_newest_version_is_served_and_an_older_one_on_demand(s3, served, connect, tmp_path):
    for version in (1, 2, 3):
        put(s3, version, version * 10)
    app = served()
    channel = connect(app)
    assert predict(channel) == (3, 30)
    copies = app.settings.root / "double"
    assert sorted(path.name for path in copies.iterdir()) == ["3"], "only what is served is fetched"
    assert predict(channel, version=1) == (1, 10)
    assert sorted(path.name for path in copies.iterdir()) == ["1", "3"]
    assert {one.version: one.state for one in app.repository.catalogue.describe()} == {
        3: State.READY,
        2: State.AVAILABLE,
        1: State.READY,
    }
    messages = list(
        models_pb2_grpc.ModelServiceStub(channel).DownloadModel(
            models_pb2.DownloadModelRequest(model=tensor_pb2.ModelSpec(name="double", version=2)), timeout=30
        )
    )
    assert b"".join(one.data for one in messages) == json.dumps({"offset": 20}).encode()


def test_what_changes_in_the_store_is_followed(s3, served, connect, wait_until):
    put(s3, 1, 10)
    channel = connect(served())
    put(s3, 2, 20)
    wait_until(lambda: predict(channel) == (2, 20))
    put(s3, 2, 21)
    wait_until(lambda: predict(channel) == (2, 21))
    s3.put("models/double/labels.json", '{"stable": 1}')
    with pytest.raises(Exception, match="label"):
        predict(channel, label="stable")
    wait_until(lambda: _answers(channel, label="stable") == (1, 10))
    s3.delete("models/double/2/model.keras")
    wait_until(lambda: predict(channel) == (1, 10))


def _answers(channel, **choice):
    try:
        return predict(channel, **choice)
    except Exception:
        return None


def test_a_store_that_is_away_costs_no_request(s3, served, connect, wait_until, monkeypatch):
    monkeypatch.setattr(source, "ProcessStore", ProcessStore)
    put(s3, 1, 10)
    app = served()
    channel = connect(app)
    s3.proxy.leave()

    def failures():
        return app.metrics.registry.get_sample_value("layerserve_store_list_failures_total")

    wait_until(lambda: failures() >= 1)
    for _ in range(50):
        assert predict(channel) == (1, 10)
    assert app.metrics.registry.get_sample_value("layerserve_store_up") == 0
    put(s3, 2, 20)
    s3.proxy.come_back()
    wait_until(lambda: predict(channel) == (2, 20))
    assert app.metrics.registry.get_sample_value("layerserve_store_up") == 1


def test_a_version_with_a_hostile_name_is_shown_and_the_others_are_served(s3, served, connect):
    put(s3, 1, 10)
    put(s3, 2, 20)
    s3.put("models/double/2/../../../../evil", "x")
    s3.put("models/double/2/a\\b", "x")
    app = served()
    assert predict(connect(app)) == (1, 10)
    newest, _ = app.repository.catalogue.describe()
    assert newest.state is State.FAILED
    assert "can't be a file of a version" in newest.reason


def test_publishing_writes_the_manifest_last_and_another_server_serves_it(s3, served, connect, tmp_path, wait_until):
    put(s3, 1, 10)
    app = served()
    other = connect(served(state=tmp_path / "other"))
    file = tmp_path / "trained.keras"
    file.write_text(json.dumps({"offset": 20}))
    app.repository.publisher.check_publishable("double", 1)
    assert app.repository.publisher.publish("double", file, run="r1", base_version=1, label="stable") == 2
    assert not file.exists()
    assert predict(connect(app), label="stable") == (2, 20)
    assert s3.paths() == [
        "models/double/1/model.keras",
        "models/double/2/manifest.json",
        "models/double/2/model.keras",
        "models/double/labels.json",
    ]
    assert json.loads(s3.text("models/double/2/manifest.json"))["run"] == "r1"
    assert json.loads(s3.text("models/double/labels.json")) == {"stable": 2}
    wait_until(lambda: _answers(other, label="stable") == (2, 20))
    assert app.repository.publisher.version_of_run("double", "r1") == 2


def test_a_store_is_managed(s3, served, connect, wait_until, tmp_path):
    for version in (1, 2, 3):
        put(s3, version, version * 10)
    app = served()
    channel = connect(app)
    other = connect(served(state=tmp_path / "other"))
    manage = management_pb2_grpc.ManagementServiceStub(channel)
    manage.SetLabel(management_pb2.SetLabelRequest(name="double", label="stable", version=2), timeout=30)
    assert predict(channel, label="stable") == (2, 20)
    assert json.loads(s3.text("models/double/labels.json")) == {"stable": 2}
    manage.PinVersion(management_pb2.PinVersionRequest(name="double", version=1), timeout=30)
    assert predict(channel) == (1, 10)
    wait_until(lambda: _answers(other) == (1, 10))
    manage.UnpinVersion(management_pb2.UnpinVersionRequest(name="double"), timeout=30)
    manage.DeleteVersion(management_pb2.DeleteVersionRequest(name="double", version=3, force=True), timeout=30)
    assert predict(channel) == (2, 20)
    wait_until(lambda: _answers(other) == (2, 20))
    text = json.dumps({"offset": 40}).encode()
    file = management_pb2.UploadFile(path="model.keras", bytes=len(text), sha256=hashlib.sha256(text).hexdigest())
    spec = management_pb2.UploadSpec(name="double", files=[file], label="stable")
    accepted = threading.Event()

    def parts():
        yield management_pb2.UploadModelRequest(spec=spec)
        assert accepted.wait(30)
        yield management_pb2.UploadModelRequest(chunk=management_pb2.UploadChunk(data=text))

    published = []
    for reply in manage.UploadModel(parts(), timeout=60):
        accepted.set()
        published.append(reply.published.version)
    assert published == [0, 0, 4], "the number of a deleted version isn't given again"
    assert predict(channel, label="stable") == (4, 40)
    wait_until(lambda: _answers(other, label="stable") == (4, 40))
    assert "models/double/4/manifest.json" in s3.paths()
    manage.DeleteModel(management_pb2.DeleteModelRequest(name="double", force=True), timeout=30)
    assert s3.paths() == ["models/double/serving.json"]
    wait_until(lambda: other_has_none(other))


def test_labels_of_classes_come_with_each_version(s3, served, wait_until, tmp_path):
    """From the version's folder, or from the model's, which stays when a version is deleted."""
    put(s3, 1, 10)
    put(s3, 2, 20)
    s3.put("models/double/layerserve.toml", 'class_labels = { y = "labels.txt" }')
    s3.put("models/double/labels.txt", "cat\ndog")
    s3.put("models/double/2/labels.txt", "cow\npig")
    app = served()

    def labels(version):
        with app.repository.leases.lease("double", version) as loaded:
            return b" ".join(loaded.class_labels["y"])

    assert (labels(1), labels(2)) == (b"cat dog", b"cow pig")
    s3.put("models/double/labels.txt", "hen\nfox")
    wait_until(lambda: labels(1) == b"hen fox")
    file = tmp_path / "trained.keras"
    file.write_text(json.dumps({"offset": 30}))
    assert app.repository.publisher.publish("double", file, run="r1", base_version=1) == 3
    assert labels(3) == b"hen fox"
    # Without a version whose labels it could have.
    file.write_text(json.dumps({"offset": 40}))
    assert app.repository.publisher.publish("double", file, run="r2", base_version=0) == 4
    assert labels(4) == b"hen fox"
    app.repository.publisher.writer.withdraw("double", 1, app.settings.root / "double" / "1")
    assert "models/double/labels.txt" in s3.paths()
    app.repository.publisher.writer.withdraw_model("double", 3)
    assert s3.paths() == ["models/double/serving.json"]


def test_a_call_that_loads_a_model_waits_for_its_copies(s3, served, connect):
    put(s3, 1, 10)
    put(s3, 2, 20)
    s3.put("models/double/2/manifest.json", json.dumps({"file": "model.keras", "sha256": "00"}))
    app = served(model_control="explicit")
    channel = connect(app)
    assert not (app.settings.root / "double").exists(), "nothing is fetched for a model that isn't to be loaded"
    manage = management_pb2_grpc.ManagementServiceStub(channel)
    with pytest.raises(grpc.RpcError, match=r"version 2: .*sha256 differs from its manifest's; version 1 serves"):
        manage.LoadModel(management_pb2.LoadModelRequest(name="double"), timeout=30)
    assert predict(channel) == (1, 10)


def other_has_none(channel):
    try:
        predict(channel)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.NOT_FOUND
    return False
