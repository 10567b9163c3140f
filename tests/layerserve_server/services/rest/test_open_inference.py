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
    app.drain()
    assert call("GET", "/v2/health/ready").status == 503


@pytest.mark.parametrize(
    ("verb", "path", "body", "status"),
    [
        ("GET", "/v2/models/nope", None, 404),
        ("GET", "/v2/models/nope/ready", None, 404),
        ("GET", "/v2/models/double/versions/7/ready", None, 404),
        ("GET", "/v2/models/double/versions/7", None, 404),
        ("GET", "/v2/models/double/versions/stabel", None, 404),
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
