"""Models of MLflow: what an address names is served, as long as another version isn't loaded."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from fake_mlflow import FakeMlflow, MlflowException
from layerserve.v1 import models_pb2, models_pb2_grpc, prediction_pb2, prediction_pb2_grpc, tensor_pb2
from layerserve.values import tensors
from layerserve_server.commands.settings_reader import SettingsError, read_settings
from layerserve_server.extensions.object_stores import mlflow_store
from layerserve_server.extensions.object_stores.mlflow_store import MlflowStore
from layerserve_server.extensions.object_stores.objects import StoreError
from layerserve_server.extensions.object_stores.process import ProcessStore
from layerserve_server.extensions.stores import source
from layerserve_server.repository.version_states import State
from missing_packages import check_named

pytest.importorskip("yaml")

X = np.ones((1, 2), np.float32)
SAVED_MODEL = {"data/model/saved_model.pb": "graph", "data/model/variables/variables.index": "index"}


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    fake = FakeMlflow(tmp_path / "mlflow")
    fake.install(monkeypatch)
    return fake


def listed(store):
    """The files of a version and the labels, with their sizes."""
    found = {one.path: one.size for one in store.objects()}
    return {path: size for path, size in found.items() if not path.endswith(("MLmodel", "manifest.json"))}


def test_the_files_of_a_version_and_its_alias(mlflow, tmp_path):
    mlflow.register("iris", 3, {**SAVED_MODEL, "data/custom_objects.cloudpickle": "code", "code/evil.py": "code"})
    mlflow.aliases["iris", "champion"] = 3
    for address in ("models:/iris@champion", "models:/iris/champion"):
        store = MlflowStore(address)
        assert listed(store) == {
            "iris/3/saved_model.pb": 5,
            "iris/3/variables/variables.index": 5,
            "iris/labels.json": 15,
        }
        assert store.read("iris/labels.json", 100) == '{"champion": 3}'
    files = [one for one in store.objects() if not one.path.endswith("labels.json")]
    names = [one.path.removeprefix("iris/3/") for one in files]
    digests = store.fetch(files, names, tmp_path / "copy")
    assert digests["saved_model.pb"] == hashlib.sha256(b"graph").hexdigest()
    assert sorted(path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*")) == [
        *("MLmodel", "manifest.json", "saved_model.pb", "variables", "variables/variables.index"),
    ]


def test_a_version_the_newest_and_what_a_run_logged(mlflow):
    for version in (1, 2):
        mlflow.register("my iris", version, {"data/model.keras": "x" * version})
    mlflow.log("runs:/ab/out/model", {"data/model.h5": "abc"})
    mlflow.log("models:/m-0123456789abcdef", {"data/model.h5": "abcd"})
    models = {
        "models:/my iris/1": {"my_iris/1/model.keras": 1},
        "models:/my iris/latest": {"my_iris/2/model.keras": 2, "my_iris/labels.json": 13},
        "runs:/ab/out/model": {"model/1/model.h5": 3},
        "models:/m-0123456789abcdef": {"m-0123456789abcdef/1/model.h5": 4},
    }
    for address, expected in models.items():
        assert listed(MlflowStore(address)) == expected


def test_what_is_logged_again_has_another_identity(mlflow):
    mlflow.log("runs:/ab/model", {"data/model.keras": "abc"}, model_uuid="1")
    store = MlflowStore("runs:/ab/model")
    before = store.objects()
    assert store.objects() == before
    mlflow.log("runs:/ab/model", {"data/model.keras": "abd"}, model_uuid="2")
    assert store.objects() != before


def test_what_changes_while_it_is_read_is_refused(mlflow, tmp_path, monkeypatch):
    place = mlflow.register("iris", 1, {"data/model.keras": "abc"})
    store = MlflowStore("models:/iris/1")
    files = [one for one in store.objects() if one.path.endswith(".keras")]
    download = store._download

    def grow(repository, path, folder):
        arrived = download(repository, path, folder)
        if path.endswith(".keras"):
            (place / path).write_text("abcd")
        return arrived

    monkeypatch.setattr(store, "_download", grow)
    with pytest.raises(StoreError, match="changed while it was read") as raised:
        store.fetch(files, ["model.keras"], tmp_path / "a")
    assert raised.value.kind == "changed"
    with pytest.raises(StoreError, match="changed since it was listed"):
        store.fetch(files, ["model.keras"], tmp_path / "b")


def test_a_link_is_no_file(mlflow, tmp_path, monkeypatch):
    mlflow.register("iris", 1, {"data/model.keras": "abc"})
    store = MlflowStore("models:/iris/1")
    files = [one for one in store.objects() if one.path.endswith(".keras")]
    (tmp_path / "secret").write_text("abc")

    class Linked:
        def download_artifacts(self, path, dst_path):
            return str(tmp_path / "secret")

    monkeypatch.setattr(store, "_repository", lambda version: Linked())
    monkeypatch.setattr(store, "_files", lambda version: {one.path: (one, "data/model.keras") for one in files})
    with pytest.raises(StoreError, match="isn't a file"):
        store.fetch(files, ["model.keras"], tmp_path / "copy")


@pytest.mark.parametrize(
    ("files", "flavors", "kind", "problem"),
    [
        ({}, {"sklearn": {}}, "refused", "flavors: got sklearn, expected keras or tensorflow"),
        ({}, {"keras": {}}, "refused", "files: got MLmodel, expected one of data/model.keras"),
        ({"MLmodel": "x" * ((1 << 20) + 1)}, {}, "refused", "MLmodel: got more than 1048576 bytes"),
        (None, {}, "damaged", "files: got none, expected MLmodel"),
    ],
)
def test_a_version_that_can_not_be_served_is_listed_with_its_reason(mlflow, tmp_path, files, flavors, kind, problem):
    place = mlflow.register("iris", 1, files or {}, flavors)
    if files is None:
        (place / "MLmodel").unlink()
    store = MlflowStore("models:/iris/1")
    one, manifest = store.objects()
    assert (one.path, manifest.path) == ("iris/1/MLmodel", "iris/1/manifest.json")
    with pytest.raises(StoreError, match=problem) as raised:
        store.fetch([one, manifest], ["MLmodel", "manifest.json"], tmp_path / "copy")
    assert raised.value.kind == kind


@pytest.mark.parametrize(
    ("address", "kind", "problem"),
    [
        ("models:/iris@none", "missing", "Registered model alias none not found"),
        ("models:/iris/7", "missing", r"version=7\) not found"),
        ("models:/other/latest", "missing", "has no versions"),
        ("runs:/ab/model", "missing", "Run with id=ab not found"),
        ("models:/m-0123456789abcdef", "missing", "'m-0123456789abcdef' not found"),
        ("models:/iris/2", "away", "version 2 is PENDING_REGISTRATION, expected READY"),
    ],
)
def test_what_is_not_there_is_no_empty_store(mlflow, address, kind, problem):
    mlflow.register("iris", 1, {"data/model.keras": "abc"})
    mlflow.register("iris", 2, {"data/model.keras": "abc"})
    mlflow.versions["iris", 2].status = "PENDING_REGISTRATION"
    with pytest.raises(StoreError, match=problem) as raised:
        MlflowStore(address).objects()
    assert raised.value.kind == kind


def test_without_an_address_of_mlflow_its_library_is_not_asked(mlflow, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(StoreError, match="MLFLOW_TRACKING_URI isn't set; set it to the address"):
        MlflowStore("models:/iris/1")


def test_errors_have_no_password(mlflow):
    mlflow.error = MlflowException("API request to https://me:secret@mlflow/api failed")
    with pytest.raises(StoreError, match="models:/iris/1: API request to https://mlflow/api failed") as raised:
        MlflowStore("models:/iris/1").objects()
    assert raised.value.kind == "away"


def test_nothing_is_written(mlflow, tmp_path):
    store = MlflowStore("models:/iris/1")
    for write in (store.create, store.write, lambda path, text: store.upload(tmp_path, path)):
        with pytest.raises(StoreError, match="models:/iris/1 is read only"):
            write("iris/2/model.keras", "")
    with pytest.raises(StoreError, match="read only"):
        store.delete("iris/1/model.keras")


def test_addresses_are_paths_of_the_settings(tmp_path, monkeypatch):
    for address in ("models:/iris@champion", "models:/my iris/3", "runs:/ab/model"):
        settings = read_settings([address, "--state", str(tmp_path)])
        assert settings.address == address
        assert settings.root.parent.parent == tmp_path / "remote"
    with pytest.raises(SettingsError, match=r"expected models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN/PATH"):
        read_settings(["models:/iris"])
    check_named(monkeypatch, ["models:/iris/1"], ["mlflow"], r"PATH \(.*\): requires mlflow-skinny: pip .*")


def test_what_a_library_prints_is_no_result(tmp_path, monkeypatch):
    """The process of the store has MLflow from a folder here, which prints when it is imported."""
    (tmp_path / "mlflow.py").write_text("import os\nos.write(1, b'hello\\n')\nprint('hello')\nraise ValueError('no')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow")
    store = ProcessStore("models:/iris/1")
    try:
        with pytest.raises(StoreError, match="models:/iris/1: no"):
            store.objects()
    finally:
        store.close()


# A server.


@pytest.fixture
def served(start, mlflow, tmp_path, monkeypatch):
    """Starts a server of an address, which it reads in this process."""
    monkeypatch.setattr(source, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(source, "ProcessStore", MlflowStore)
    monkeypatch.setattr(source, "missing_extras", lambda settings: [])
    monkeypatch.setattr(mlflow_store, "LOOK_SECONDS", 0.01)

    def start_server(path="models:/double@champion", **changes):
        options = {"state": tmp_path / "state", "remote_poll_seconds": 0.1, "poll_seconds": 0.05, **changes}
        return start(path, **options)

    return start_server


def put(mlflow, version, offset):
    mlflow.register("double", version, {"data/model.keras": json.dumps({"offset": offset})})


def predict(channel, label=None):
    model = tensor_pb2.ModelSpec(name="double", label=label)
    message = prediction_pb2.PredictRequest(model=model, inputs=[tensors.encode(X, "x")])
    reply = prediction_pb2_grpc.PredictionServiceStub(channel).Predict(message, timeout=30)
    (y,) = [tensors.decode(one) for one in reply.outputs]
    return reply.model.version, float(y[0, 0]) - 2


def states(app):
    return {one.version: (one.state, one.reason) for one in app.repository.catalogue.describe()}


def test_a_moved_alias_is_followed_without_a_failed_call(served, mlflow, connect, wait_until):
    """Up and down: the version before answers until the other one is loaded, and is gone then."""
    for version in (1, 2, 3):
        put(mlflow, version, version * 10)
    mlflow.aliases["double", "champion"] = 2
    app = served()
    channel = connect(app)
    assert predict(channel) == predict(channel, "champion") == (2, 20)
    assert list(states(app)) == [2]
    for version in (3, 1, 2):
        before = {predict(channel)}
        mlflow.aliases["double", "champion"] = version
        answers = set()

        def followed(version=version, answers=answers):
            answers |= {predict(channel), predict(channel, "champion")}
            return predict(channel) == (version, version * 10) and list(states(app)) == [version]

        wait_until(followed)
        assert answers <= before | {(version, version * 10)}


def test_a_version_that_can_not_be_served_leaves_the_one_before(served, mlflow, connect, wait_until):
    put(mlflow, 1, 10)
    mlflow.aliases["double", "champion"] = 1
    app = served()
    channel = connect(app)
    mlflow.register("double", 2, {"model.pkl": "code"}, {"sklearn": {}})
    mlflow.aliases["double", "champion"] = 2
    wait_until(lambda: states(app).get(2, (None,))[0] is State.FAILED)
    assert "flavors: got sklearn, expected keras or tensorflow" in states(app)[2][1]
    # One that is fetched, and isn't a model.
    mlflow.register("double", 3, {"data/model.keras": "no model"})
    mlflow.aliases["double", "champion"] = 3
    wait_until(lambda: states(app).get(3, (None,))[0] is State.FAILED)
    assert predict(channel) == predict(channel, "champion") == (1, 10)
    # A server that is started now serves it, too.
    app.stop()
    app = served()
    wait_until(lambda: states(app).get(3, (None,))[0] is State.FAILED)
    assert predict(connect(app)) == (1, 10)
    put(mlflow, 4, 40)
    mlflow.aliases["double", "champion"] = 4
    wait_until(lambda: predict(connect(app)) == (4, 40) and list(states(app)) == [4])


def test_a_moved_alias_is_followed_where_memory_is_limited(served, mlflow, connect, wait_until):
    """What isn't loaded, and isn't listed any more, isn't loaded by the next request."""
    for version in (1, 2):
        put(mlflow, version, version * 10)
    mlflow.aliases["double", "champion"] = 2
    app = served(max_model_bytes=1 << 30)
    channel = connect(app)
    mlflow.aliases["double", "champion"] = 1
    wait_until(lambda: list(states(app)) == [1])
    assert predict(channel) == (1, 10)
    mlflow.aliases["double", "champion"] = 2
    wait_until(lambda: predict(channel) == (2, 20) and list(states(app)) == [2])


