"""The paths by which SageMaker and Vertex AI ask a container."""

from __future__ import annotations

import json

import numpy as np
import pytest
from layerserve_server.extensions.installed import Settings

X = np.arange(2, dtype=np.float32).reshape(1, 2)
BODY = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": X.tolist()}]}
SAGEMAKER = {"health_path": "/ping", "predict_path": "/invocations"}
VERTEX = {"health_path": "/v1/endpoints/7/health", "predict_path": "/v1/endpoints/7/deployedModels/9:predict"}


def in_binary():
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": X.nbytes}}
    text = json.dumps({"inputs": [tensor]}).encode()
    return text + X.tobytes(), len(text)


@pytest.mark.parametrize("settings", [SAGEMAKER, VERTEX], ids=["sagemaker", "vertex"])
def test_the_only_model_answers_and_the_server_tells_whether_it_is_ready(serve, put, settings):
    app, call = serve(**settings)
    path, ready = settings["predict_path"], settings["health_path"]
    reply = call("POST", path, BODY)
    assert reply.json["outputs"][0]["data"] == [0, 2]
    assert (reply.headers["content-type"], reply.headers["layerserve-version"]) == ("application/json", "1")
    assert call("POST", path, {**BODY, "inputs": []}).status == 400
    put("other")
    for _ in range(2):
        app.repository.scan()
    refused = call("POST", path, BODY)
    assert (refused.status, "start it with --predict-model" in refused.json["error"]) == (400, True)
    assert call("GET", ready).status == 200
    app.drain()
    assert call("GET", ready).status == 503


@pytest.mark.parametrize("cloud", ["sagemaker", "vertex-ai"])
def test_the_type_of_a_body_has_the_size_of_its_json(serve, cloud):
    _, call = serve(**SAGEMAKER)
    kind = f"application/vnd.{cloud}-triton.binary+json;json-header-size="
    body, size = in_binary()
    reply = call("POST", "/invocations", body, content_type=f"{kind}{size}")
    assert reply.json["outputs"][0]["data"] == [0, 2]
    outputs = [{"name": "y", "parameters": {"binary_data": True}}]
    wanted = json.dumps({**BODY, "outputs": outputs}).encode()
    reply = call("POST", "/invocations", wanted, content_type=f"{kind}{len(wanted)}")
    assert reply.headers["content-type"].startswith(kind)
    length = int(reply.headers["content-type"].removeprefix(kind))
    assert reply.body[length:] == (2 * X).tobytes()
    for wrong in (f"more/{kind}{size}", f"{kind}more{size}", f"{kind}-123", f"{kind}12345", f"{kind}99999999999"):
        assert call("POST", "/invocations", body, content_type=wrong).status == 400


def test_a_request_may_name_another_model(serve, put):
    put("other", version=2)
    _, call = serve(**SAGEMAKER, predict_model="double")
    assert call("POST", "/invocations", BODY).json["model_name"] == "double"
    for where, status in (
        ("v2/models/other/infer", 200),
        ("/v2/models/other/versions/2/infer", 200),
        ("v2/models/other/versions/7/infer", 404),
        ("v2/models/no/infer", 404),
        ("v2/models/other/ready", 400),
        ("v2/repository/models/other/unload", 400),
    ):
        assert call("POST", "/invocations", BODY, X_Vertex_Ai_Triton_Redirect=where).status == status


def test_there_are_no_such_paths_by_default(serve):
    _, call = serve()
    assert (call("GET", "/ping").status, call("POST", "/invocations", BODY).status) == (404, 404)


@pytest.mark.parametrize("path", ["ping", "/{model}", "/a?b", "/a\nb"])
def test_a_setting_is_a_path(path):
    with pytest.raises(ValueError, match="a path that begins with '/', such as /invocations"):
        Settings(health_path=path)
