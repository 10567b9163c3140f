"""TensorFlow Serving's REST form through a real port."""

from __future__ import annotations

import base64
import json
import math
from functools import partial

import numpy as np
import pytest
from layerserve_server.errors import InvalidRequestError
from layerserve_server.extensions.tensorflow_serving import rest_predict
from layerserve_server.extensions.tensorflow_serving.rest_body import InputSpec, PredictBody
from layerserve_server.extensions.tensorflow_serving.rest_predict import _in_columns, _in_rows, _reply
from layerserve_server.extensions.tensorflow_serving.tensors import TensorFlowTensor, encode
from layerserve_server.protocols.tensorflow_serving.prediction_service_pb2 import PredictRequest, PredictResponse
from layerserve_server.services.rest import json_text

PREDICT = "/v1/models/double:predict"


@pytest.mark.parametrize(
    ("body", "reply"),
    [
        ({"instances": [[1, 2], [3.5, 4]]}, {"predictions": [[2, 4], [7, 8]]}),
        ({"instances": [{"x": [1, 2]}, {"x": [3.5, 4]}]}, {"predictions": [[2, 4], [7, 8]]}),
        ({"inputs": [[1, 2]]}, {"outputs": [[2, 4]]}),
        ({"inputs": {"x": [[1, 2]]}, "signature_name": "serving_default"}, {"outputs": [[2, 4]]}),
        # More than float32 has bits for: JSON has numbers, not integers and floats.
        ({"instances": [[16777217, 2**40]]}, {"predictions": [[33554432.0, 2199023300000.0]]}),
    ],
)
def test_rows_and_columns(serve, body, reply):
    _, call = serve()
    for path in (PREDICT, "/v1/models/double/versions/1:predict"):
        got = call("POST", path, body)
        assert (got.status, got.json) == (200, reply)


def test_numbers_that_are_not_finite_go_both_ways(serve):
    _, call = serve()
    reply = call("POST", PREDICT, b'{"instances": [[NaN, Infinity]]}')
    (row,) = reply.json["predictions"]
    assert math.isnan(row[0])
    assert row[1] == math.inf
    assert b"NaN" in reply.body


WRONG = {
    "neither": ({}, 400, "the body: got nothing, expected 'instances' (rows) or 'inputs' (columns)"),
    "misspelled": ({"instance": [[1, 2]]}, 400, "the body: got 'instance', expected 'instances' (rows) or 'inputs'"),
    "a list": ([[1, 2]], 400, 'the body: got a list of 1, expected an object; send {"instances": [...]}'),
    "both": ({"instances": [], "inputs": []}, 400, "got both of 'instances'"),
    "no rows": ({"instances": []}, 400, "instances: got a list of 0, expected at least one row"),
    "object": ({"instances": {"x": 1}}, 400, "instances: got an object, expected a list of rows"),
    "short row": (
        {"instances": [[1, 2], [1, 2], [1, 2], [1]]},
        400,
        "instances[3]: got a list of 1, expected a list of 2",
    ),
    "first row": ({"instances": [[1], [1, 2]]}, 400, "instances[0]: got a list of 1, expected a list of 2 elements"),
    "text": ({"instances": [{"x": [1, 2]}, {"x": [1, "2"]}]}, 400, "instances[1].x[1]: got the string '2', expected a"),
    "true": ({"inputs": {"x": [[True, 1]]}}, 400, "inputs.x[0][0]: got true, expected a number"),
    "other keys": ({"instances": [{"x": [1, 2]}, {"y": [1, 2]}]}, 400, "instances[1]: got the keys 'y', expected an"),
    "a row of another kind": (
        {"instances": [{"x": [1, 2]}, [1, 2]]},
        400,
        "instances[1]: got a list of 2, expected an",
    ),
    "name": ({"inputs": {"z": [[1, 2]]}}, 400, "Sent extra: {z}"),
    "signature": ({"inputs": [[1, 2]], "signature_name": "none"}, 400, 'signature key "none" not found'),
    "signature of another type": ({"inputs": [[1, 2]], "signature_name": 3}, 400, "signature_name: got the number 3"),
    "shape": ({"inputs": [[1, 2, 3]]}, 400, "input 'x': got length 3 on axis 1"),
    "wrong number": ({"inputs": [[-1, 2]]}, 400, "input 'x': got id -1"),
    "surrogate": (b'{"inputs": {"\\ud800": [[NaN, 2]]}}', 400, "half of a surrogate pair"),
    "not JSON": (b"instances", 400, "it begins with 'instances'"),
    "empty": (b"", 400, "got nothing"),
}