@pytest.mark.parametrize("what", ["alias", "version", "server"])
def test_what_is_served_stays_if_it_is_gone_from_mlflow(served, mlflow, connect, wait_until, caplog, what):
    put(mlflow, 1, 10)
    mlflow.aliases["double", "champion"] = 1
    app = served()
    channel = connect(app)
    if what == "server":
        mlflow.error = MlflowException("401: credentials are missing", "UNAUTHENTICATED")
    elif what == "version":
        del mlflow.versions["double", 1]
    else:
        del mlflow.aliases["double", "champion"]

    def failures():
        return app.metrics.registry.get_sample_value("layerserve_store_list_failures_total")

    wait_until(failures)
    assert predict(channel) == (1, 10)
    assert {"alias": "alias champion not found", "version": "not found", "server": "credentials"}[what] in caplog.text
    app.stop()
    assert predict(connect(served())) == (1, 10), "a server that is started now serves its copy"


def test_a_server_does_not_start_without_a_copy_of_what_is_not_there(served, mlflow):
    with pytest.raises(OSError, match="alias champion not found"):
        served()


def test_calls_that_write_are_refused(served, mlflow, connect):
    put(mlflow, 1, 10)
    app = served("models:/double/1")
    with pytest.raises(OSError, match="layerserve push publishes to MLflow"):
        app.repository.publisher.writer.check_writable("double")
    listed = models_pb2_grpc.ModelServiceStub(connect(app)).ListModels(models_pb2.ListModelsRequest(), timeout=30)
    assert [(one.name, one.version) for one in listed.versions] == [("double", 1)]
