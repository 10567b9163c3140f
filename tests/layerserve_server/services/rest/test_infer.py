"""The REST form of the Open Inference Protocol through a real port."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from echo_servers import needs_native
from http_calls import Http
from layerserve import Client
from layerserve_server.protocols.inference import inference_pb2 as pb
from layerserve_server.services.rest.infer import InferBodies
from layerserve_server.services.rest.infer_body import in_binary, read

X = np.arange(6, dtype=np.float32).reshape(3, 2)
INFER = "/v2/models/double/infer"


def asked(data=None, **fields):
    """A request for the rows X."""
    tensor = {"name": "x", "shape": [3, 2], "datatype": "FP32", "data": X.tolist() if data is None else data}
    return {"inputs": [{**tensor, **fields.pop("tensor", {})}], **fields}


def binary(arrays, **fields):
    """A request with tensors in binary: the body, and its header."""
    inputs = [
        {"name": name, "shape": list(x.shape), "datatype": kind, "parameters": {"binary_data_size": x.nbytes}}
        for name, kind, x in arrays
    ]
    text = json.dumps({"inputs": inputs, **fields}).encode()
    return text + b"".join(x.tobytes() for _, _, x in arrays), {"Inference_Header_Content_Length": str(len(text))}


@pytest.mark.parametrize(
    "data", [X.tolist(), X.ravel().tolist(), X.astype(int).tolist()], ids=["nested", "flat", "int"]
)
def test_elements_in_json_are_flat_or_nested(serve, data):
    _, call = serve()
    reply = call("POST", INFER, asked(data, id="7"))
    assert reply.json == {
        "model_name": "double",
        "model_version": "1",
        "id": "7",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [3, 2], "data": (2 * X).ravel().tolist()}],
    }
    assert call("POST", "/v2/models/double/versions/1/infer", asked()).status == 200


ALONE = {"Inference_Header_Content_Length": "0"}


def test_the_elements_of_the_only_input_may_come_alone(serve):
    _, call = serve()
    reply = call("POST", INFER, X[:1].tobytes(), **ALONE)
    length = int(reply.headers["inference-header-content-length"])
    (output,) = json.loads(reply.body[:length])["outputs"]
    assert (output["shape"], output["parameters"]) == ([1, 2], {"binary_data_size": 8})
    np.testing.assert_array_equal(np.frombuffer(reply.body[length:], np.float32), 2 * X[0])
    # Twice, as templates are for requests that describe their tensors.
    assert call("POST", INFER, X[1:2].tobytes(), **ALONE).body[length:] == (2 * X[1]).tobytes()
    refused = call("POST", INFER, X.tobytes(), **ALONE)
    assert (refused.status, refused.json["error"]) == (
        400,
        "tensor 'x': got 24 bytes of data, expected 8 for shape [1, 2] of float32",
    )
    assert call("POST", INFER, b"", **ALONE).status == 400
    assert call("POST", "/v2/models/no/infer", X[:1].tobytes(), **ALONE).status == 404


def test_outputs_are_those_asked_for_in_json_or_binary(serve):
    _, call = serve()
    body, headers = binary([("x", "FP32", X)], parameters={"binary_data_output": True})
    reply = call("POST", INFER, body, **headers)
    length = int(reply.headers["inference-header-content-length"])
    assert reply.headers["content-type"] == "application/octet-stream"
    (output,) = json.loads(reply.body[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": 24}
    np.testing.assert_array_equal(np.frombuffer(reply.body[length:], np.float32).reshape(3, 2), 2 * X)
    outputs = [{"name": "hidden"}, {"name": "y", "parameters": {"binary_data": True}}]
    body, headers = binary([("x", "FP32", X)], outputs=outputs)
    reply = call("POST", INFER, body, **headers)
    length = int(reply.headers["inference-header-content-length"])
    hidden, y = json.loads(reply.body[:length])["outputs"]
    assert hidden["data"] == (2 * X + 100).ravel().tolist()
    assert y["parameters"] == {"binary_data_size": 24}
    outputs = [{"name": "y", "parameters": {"classification": 1}}]
    assert call("POST", INFER, asked(outputs=outputs)).json["outputs"][0]["data"] == [
        *("2.000000:1", "6.000000:1", "10.000000:1")
    ]


def test_classes_have_their_labels(serve, tmp_path):
    folder = tmp_path / "models" / "double"
    folder.mkdir(parents=True)
    (folder / "layerserve.toml").write_text('class_labels = { y = "labels.txt" }')
    (folder / "labels.txt").write_text("cat\nÄffin: klein")
    _, call = serve()
    outputs = [{"name": "y", "parameters": {"classification": 1}}]
    (output,) = call("POST", INFER, asked(outputs=outputs)).json["outputs"]
    assert (output["datatype"], output["data"][0]) == ("BYTES", "2.000000:1:Äffin: klein")


@pytest.mark.parametrize("transport", ["grpcio", pytest.param("native", marks=needs_native)])
def test_requests_by_http_and_grpc_are_one_batch(serve, connect, transport, wait_until):
    app, _ = serve(transport=transport)
    with app.repository.leases.lease("double") as version:
        model = version.model
        model.gate.clear()

        def by_http(number):
            call = Http(app.http_port)
            try:
                return call("POST", INFER, asked((X + number).tolist())).json["outputs"][0]["data"]
            finally:
                call.close()

        with ThreadPoolExecutor(8) as pool, Client(f"127.0.0.1:{app.grpc_port}") as client:
            first = pool.submit(by_http, 0)
            wait_until(lambda: model.begun)
            others = [pool.submit(by_http, number) for number in (1, 2)]
            by_grpc = [pool.submit(client.predict, "double", X + number) for number in (3, 4)]
            wait_until(lambda: version.queue.queued_rows == 12)
            model.gate.set()
            assert first.result() == (2 * X).ravel().tolist()
            for number, reply in enumerate(others, 1):
                assert reply.result() == (2 * (X + number)).ravel().tolist()
            for number, reply in enumerate(by_grpc, 3):
                np.testing.assert_array_equal(reply.result(), 2 * (X + number))
    assert model.begun == [3, 12]


@pytest.mark.parametrize(("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_bodies_may_be_compressed(serve, coding, compress, wait_until):
    app, call = serve(max_message_bytes=1 << 20)
    assert call("POST", INFER, compress(json.dumps(asked()).encode()), Content_Encoding=coding).status == 200
    x = np.ones((10_000, 2), np.float32)
    body, headers = binary([("x", "FP32", x)])
    assert call("POST", INFER, compress(body), Content_Encoding=coding, **headers).status == 200
    bomb = call("POST", INFER, compress(b" " * (2 << 20)), Content_Encoding=coding)
    assert (bomb.status, bomb.headers["layerserve-reason"]) == (413, "too_large")
    assert call("POST", INFER, compress(json.dumps(asked()).encode())[:-5], Content_Encoding=coding).status == 400
    assert call("POST", INFER, b"x", Content_Encoding="br").json == {
        "error": "content-encoding: got 'br', expected gzip or deflate"
    }
    wait_until(lambda: app._transport.memory.held == 0)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "DEFLATE"])
def test_a_body_that_does_not_have_its_coding_is_named(serve, coding):
    """Such as raw deflate, which some clients send under that name."""
    _, call = serve()
    raw = zlib.compress(json.dumps(asked()).encode())[2:-4]
    assert call("POST", INFER, raw, Content_Encoding=coding).json == {
        "error": f"content-encoding: got '{coding.lower()}' and a body that isn't gzip or zlib data"
    }


WRONG = {
    "text": (b"{", "the body isn't JSON"),
    "list": ([], 'the body: got a list of 0, expected an object; send {"inputs": [{"name": ...,'),
    "nothing": ({}, "inputs: got none"),
    "instances": ({"instances": [[1, 2]]}, "a list of tensors; /openapi.json has the paths for other forms"),
    "no name": (asked(tensor={"name": 3}), "inputs[0].name: got the number 3, expected a string"),
    "shape": (asked(tensor={"shape": [3, -2]}), "inputs[0].shape[1]: got the number -2"),
    "huge shape": (asked(tensor={"shape": [2**62, 2**62]}), "inputs[0]"),
    "datatype": (asked(tensor={"datatype": "FP8"}), "got datatype 'FP8'"),
    "half": (asked(tensor={"datatype": "FP16"}), "expected it in binary"),
    "no data": (
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [3, 2]}]},
        "inputs[0].data: got none, expected the elements, or parameters.binary_data_size",
    ),
    "data twice": (
        asked([1] * 6, tensor={"parameters": {"binary_data_size": 24}}),
        "inputs[0]: got data beside binary_data_size, expected one of them",
    ),
    "ragged": (asked([[1, 2], [3], [4, 5]]), "inputs[0].data[1]: got a list of 1, expected a list of 2"),
    "deeper": (asked([[1, 2], [3, [4]], [4, 5]]), "inputs[0].data[1][1]: got a list of 1"),
    "text in numbers": (asked([1, 2, "3", 4, 5, 6]), "inputs[0].data[2]: got the string '3', expected a number"),
    "null": (asked([1, 2, None, 4, 5, 6]), "inputs[0].data[2]: got null, expected a number"),
    "true": (asked([1, 2, True, 4, 5, 6]), "inputs[0].data[2]: got true, expected a number"),
    "object": (asked([1, 2, {}, 4, 5, 6]), "inputs[0].data[2]: got an object, expected a number"),
    "too few": (asked([1, 2]), "got 2 elements, expected 6 for shape [3, 2]"),
    "large": (asked([1, 2, 1e39, 4, 5, 6]), "too large for float32"),
    "parameter": (asked(parameters={"a": []}), "parameters.a: got a list of 0"),
    "name": (asked(tensor={"name": "z"}), "unknown input 'z'"),
    "output": (asked(outputs=[{"name": "z"}]), "unknown tensor 'z'"),
    "memory": (asked(tensor={"parameters": {"shared_memory_region": "r"}}), "got data beside shared_memory_region"),
    "surrogate": (asked(id="\ud800"), "surrogate"),
    "surrogate beside NaN": (asked([1, 2, float("nan"), 4, 5, 6], id="\ud800"), "half of a surrogate pair"),
    "surrogate in a key": (asked([1, 2, float("nan"), 4, 5, 6], parameters={"\ud800": 1}), "surrogate pair"),
}


@pytest.mark.parametrize("binary", [False, True])
def test_a_body_is_passed_on_as_a_message_and_the_reply_to_it_is_a_body(binary):
    """A worker has the main process answer steps of sequences, which knows messages of gRPC."""
    reader: Any = SimpleNamespace(is_long=lambda size: False)
    asked_in_json = json.dumps(asked([1, 2, 3, 4, 5, 6], parameters={"sequence_id": 7, "binary_data_output": binary}))
    bodies = InferBodies(reader, "double", "1", None)
    message, reply = bodies.method_call(asked_in_json.encode())
    parsed = pb.ModelInferRequest.FromString(message)
    assert (parsed.model_name, parsed.model_version, parsed.parameters["sequence_id"].int64_param) == ("double", "1", 7)
    assert np.frombuffer(parsed.raw_input_contents[0], np.float32).tolist() == [1, 2, 3, 4, 5, 6]
    answer = pb.ModelInferResponse(model_name="double", model_version="1", raw_output_contents=[bytes(8)])
    answer.outputs.add(name="y", datatype="FP32", shape=[1, 2])
    head, _, body = reply(answer.SerializeToString()).partition(b"\r\n\r\n")
    assert (b"inference-header-content-length" in head, body.endswith(bytes(8))) == (binary, binary)
    assert b'"name":"y"' in body


@pytest.mark.parametrize(("body", "text"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(serve, body, text):
    _, call = serve()
    reply = call("POST", INFER, body)
    assert reply.status == 400
    assert text in reply.json["error"]
    # The connection is usable afterwards.
    assert call("POST", INFER, asked()).status == 200


@pytest.mark.parametrize(
    ("length", "size", "text"),
    [
        ("x", 24, "got 'x', expected a number"),
        ("9" * 30, 24, "expected a number up to"),
        ("0" * 5000, 24, "expected a number up to"),
        ("-1", 24, "got '-1'"),
        (None, 25, "got 25, expected at most 24"),
        (None, -1, "got -1"),
        (None, 20, "got 4 bytes after the last tensor"),
    ],
)
def test_binary_of_another_size_is_refused(serve, length, size, text):
    _, call = serve()
    tensor = {"name": "x", "shape": [3, 2], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [tensor]}).encode()
    reply = call("POST", INFER, head + X.tobytes(), Inference_Header_Content_Length=length or str(len(head)))
    assert reply.status == 400
    assert text in reply.json["error"]


def test_numbers_that_are_not_finite_go_both_ways(serve):
    _, call = serve()
    body = json.dumps(asked([[float("inf"), float("nan")], [1, 2], [3, 4]]))
    assert "NaN" in body
    reply = call("POST", INFER, body.encode())
    assert b"[Infinity,NaN,2" in reply.body.replace(b" ", b"")


def test_binary_elements_need_not_be_aligned(serve):
    """JSON of any length comes before them."""
    _, call = serve()
    for number in range(8):
        body, headers = binary([("x", "FP32", X)], id="i" * number)
        assert call("POST", INFER, body, **headers).json["outputs"][0]["data"] == (2 * X).ravel().tolist()


def test_text_and_bytes(serve):
    """Text of a model that has an input of strings arrives as the protocol's binary elements."""
    tensor = {"name": "t", "shape": [2], "datatype": "BYTES", "data": ["é", {"b64": "AP8="}]}
    body = json.dumps({"inputs": [tensor]}).encode()
    message, _ = read(body, len(body))
    (raw,) = message.raw_input_contents
    assert raw == struct.pack("<I", 2) + "é".encode() + struct.pack("<I", 2) + b"\x00\xff"


