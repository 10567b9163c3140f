"""What TensorFlow Serving's clients get of a model that isn't in memory now."""

from __future__ import annotations

from http_calls import Http
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow_serving.model_service_pb2 import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelVersionStatus,
)
from layerserve_server.repository import memory_limit
from layerserve_server.repository.version import GRAPH_BYTES


def test_a_model_that_is_not_in_memory_is_available_and_loaded_by_a_request(
    start, put, connect, load_fake, monkeypatch, wait_until
):
    monkeypatch.setattr(memory_limit, "SETTLED_SECONDS", -1.0)
    read = []

    def load(path):
        read.append(path.parent.parent.name)
        return load_fake(path)

    for number, name in enumerate("abc"):
        put(name, offset=number)
    app = start(load=load, max_model_bytes=5 * GRAPH_BYTES // 2, http_port=0)
    wait_until(lambda: read == ["a", "b"] and app.repository.catalogue.describe("b")[0].memory_bytes)
    call = connect(app).unary_unary(
        "/tensorflow.serving.ModelService/GetModelStatus",
        request_serializer=GetModelStatusRequest.SerializeToString,
        response_deserializer=GetModelStatusResponse.FromString,
    )
    (found,) = call(GetModelStatusRequest(model_spec={"name": "c"}), timeout=30).model_version_status
    assert found.state == ModelVersionStatus.AVAILABLE
    assert read == ["a", "b"]
    http = Http(app.http_port)
    reply = http("POST", "/v1/models/c:predict", {"instances": [[1, 2]]})
    http.close()
    assert reply.json == {"predictions": [[4, 6]]}
    assert read == ["a", "b", "c"]
