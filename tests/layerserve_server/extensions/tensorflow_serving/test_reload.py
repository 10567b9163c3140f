"""HandleReloadConfigRequest: policies, labels, loading and unloading; what can't be changed is refused by name."""

import json

import grpc
import pytest
from layerserve_server.errors import NotLoadedError
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow.error_codes_pb2 import OK
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow_serving.model_service_pb2 import (
    ReloadConfigRequest,
    ReloadConfigResponse,
)
from layerserve_server.repository.audit import FILE
from layerserve_server.repository.control import read_control
from layerserve_server.repository.publishing import UnreadableFileError
from layerserve_server.repository.version_states import State
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

    send.repository, send.state = app.repository, app.settings.state_folder
    return send


OTHER = {"name": "other"}
DOUBLE = {"name": "double"}


def policy(config, **chosen):
    """A configuration with a version policy."""
    return {**config, "model_version_policy": chosen}


def served(reload, name="double"):
    """The versions in memory, the default, and what is written of calls."""
    found = reload.repository.catalogue.describe(name)
    ready = [one.version for one in found if one.state is State.READY]
    return ready, next((one.version for one in found if one.default), None)


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
    assert reload.repository.catalogue.describe_one("double", label="stable").version == 2
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
        ([], {"config": {"model_config_list": {}}}, "INVALID_ARGUMENT", "got no model, expected"),
        ([MOVE, {"name": "nothing"}], {}, "NOT_FOUND", "unknown model 'nothing'"),
        ([MOVE, {"name": ""}], {}, "INVALID_ARGUMENT", "got a model without a name"),
        ([MOVE, OTHER, OTHER], {}, "INVALID_ARGUMENT", "model 'other': configured twice"),
        ([MOVE, {**OTHER, "base_path": "/tmp"}], {}, "FAILED_PRECONDITION", "base_path: got '/tmp', expected none or"),
        ([MOVE, {**OTHER, "base_path": "gs://bucket/other"}], {}, "FAILED_PRECONDITION", "base_path: got 'gs://bucket"),
        ([MOVE, {**OTHER, "model_platform": "torch"}], {}, "INVALID_ARGUMENT", "model_platform: got 'torch'"),
        ([MOVE, {**OTHER, "logging_config": {}}], {}, "FAILED_PRECONDITION", "logging_config"),
        ([MOVE, policy(OTHER, specific={"versions": [2, 1]})], {}, "NOT_FOUND", "model 'other' has no version 2"),
        (
            [MOVE, policy(OTHER, specific={})],
            {},
            "INVALID_ARGUMENT",
            "got specific without versions, expected at least",
        ),
        (
            [MOVE, policy(OTHER, latest={"num_versions": 1001})],
            {},
            "INVALID_ARGUMENT",
            "got latest 1001, expected up to",
        ),
        (
            [policy({"name": "double"}, specific={"versions": [2]}), OTHER],
            {},
            "FAILED_PRECONDITION",
            "label 'old' points at version 1, which the version policy 'specific 2' doesn't serve",
        ),
        (
            [policy({**MOVE, "version_labels": {"stable": 1}}, specific={"versions": [2]}), OTHER],
            {},
            "FAILED_PRECONDITION",
            "label 'stable' points at version 1",
        ),
        ([MOVE, {**OTHER, "version_labels": {"new": 9}}], {}, "NOT_FOUND", "model 'other' has no version 9"),
        ([MOVE, {**OTHER, "version_labels": {"a/b": 1}}], {}, "INVALID_ARGUMENT", "label: got 'a/b'"),
        ([MOVE, OTHER], {"metric_names": ["/x"]}, "INVALID_ARGUMENT", "metric_names: got names, expected none"),
        ([], {}, "INVALID_ARGUMENT", "config: got none or a custom_model_config, expected a model_config_list"),
        ([], {"config": {"custom_model_config": {}}}, "INVALID_ARGUMENT", "expected a model_config_list"),
        ([MOVE, OTHER], {"token": "other-models"}, "PERMISSION_DENIED", "double"),
        ([MOVE, OTHER], {"token": "read"}, "PERMISSION_DENIED", "no right 'manage'"),
    ],
)
def test_what_cant_be_changed_is_refused_before_anything_is(reload, labels, configs, fields, code, text):
    got, details = refused(reload, *configs, **fields)
    assert (got, text in details) == (code, True), details
    assert labels() == {"stable": 1, "old": 1}