REWRITTEN = [
    asked(),
    asked(X.ravel().tolist(), id="7"),
    asked(tensor={"datatype": "FP64"}, parameters={"binary_data_output": True, "priority": 1}),
    asked([1, 2, 3, 4, 5, 6], tensor={"datatype": "INT32", "parameters": {"a": 1.5, "b": "c"}}),
    asked([[True, False], [True, True], [False, False]], tensor={"datatype": "BOOL"}),
    asked(outputs=[{"name": "y", "parameters": {"binary_data": True}}], id='a"\\é'),
    {"inputs": [asked()["inputs"][0], {**asked([0.1] * 6)["inputs"][0], "name": "z"}]},
]


@pytest.mark.parametrize("value", REWRITTEN)
def test_a_request_in_json_means_the_same_with_its_numbers_in_binary(value):
    body = json.dumps(value).encode()
    text, content = in_binary(body)
    assert read(text + content, len(text)) == read(body, len(body))


@pytest.mark.parametrize(
    "value",
    [
        asked([1, float("nan"), 3, 4, 5, 6]),
        asked(["a"] * 6, tensor={"datatype": "BYTES"}),
        asked([1, 2], tensor={"parameters": {"binary_data_size": 24}}),
        asked(id="\ud800"),
        {"inputs": [3]},
        {"inputs": {}},
        {},
        [],
    ],
)
def test_any_other_request_stays_as_it_is(value):
    assert in_binary(json.dumps(value).encode()) is None
