"""The other paths of the Open Inference Protocol."""

from __future__ import annotations

import pytest


def test_paths_describe_the_server_and_its_models(serve):
    app, call = serve(server_name="triton")
    for path in ("/v2", "/v2/"):
        assert call("GET", path).json["name"] == "triton"
    assert call("GET", "/v2/health/live").json == {"live": True}
    assert call("GET", "/v2/health/ready").json == {"ready": True}
    for path in ("/v2/models/double", "/v2/models/double/versions/1"):
        assert call("GET", path).json == {
            "name": "double",
            "versions": ["1"],
            "platform": "layerserve",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
        }
        assert call("GET", path + "/ready").json == {"ready": True, "name": "double"}
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
    app.drain()
    assert call("GET", "/v2/health/ready").status == 503


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
        ("GET", "/v2/models/nope", None, 404),
        ("GET", "/v2/models/nope/ready", None, 404),
        ("GET", "/v2/models/double/versions/7/ready", None, 404),
        ("GET", "/v2/models/double/versions/7", None, 404),
        ("GET", "/v2/models/double/versions/stabel/config", None, 404),
        ("POST", "/v2/repository/index", b"[]", 400),
        ("POST", "/v2/cudasharedmemory/region/r/register", {}, 501),
        ("POST", "/v2/logging", {"log_info": False}, 501),
        ("POST", "/v2/trace/setting", {"trace_level": ["TIMESTAMPS"]}, 501),
        ("POST", "/v2/trace/setting", {"\ud800": None}, 400),
        ("POST", "/v2/trace/setting", {"trace_level": ["TIMESTAMPS", 1]}, 400),
        ("GET", "/v2/models/double/infer", None, 405),
        ("DELETE", "/v2/models/double", None, 405),
        ("GET", "/v2/models//infer", None, 404),
        ("GET", "/v2/models/%FF%00%0A", None, 404),
        ("GET", "/elsewhere", None, 404),
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