def test_a_policy_holds_in_place_of_that_of_the_settings(reload, tmp_path, put):
    assert served(reload) == ([2, 1], 2), "version 1 has a label"
    reload({**DOUBLE, "version_labels": {"stable": 2}}, OTHER)
    reload(policy(DOUBLE, specific={"versions": [2]}), OTHER)
    assert served(reload) == ([2], 2)
    with pytest.raises(NotLoadedError, match="the policy of a call serves version 2 only"):
        reload.repository.leases.lease("double", 1)
    control = json.loads((tmp_path / "models" / "double" / "serving.json").read_text())
    assert control == {"policy": {"version_policy": "specific", "specific_versions": [2]}}
    put("double", 3)
    for _ in range(2):  # it has to be unchanged in between
        reload.repository.scan()
    assert served(reload) == ([2], 2)
    reload(policy(DOUBLE, specific={"versions": [1, 2]}), OTHER)
    assert served(reload) == ([2, 1], 2)
    reload(policy(DOUBLE, latest={"num_versions": 2}), OTHER)
    assert served(reload) == ([3, 2], 3)
    reload(policy(DOUBLE, all={}), OTHER)
    assert served(reload) == ([3, 2, 1], 3)
    reload(DOUBLE, OTHER)
    assert served(reload)[1] == 3
    assert json.loads((tmp_path / "models" / "double" / "serving.json").read_text()) == {}
    actions = [
        (one["action"], one.get("from"), one["to"], one["who"], one["outcome"])
        for one in map(json.loads, (reload.state / FILE).read_text().splitlines())
        if one["action"] == "set version policy"
    ]
    assert actions == [
        ("set version policy", "latest 1", "specific 2", "all", "done"),
        ("set version policy", "specific 2", "specific 1, 2", "all", "done"),
        ("set version policy", "specific 1, 2", "latest 2", "all", "done"),
        ("set version policy", "latest 2", "all", "all", "done"),
        ("set version policy", "all", "latest 1", "all", "done"),
    ]


def test_a_policy_whose_version_cant_be_loaded_is_taken_back(reload, put, labels):
    put("double", 3, text="broken")
    labels(stable=2)
    for _ in range(2):
        reload.repository.scan()
    code, text = refused(reload, policy(DOUBLE, specific={"versions": [2, 3]}), OTHER)
    assert (code, "the version policy stays, as version 3: " in text) == ("FAILED_PRECONDITION", True)
    assert served(reload) == ([2], 2)
    assert reload.repository.catalogue.control("double").policy is None


def test_a_model_that_isnt_listed_is_unloaded_and_one_that_is_is_loaded(reload):
    reload(DOUBLE)
    assert served(reload, "other") == ([], None)
    with pytest.raises(NotLoadedError, match="the model isn't loaded"):
        reload.repository.leases.lease("other")
    reload(policy({**OTHER, "version_labels": {"new": 1}}, specific={"versions": [1]}))
    assert (served(reload, "other"), served(reload)) == (([1], 1), ([], None))
    assert reload.repository.catalogue.labels("other") == {"new": 1}
    reload(DOUBLE, OTHER)
    assert served(reload)[1] == 2


def test_models_that_a_caller_may_not_manage_stay(reload, put):
    put("other-one")
    put("other-two")
    for _ in range(2):  # they have to be unchanged in between
        reload.repository.scan()
    reload({"name": "other-one"}, token="other-models")
    found = [served(reload, name)[1] for name in ("double", "other", "other-one", "other-two")]
    assert found == [2, 1, 1, None]


@pytest.mark.parametrize(
    "written",
    [
        "all",
        {"version_policy": "specific"},
        {"version_policy": "none"},
        {"specific_versions": [1]},
        {"version_policy": "specific", "specific_versions": ["1"]},
        {"version_policy": "latest", "latest_versions": 0},
        {"nice": [3]},
    ],
)
def test_a_policy_on_disk_that_isnt_one_is_not_known(tmp_path, written):
    (tmp_path / "serving.json").write_text(json.dumps({"policy": written, "highest": 3}))
    with pytest.raises(UnreadableFileError, match=r"serving\.json: policy: got .*, expected a version policy"):
        read_control(tmp_path)
