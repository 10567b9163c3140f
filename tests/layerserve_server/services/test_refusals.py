"""Fields of requests are checked before anything is done: each refusal names the field, and limits are taken whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
from layergraph.functional.tensor import TensorSpec
from layerserve import tensors
from layerserve.v1 import datasets_pb2, tensor_pb2, training_pb2
from layerserve_server.errors import InvalidRequestError, InvalidTensorError, MissingInputError
from layerserve_server.protocols.inference.inference_pb2 import InferParameter, ModelRepositoryParameter
from layerserve_server.services import datasets, messages, run_requests
from layerserve_server.services.datasets import MAX_BYTES, MAX_ID, MAX_TITLE
from layerserve_server.services.rest import infer_body, json_text, open_inference


def declared(**fields):
    return datasets._declaration(
        datasets_pb2.DatasetDeclaration(
            **{"format": datasets_pb2.DATASET_FORMAT_NPZ, "bytes": 1, "sha256": b"1" * 32, **fields}
        )
    )


def corrected(*corrections, outputs=("y",)):
    specs = [TensorSpec(name, (None, 1), "float32") for name in outputs]
    request = datasets_pb2.MakeDatasetRequest()
    for id, targets in corrections:
        request.corrections.add(request_id=id, targets=targets)
    return datasets._corrections(request, specs)


def target(name="y", value=1.0):
    return tensors.encode(np.array([value]), name)


def array(**fields):
    role = {"role": training_pb2.DATA_ROLE_X, "dtype": tensor_pb2.DATA_TYPE_FLOAT32}
    return run_requests._array(training_pb2.DataArray(**{**role, "name": "x", **fields}))


REFUSED = {
    "no format": (lambda: declared(format=0), r"format: got 0, expected one of 1 \(npz\)"),
    "no bytes": (lambda: declared(bytes=0), f"bytes: got 0, expected 1 to {MAX_BYTES}"),
    "too many bytes": (lambda: declared(bytes=MAX_BYTES + 1), f"bytes: got {MAX_BYTES + 1}, expected 1 to"),
    "no digest": (lambda: declared(sha256=b"1" * 31), "sha256: got 31 bytes, expected 32"),
    "long title": (lambda: declared(title="t" * (MAX_TITLE + 1)), f"title: got {MAX_TITLE + 1} characters"),
    "no time": (lambda: declared(keep_seconds=math.nan), "keep_seconds: got nan, expected seconds from 0"),
    "endless time": (lambda: declared(keep_seconds=math.inf), "keep_seconds: got inf, expected seconds from 0"),
    "no id": (lambda: corrected(("", [target()])), "request_id: got 0 characters, expected 1 to"),
    "long id": (lambda: corrected(("a" * (MAX_ID + 1), [target()])), f"request_id: got {MAX_ID + 1} characters"),
    "no targets": (lambda: corrected(("a", [])), "request 'a': got no targets, expected some for "),
    "two targets": (lambda: corrected(("a", [target()] * 2)), "request 'a': got two targets for 'y', expected"),
    "another target": (lambda: corrected(("a", [target("z")])), "request 'a': got a target for 'z', expected"),
    "unnamed target": (
        lambda: corrected(("a", [target("")]), outputs=("y", "z")),
        "request 'a': got a target for '', expected",
    ),
    "text": (lambda: corrected(("a", [target(value="b")])), "request 'a', 'y': got text, expected numbers"),
    "no role": (lambda: array(role=0), "data array 'x': got no role, expected one"),
    "path and dataset": (
        lambda: array(path="x.npy", dataset="01"),
        "data array 'x': got a path and a dataset, expected one of the two",
    ),
    "key and columns": (
        lambda: array(path="x.csv", key="k", columns=["a"]),
        "data array 'x': got key and columns, expected one of the two",
    ),
    "format": (lambda: messages.format_name(99), "format: got 99, expected one of 1, 2"),
    "key": (lambda: json_text.check_keys({"b": 1}, ("a",), ""), "b: unknown key, expected one of a"),
    "key below": (lambda: json_text.check_keys({"b": 1}, ("a", "c"), "x"), "x.b: unknown key, expected one of a, c"),
    "keys of a body": (lambda: json_text.object_of(b'{"b": 1}', ("a",)), "b: unknown key, expected one of a"),
    "no shape": (lambda: infer_body._shape({}, "a"), "a.shape: got none, expected a list of lengths"),
    "truth as length": (
        lambda: infer_body._shape({"shape": [True]}, "a"),
        r"a.shape\[0\]: got true, expected a length",
    ),
    "long axis": (
        lambda: infer_body._shape({"shape": [2**63]}, "a"),
        r"a.shape\[0\]: got .*, expected a length from 0",
    ),
    "no object": (lambda: infer_body._object([], "a"), "a: got a list of 0, expected an object"),
    "no name": (lambda: infer_body._text({}, "name", "a"), "a.name: got none, expected a string"),
    "large parameter": (lambda: infer_body._parameter(2**64, "p"), "p: got .*, expected a string, a number, true or"),
    "small parameter": (lambda: infer_body._parameter(-(2**63) - 1, "p"), "p: got .*, expected a string, a number"),
    "parameter of a repository": (
        lambda: open_inference._repository_parameter("p", 1.5),
        "parameters.p: got .*, expected a string, an integer, true or false",
    ),
    "no base64": (
        lambda: open_inference._repository_parameter("file:1/model.keras", "?"),
        "parameters.file:1/model.keras: got a string that isn't base64",
    ),
}
ERRORS = (InvalidRequestError, InvalidTensorError, MissingInputError)


@pytest.mark.parametrize(("ask", "text"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_named(ask, text):
    with pytest.raises(ERRORS, match=text):
        ask()


def test_a_call_has_only_so_many_corrections(monkeypatch):
    monkeypatch.setattr(datasets, "MAX_CORRECTIONS", 2)
    assert len(corrected(*[("a", [target()])] * 2)) == 2
    with pytest.raises(InvalidRequestError, match="corrections: got 3, expected at most 2 in a call"):
        corrected(*[("a", [target()])] * 3)


def test_what_is_just_within_the_limits_is_taken():
    taken = declared(bytes=MAX_BYTES, title="t" * MAX_TITLE, keep_seconds=1e300)
    assert (taken.bytes, len(taken.title), taken.keep_seconds) == (MAX_BYTES, MAX_TITLE, 1e300)
    assert len(corrected(("a" * MAX_ID, [target()]))) == 1
    assert corrected(("a", [target("")]))[0].targets.keys() == {"y"}, "the only output"
    assert infer_body._shape({"shape": [0, 2**63 - 1]}, "a") == [0, 2**63 - 1]
    assert json_text.object_of(b"", ("a",)) == {}
    assert infer_body._text({}, "id", "") == ""


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (True, "bool_param"),
        (-(2**63), "int64_param"),
        (2**63 - 1, "int64_param"),
        (2**63, "uint64_param"),
        (2**64 - 1, "uint64_param"),
        (0.5, "double_param"),
        ("a", "string_param"),
    ],
)
def test_a_parameter_has_the_type_of_its_value(value, field):
    assert infer_body._parameter(value, "p") == InferParameter(**{field: value})


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
    assert open_inference._repository_parameter(key, value) == ModelRepositoryParameter(**{field: held})
