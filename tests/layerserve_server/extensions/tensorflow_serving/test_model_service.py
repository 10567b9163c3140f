"""GetModelStatus as clients of TensorFlow Serving read it."""

import grpc
import pytest
from layerserve_server.protocols.tensorflow.error_codes_pb2 import FAILED_PRECONDITION, OK
from layerserve_server.protocols.tensorflow_serving.model_service_pb2 import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelVersionStatus,
)

SERVICE = "/tensorflow.serving.ModelService/"


@pytest.fixture
def status(start, put, connect, tmp_path):
    """A function that returns the states of a model with a broken version, an old one and one that is served."""
    put("double", 1)
    put("double", 2)
    put("double", 3, text="broken")
    (tmp_path / "models" / "double" / "labels.json").write_text('{"stable": 2, "newest": 3, "gone": 9}')
    call = connect(start(tuning_seconds=0)).unary_unary(SERVICE + "GetModelStatus", None, None)

    def ask(version=None, **spec):
        message = GetModelStatusRequest()
        for key, value in {"name": "double", **spec}.items():
            setattr(message.model_spec, key, value)
        if version is not None:
            message.model_spec.version.value = version
        reply = GetModelStatusResponse.FromString(call(message.SerializeToString(), timeout=30))
        return [
            (one.version, one.state, one.status.error_code, one.status.error_message)
            for one in reply.model_version_status
        ]

    return ask


BROKEN = (3, ModelVersionStatus.END, FAILED_PRECONDITION, "model.keras: the file is truncated")
SERVED = (2, ModelVersionStatus.AVAILABLE, OK, "")
OLD = (1, ModelVersionStatus.START, OK, "")


def test_states_of_all_versions_or_one(status):
    assert status() == [BROKEN, SERVED, OLD]
    assert [status(version=number) for number in (1, 2, 3)] == [[OLD], [SERVED], [BROKEN]]
    assert status(version_label="stable") == [SERVED]
    assert status(version_label="newest") == [BROKEN]


@pytest.mark.parametrize(
    ("spec", "code", "text"),
    [
        ({"name": "other"}, "NOT_FOUND", "Could not find any versions of model other"),
        ({"version": 7}, "NOT_FOUND", "Could not find version 7 of model double"),
        ({"version": 0}, "NOT_FOUND", "Could not find version 0 of model double"),
        ({"version_label": "canary"}, "NOT_FOUND", "unknown label 'canary'"),
        ({"version_label": "gone"}, "NOT_FOUND", "has no version 9, to which label 'gone' points"),
        ({"name": ""}, "INVALID_ARGUMENT", "model_spec: got no name"),
    ],
)
def test_what_isnt_there_is_named(status, spec, code, text):
    with pytest.raises(grpc.RpcError) as refusal:
        status(**spec)
    assert refusal.value.code().name == code
    assert text in refusal.value.details()
