"""HandleReloadConfigRequest: it moves labels, all or none, and refuses by name what it can't change."""

import json

import grpc
import pytest
from layerserve_server.protocols.tensorflow.error_codes_pb2 import OK
from layerserve_server.protocols.tensorflow_serving.model_service_pb2 import ReloadConfigRequest, ReloadConfigResponse
from tokens import bearer, write_tokens

METHOD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"


@pytest.fixture
def labels(tmp_path):
    """Sets the labels of the model `double`, or returns them."""

    def labels_of(**given):
        path = tmp_path / "models" / "double" / "labels.json"
        if given:
            path.write_text(json.dumps(given))
        return json.loads(path.read_text())

    return labels_of


@pytest.fixture
def reload(start, put, connect, tmp_path, labels):
    """A function that sends a configuration to a server of two models."""
    put("double", 1)
    put("double", 2)
    put("other", 1)
    labels(stable=1, old=1)
    tokens = write_tokens(tmp_path / "tokens.toml")
    app = start(tuning_seconds=0, tokens=tokens)
    call = connect(app).unary_unary(METHOD, None, ReloadConfigResponse.FromString)

    def send(*configs, token="all", **fields):
        message = ReloadConfigRequest(**fields)
        for config in configs:
            message.config.model_config_list.config.add(**config)
        return call(message.SerializeToString(), timeout=30, metadata=bearer(token))

    send.repository = app.repository
    return send


OTHER = {"name": "other"}


def refused(reload, *configs, **fields):
    with pytest.raises(grpc.RpcError) as refusal:
        reload(*configs, **fields)
    return refusal.value.code().name, refusal.value.details()


def test_labels_move_are_added_and_removed(reload, labels, tmp_path):
    folder = tmp_path / "models" / "double"
    full = {
        "name": "double",
        "base_path": f"{folder}/",
        "model_platform": "tensorflow",
        "model_version_policy": {"latest": {"num_versions": 1}},
        "version_labels": {"stable": 2, "new": 2},
    }
    reply = reload(full, OTHER)
    assert (reply.status.error_code, reply.status.error_message) == (OK, "")
    assert labels() == {"stable": 2, "new": 2}
    assert reload.repository.describe_one("double", label="stable").version == 2
    # Without labels it leaves them as they are.
    reload({"name": "double"}, OTHER)
    assert labels() == {"stable": 2, "new": 2}


def test_a_label_of_a_version_that_cant_be_loaded_stays(reload, labels, put):
    put("double", 3, text="broken")
    for _ in range(2):  # until it counts as complete
        reload.repository.scan()
    code, text = refused(reload, {"name": "double", "version_labels": {"stable": 3, "old": 1}}, OTHER)
    assert (code, "version 3" in text) == ("FAILED_PRECONDITION", True)
    assert labels() == {"stable": 1, "old": 1}


MOVE = {"name": "double", "version_labels": {"stable": 2}}


@pytest.mark.parametrize(
    ("configs", "fields", "code", "text"),
    [
        ([MOVE], {}, "FAILED_PRECONDITION", "config: got no entry for other, expected one for each model"),
        ([MOVE, {"name": "nothing"}], {}, "NOT_FOUND", "unknown model 'nothing'"),
        ([MOVE, {"name": ""}], {}, "INVALID_ARGUMENT", "got a model without a name"),
        ([MOVE, OTHER, OTHER], {}, "INVALID_ARGUMENT", "model 'other': configured twice"),
        ([MOVE, {**OTHER, "base_path": "/tmp"}], {}, "FAILED_PRECONDITION", "base_path: got '/tmp', expected none or"),
        ([MOVE, {**OTHER, "base_path": "gs://bucket/other"}], {}, "FAILED_PRECONDITION", "base_path: got 'gs://bucket"),
        ([MOVE, {**OTHER, "model_platform": "torch"}], {}, "INVALID_ARGUMENT", "model_platform: got 'torch'"),
        ([MOVE, {**OTHER, "logging_config": {}}], {}, "FAILED_PRECONDITION", "logging_config"),
        (
            [MOVE, {**OTHER, "model_version_policy": {"specific": {"versions": [2, 1]}}}],
            {},
            "FAILED_PRECONDITION",
            "model 'other': model_version_policy: got specific 1, 2, expected latest 1",
        ),
        ([MOVE, {**OTHER, "model_version_policy": {"all": {}}}], {}, "FAILED_PRECONDITION", "got all, expected latest"),
        ([MOVE, {**OTHER, "version_labels": {"new": 9}}], {}, "NOT_FOUND", "model 'other' has no version 9"),
        ([MOVE, {**OTHER, "version_labels": {"a/b": 1}}], {}, "INVALID_ARGUMENT", "label: got 'a/b'"),
        ([MOVE, OTHER], {"metric_names": ["/x"]}, "INVALID_ARGUMENT", "metric_names: got names, expected none"),
        ([], {}, "INVALID_ARGUMENT", "expected a model_config_list"),
        ([], {"config": {"custom_model_config": {}}}, "INVALID_ARGUMENT", "expected a model_config_list"),
        ([MOVE, OTHER], {"token": "other-models"}, "PERMISSION_DENIED", "double"),
        ([MOVE, OTHER], {"token": "read"}, "PERMISSION_DENIED", "no right 'manage'"),
    ],
)
def test_what_cant_be_changed_is_refused_before_anything_is(reload, labels, configs, fields, code, text):
    got, details = refused(reload, *configs, **fields)
    assert (got, text in details) == (code, True), details
    assert labels() == {"stable": 1, "old": 1}


def test_policies_of_settings_are_accepted(reload, tmp_path):
    (tmp_path / "models" / "other" / "layerserve.toml").write_text(
        'version_policy = "specific"\nspecific_versions = [1]\n'
    )
    reload.repository.scan()
    reload({"name": "double"}, {**OTHER, "model_version_policy": {"specific": {"versions": [1]}}})
    (tmp_path / "models" / "other" / "layerserve.toml").write_text('version_policy = "all"\n')
    reload.repository.scan()
    reload({"name": "double"}, {**OTHER, "model_version_policy": {"all": {}}})
    assert (
        refused(reload, {"name": "double"}, {**OTHER, "model_version_policy": {"latest": {}}})[0]
        == "FAILED_PRECONDITION"
    )
