"""Triton's paths."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from layerserve_server.errors import InvalidRequestError
from layerserve_server.extensions.triton import rest
from layerserve_server.protocols.inference.inference_pb2 import LogSettingsRequest, ModelRepositoryParameter
from tokens import write_tokens


def logging(body):
    made = rest._logging(SimpleNamespace(body=body)).message
    return LogSettingsRequest.FromString(made).settings


def test_paths_describe_models_and_the_server(serve):
    _, call = serve()
    for path in ("/v2/models/double", "/v2/models/double/versions/1"):
        config = call("GET", path + "/config").json
        assert (config["name"], config["max_batch_size"]) == ("double", 64)
        assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}]
        assert call("GET", path + "/stats").json["model_stats"][0]["inference_count"] == 0
    assert [one["name"] for one in call("GET", "/v2/models/stats").json["model_stats"]] == ["double"]
    assert call("POST", "/v2/repository/index", {"ready": True}).json == [
        {"name": "double", "version": "1", "state": "READY", "reason": ""}
    ]
    assert call("GET", "/v2/logging").json["log_info"] is True
    assert call("GET", "/v2/trace/setting").json["trace_level"] == ["OFF"]
    assert call("GET", "/v2/cudasharedmemory/status").json == []
    assert call("POST", "/v2/cudasharedmemory/unregister", b"").json == {}


def test_the_index_has_versions_that_are_not_ready_unless_told_otherwise(serve, put):
    app, call = serve()
    put("broken", text="no model")
    for _ in range(2):  # it has to be unchanged in between
        app.repository.scan()
    for body, names in (
        ({}, ["broken", "double"]),
        ({"ready": False}, ["broken", "double"]),
        ({"ready": True}, ["double"]),
    ):
        assert [one["name"] for one in call("POST", "/v2/repository/index", body).json] == names


@pytest.mark.parametrize(
    ("verb", "path", "body", "status"),
    [
        ("GET", "/v2/models/double/versions/stabel/config", None, 404),
        ("POST", "/v2/repository/index", b"[]", 400),
        ("POST", "/v2/cudasharedmemory/region/r/register", {}, 501),
        ("POST", "/v2/logging", {"log_info": False}, 501),
        ("POST", "/v2/trace/setting", {"trace_level": ["TIMESTAMPS"]}, 501),
        ("POST", "/v2/trace/setting", {"\ud800": None}, 400),
        ("POST", "/v2/trace/setting", {"trace_level": ["TIMESTAMPS", 1]}, 400),
    ],
)
def test_what_does_not_exist_gets_a_status_and_a_reason(serve, verb, path, body, status):
    _, call = serve()
    reply = call(verb, path, body)
    assert (reply.status, reply.headers["content-type"]) == (status, "application/json")
    assert reply.json["error"]
    assert reply.headers["layerserve-reason"]
    assert call("GET", "/v2").status == 200


@pytest.mark.parametrize("content", ["AA?AA==", "AAA", "é"])
def test_the_content_of_a_file_has_to_be_base64(serve, content):
    _, call = serve()
    reply = call("POST", "/v2/repository/models/double/load", {"parameters": {"file:1/model.keras": content}})
    assert (reply.status, "got a string that isn't base64" in reply.json["error"]) == (400, True)


def test_each_path_needs_the_right_of_its_method(serve, tmp_path):
    _, call = serve(tokens=write_tokens(tmp_path / "tokens.toml"))
    for path, right in (("/v2/models/double/stats", "read"), ("/v2/logging", "manage")):
        for token in ("wrong", "predict", "read", "train", "manage", "expired"):
            wanted = 401 if token in ("wrong", "expired") else 200 if token == right else 403
            assert call("GET", path, Authorization=f"Bearer {token}").status == wanted, (path, token)
    assert call("GET", "/v2/models/double/stats", Authorization="Bearer other-models").status == 403


def test_a_site_that_has_the_servers_address_unloads_nothing(serve):
    app, call = serve()
    names = {"Host": "evil.example", "Origin": "http://evil.example"}
    assert call("POST", "/v2/repository/models/double/unload", b"{}", **names).status == 403
    assert app.repository.catalogue.describe_one("double").answers


REFUSED = {
    "parameter of a repository": (
        lambda: rest._repository_parameter("p", 1.5),
        "parameters.p: got .*, expected a string, an integer, true or false",
    ),
    "setting of the log": (
        lambda: logging(b'{"log_info": [1]}'),
        "log_info: got a list of 1, expected a string, number or bool",
    ),
    "large setting of the log": (lambda: logging(b'{"a": 4294967296}'), "a: got the number 4294967296, expected a"),
    "no base64": (
        lambda: rest._repository_parameter("file:1/model.keras", "?"),
        "parameters.file:1/model.keras: got a string that isn't base64",
    ),
}


@pytest.mark.parametrize(("ask", "text"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_named(ask, text):
    with pytest.raises(InvalidRequestError, match=text):
        ask()


@pytest.mark.parametrize(
    ("key", "value", "field", "held"),
    [
        ("a", True, "bool_param", True),
        ("a", 2**63 - 1, "int64_param", 2**63 - 1),
        ("a", "b", "string_param", "b"),
        ("file:1/model.keras", "YQ==", "bytes_param", b"a"),
    ],
)
def test_a_parameter_of_a_repository_has_the_type_of_its_value(key, value, field, held):
    assert rest._repository_parameter(key, value) == ModelRepositoryParameter(**{field: held})


def test_a_setting_of_the_log_has_the_type_of_its_value():
    found = logging(b'{"a": true, "b": 4294967295, "c": 0, "d": "text"}')
    assert [found[key].WhichOneof("parameter_choice") for key in "abcd"] == [
        *("bool_param", "uint32_param", "uint32_param", "string_param")
    ]
    assert (found["b"].uint32_param, found["d"].string_param) == (2**32 - 1, "text")
