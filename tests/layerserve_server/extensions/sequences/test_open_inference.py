"""Sequences by the Open Inference Protocol over gRPC and HTTP: Triton's parameters, words and configuration."""

from __future__ import annotations

from typing import Any

import grpc
import numpy as np
import pytest
from http_calls import Http
from layerserve_server.protocols.inference import inference_pb2 as pb

SERVICE = "/inference.GRPCInferenceService/"


def infer(value: float, **parameters: Any) -> pb.ModelInferRequest:
    made = pb.ModelInferRequest(model_name="sum", raw_input_contents=[np.float32(value).tobytes()])
    made.inputs.add(name="x", datatype="FP32", shape=[1, 1])
    for name, given in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(given)]
        setattr(made.parameters[name], kind, given)
    return made


@pytest.fixture
def app(put_sum, start_sum):
    put_sum(settings="[sequences]\nidle_seconds = 2.5\nmax_sequences = 3\n")
    return start_sum(http_port=0)


@pytest.fixture
def call(app, connect):
    channel = connect(app)

    def send(method: str, request: Any, reply: Any) -> Any:
        return channel.unary_unary(SERVICE + method, type(request).SerializeToString, reply.FromString)(request)

    return send


@pytest.fixture
def http(app):
    connection = Http(app.http_port)
    yield connection
    connection.close()


def test_numbers_and_texts_are_ids_of_different_sequences(call):
    def step(value: float, id: int | str, start: bool = False, end: bool = False) -> float:
        request = infer(value, sequence_id=id, sequence_start=start, sequence_end=end)
        return float(
            np.frombuffer(call("ModelInfer", request, pb.ModelInferResponse).raw_output_contents[0], np.float32)[0]
        )

    assert (step(1, 5, start=True), step(10, "5", start=True)) == (1, 10)
    assert (step(2, 5), step(20, "5")) == (3, 30)
    assert (step(3, 5, end=True), step(30, "5", end=True)) == (6, 60)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        (
            {"sequence_id": 9},
            "inference request for sequence 9 to model 'sum' must specify the START flag on the first request of the "
            "sequence",
        ),
        (
            {"sequence_id": 0, "sequence_start": True},
            "inference request to model 'sum' must specify a non-zero or non-empty correlation ID",
        ),
        ({"sequence_id": -1}, "parameter 'sequence_id': got -1, expected an integer from 0"),
        ({"sequence_id": "a" * 257}, "parameter 'sequence_id': got 257 characters, expected at most 256"),
        ({"sequence_id": 1, "sequence_start": "yes"}, "parameter 'sequence_start': got another type"),
    ],
)
def test_errors_have_the_words_of_triton(call, parameters, text):
    with pytest.raises(grpc.RpcError) as caught:
        call("ModelInfer", infer(1, **parameters), pb.ModelInferResponse)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith(text)


def test_a_request_without_an_id_stands_alone(call):
    for parameters in ({}, {"sequence_id": 0}, {"sequence_id": ""}):
        reply = call("ModelInfer", infer(4, **parameters), pb.ModelInferResponse)
        assert np.frombuffer(reply.raw_output_contents[0], np.float32).tolist() == [4]


def test_a_stream_keeps_the_order_of_steps(app, connect):
    stream = connect(app).stream_stream(
        SERVICE + "ModelStreamInfer", pb.ModelInferRequest.SerializeToString, pb.ModelStreamInferResponse.FromString
    )
    given = [infer(1, sequence_id=7, sequence_start=n == 0, sequence_end=n == 19) for n in range(20)]
    made = [np.frombuffer(one.infer_response.raw_output_contents[0], np.float32)[0] for one in stream(iter(given))]
    assert made == list(range(1, 21))


def test_by_http(http):
    def step(value: float, **parameters: Any) -> Any:
        x = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}
        return http("POST", "/v2/models/sum/infer", {"inputs": [x], "parameters": parameters})

    assert step(1, sequence_id="a", sequence_start=True).json["outputs"][0]["data"] == [1]
    assert step(2, sequence_id="a", sequence_end=True).json["outputs"][0]["data"] == [3]
    refused = step(2, sequence_id="a")
    assert (refused.status, "must specify the START flag" in refused.json["error"]) == (400, True)


def test_the_configuration_has_the_states(call, http):
    pytest.importorskip("layerserve_server.extensions.triton")
    made = call("ModelConfig", pb.ModelConfigRequest(name="sum"), pb.ModelConfigResponse).config
    assert (made.WhichOneof("scheduling_choice"), made.sequence_batching.max_sequence_idle_microseconds) == (
        "sequence_batching",
        2_500_000,
    )
    found = http("GET", "/v2/models/sum/config").json["sequence_batching"]
    assert found["oldest"] == {"max_candidate_sequences": 3}
    assert found["state"][0]["input_name"] == "total"
    assert "sequence" in call("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse).extensions