@pytest.mark.parametrize(("body", "status", "text"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(serve, body, status, text):
    _, call = serve()
    reply = call("POST", PREDICT, body)
    assert reply.status == status
    assert text in reply.json["error"]


@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [
        ("POST", "/v1/models/nope:predict", 404),
        ("POST", "/v1/models/double/versions/7:predict", 404),
        ("POST", "/v1/models/double/labels/stabel:predict", 404),
        ("POST", "/v1/models/double/versions/x:predict", 400),
        ("POST", "/v1/models/double:classify", 501),
        ("POST", "/v1/models/double:regress", 501),
        ("POST", "/v1/models/double", 405),
        ("GET", "/v1/models/nope", 404),
        ("GET", "/v1/models/double/versions/7", 404),
        ("GET", "/v1/models/nope/metadata", 404),
    ],
)
def test_paths_of_what_does_not_exist(serve, verb, path, status):
    _, call = serve()
    reply = call(verb, path, {"instances": [[1, 2]]} if verb == "POST" else None)
    assert (reply.status, bool(reply.json["error"])) == (status, True)


def test_status_and_metadata(serve):
    _, call = serve()
    status = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in ("/v1/models/double", "/v1/models/double/versions/1"):
        assert call("GET", path).json == {"model_version_status": [status], "name": "double", "ready": True}
    assert call("GET", "/v1/models").json == {"models": ["double"]}
    found = call("GET", "/v1/models/double/metadata").json
    assert found["model_spec"] == {"name": "double", "signature_name": "", "version": "1"}
    signature = found["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert [dim["size"] for dim in signature["inputs"]["x"]["tensor_shape"]["dim"]] == ["-1", "2"]


def test_a_version_that_is_not_loaded_is_loaded(serve, put):
    put("double", 2, offset=1.0)
    _, call = serve()
    body = {"instances": [[1, 2]]}
    assert call("POST", PREDICT, body).json == {"predictions": [[3, 5]]}
    assert call("POST", "/v1/models/double/versions/1:predict", body).json == {"predictions": [[2, 4]]}


@pytest.mark.parametrize("body", [{"inputs": {"b64": [[1, 2]]}}, {"instances": [{"b64": [1, 2]}]}])
def test_an_input_may_have_the_name_of_base64(body):
    """Only a string is in base64, as TensorFlow Serving has it."""
    read = PredictBody(json.dumps(body).encode())
    assert read.outline.names == ["b64"]
    message = PredictRequest.FromString(read.message({"b64": InputSpec("float32", (None, 2))}))
    assert TensorFlowTensor("b64", message.inputs["b64"]).array().tolist() == [[1, 2]]


@pytest.mark.parametrize("body", [{"inputs": {"b64": "YQ=="}}, {"instances": [{"b64": "YQ=="}]}])
def test_a_string_in_base64_has_no_name(body):
    read = PredictBody(json.dumps(body).encode())
    assert read.outline.names is None
    message = PredictRequest.FromString(read.message({"text": InputSpec("string", (None,))}))
    assert list(message.inputs["text"].string_val) == [b"a"]


def response(**arrays):
    return PredictResponse(outputs={name: encode(array) for name, array in arrays.items()}).SerializeToString()


def test_several_outputs_are_objects_in_the_order_of_the_signature():
    message = response(b=np.float32([[1.5], [2]]), a=np.int64([3, 4]))
    rows = _reply(lambda arrays: _in_rows(2, arrays), ("b", "a"), message)
    assert rows.body == b'{"predictions":[{"b":[1.5],"a":3},{"b":[2.0],"a":4}]}'
    columns = _reply(_in_columns, ("b", "a"), message)
    assert columns.body == b'{"outputs":{"b":[[1.5],[2.0]],"a":[3,4]}}'
    message = response(a=np.float32([np.nan, 1]), b=np.float16([1, 2]))
    rows = _reply(lambda arrays: _in_rows(2, arrays), ("a", "b"), message)
    assert rows.body == b'{"predictions": [{"a": NaN, "b": 1.0}, {"a": 1.0, "b": 2.0}]}'.replace(b": [", b":[", 1)


def test_strings_are_text_or_base64():
    texts = np.array([b"a", "é".encode(), b"\xff"], object)
    (one, two, three) = json.loads(_reply(_in_columns, ("t",), response(t=texts)).body)["outputs"]
    assert (one, two, three) == ("a", "é", {"b64": base64.b64encode(b"\xff").decode()})
    both = json.loads(_reply(_in_columns, ("t_bytes",), response(t_bytes=texts[:1])).body)["outputs"]
    assert both == [{"b64": "YQ=="}]


@pytest.mark.parametrize("count", [4, 11])
def test_objects_in_several_pieces_are_the_same(monkeypatch, count):
    message = response(
        wide=np.arange(count * 6, dtype=np.float32).reshape(count, 2, 3),
        one=np.arange(count),
        word=np.array([b"a"] * count, dtype=object),
        half=np.full((count, 2), np.nan, np.float16),
    )
    whole = _reply(partial(_in_rows, count), ["wide", "one", "word", "half"], message).body
    columns = _reply(_in_columns, ["wide", "one", "word", "half"], message).body
    for piece in (1, 5, 20):
        monkeypatch.setattr(rest_predict, "CHUNK_ELEMENTS", piece)
        monkeypatch.setattr(json_text, "CHUNK_ELEMENTS", piece)
        for written, body in (
            (_reply(partial(_in_rows, count), ["wide", "one", "word", "half"], message), whole),
            (_reply(_in_columns, ["wide", "one", "word", "half"], message), columns),
        ):
            assert str(json.loads(written.body)) == str(json.loads(body))


def test_outputs_that_are_not_rows_are_refused():
    with pytest.raises(InvalidRequestError, match=r"output 'y': has shape \[3, 1\], not a row for each of the 2 inst"):
        list(_in_rows(2, {"y": np.zeros((3, 1))}))
