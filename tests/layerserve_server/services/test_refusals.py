"""Fields of requests are checked before anything is done: each refusal names the field, and limits are taken whole."""

from __future__ import annotations

import importlib.util
import math
from types import SimpleNamespace

import pytest
from layerserve.v1 import datasets_pb2, tensor_pb2, training_pb2
from layerserve_server.access.caller import ANYONE
from layerserve_server.errors import (
    BusyError,
    InvalidRequestError,
    InvalidTensorError,
    MissingInputError,
    NotTrainableError,
)
from layerserve_server.protocols.inference.inference_pb2 import (
    InferParameter,
    ModelInferResponse,
)
from layerserve_server.services import datasets, messages, run_requests, run_series
from layerserve_server.services.dataset_messages import MAX_TITLE, check_may_have_datasets
from layerserve_server.services.datasets import MAX_BYTES
from layerserve_server.services.rest import infer_body, infer_encoder, json_text
from layerserve_server.services.run_changes import MAX_REMOVED, RunChanges
from layerserve_server.services.run_series import RunSeries


def declared(**fields):
    return datasets._declaration(
        datasets_pb2.DatasetDeclaration(
            **{"format": datasets_pb2.DATASET_FORMAT_NPZ, "bytes": 1, "sha256": b"1" * 32, **fields}
        )
    )


def array(**fields):
    role = {"role": training_pb2.DATA_ROLE_X, "dtype": tensor_pb2.DATA_TYPE_FLOAT32}
    return run_requests._array(training_pb2.DataArray(**{**role, "name": "x", **fields}), "/data")


#: A run that was begun by a caller without a token.
RUN = SimpleNamespace(id="r", log=None, request=SimpleNamespace(model="m", caller="", callers=None))


def changed(method, request):
    """Has a run be changed by a caller who may do all."""
    service = RunChanges(SimpleNamespace(), SimpleNamespace(), SimpleNamespace())
    service._check = lambda *_: None
    return service.handlers()[method](call(request))


def call(request):
    return SimpleNamespace(
        request=request.SerializeToString(), caller=ANYONE, set_metric_labels=lambda *_: None, answer=lambda _: None
    )


def output(datatype, raw):
    return infer_encoder._elements(
        ModelInferResponse.InferOutputTensor(name="y", datatype=datatype, shape=[1]), memoryview(raw)
    )


REFUSED = {
    "no format": (lambda: declared(format=0), r"format: got 0, expected one of 1 \(npz\)"),
    "no bytes": (lambda: declared(bytes=0), f"bytes: got 0, expected 1 to {MAX_BYTES}"),
    "too many bytes": (lambda: declared(bytes=MAX_BYTES + 1), f"bytes: got {MAX_BYTES + 1}, expected 1 to"),
    "no digest": (lambda: declared(sha256=b"1" * 31), "sha256: got 31 bytes, expected 32"),
    "long title": (lambda: declared(title="t" * (MAX_TITLE + 1)), f"title: got {MAX_TITLE + 1} characters"),
    "no time": (lambda: declared(keep_seconds=math.nan), "keep_seconds: got nan, expected seconds from 0"),
    "endless time": (lambda: declared(keep_seconds=math.inf), "keep_seconds: got inf, expected seconds from 0"),
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
    "bfloat16 in JSON": (
        lambda: output("BF16", b"00"),
        "output 'y': has datatype BF16, which JSON has no numbers for; set its parameter 'binary_data' to true",
    ),
    "bytes in JSON": (lambda: output("BYTES", b"\1\0\0\0\xff"), "output 'y': has bytes that aren't Unicode; set its"),
    "splits": (lambda: run_requests._splits([0.5]), "view: got no object, expected shares by name, together at most 1"),
    "shares": (lambda: run_requests._splits({"a": 0.6, "b": 0.5}), "view: got shares of 1.1 together, expected shares"),
    "removed metadata": (
        lambda: changed("UpdateRun", training_pb2.UpdateRunRequest(remove_metadata=["a"] * (MAX_REMOVED + 1))),
        f"remove_metadata: got {MAX_REMOVED + 1} keys, expected at most {MAX_REMOVED}",
    ),
    "label of a run": (
        lambda: changed("PublishRun", training_pb2.PublishRunRequest(label="a b")),
        "label: got 'a b', expected letters, digits",
    ),
    "base of a run": (
        lambda: changed("PublishRun", training_pb2.PublishRunRequest(expected_base_version=-1)),
        "expected_base_version: got -1, expected 0 or more",
    ),
}
ERRORS = (InvalidRequestError, InvalidTensorError, MissingInputError)


@pytest.mark.parametrize(("ask", "text"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_is_named(ask, text):
    with pytest.raises(ERRORS, match=text):
        ask()


def test_what_is_just_within_the_limits_is_taken():
    taken = declared(bytes=MAX_BYTES, title="t" * MAX_TITLE, keep_seconds=1e300)
    assert (taken.bytes, len(taken.title), taken.keep_seconds) == (MAX_BYTES, MAX_TITLE, 1e300)
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


def test_what_takes_memory_is_done_for_a_few_callers_at_once(monkeypatch):
    series = RunSeries(SimpleNamespace(table=SimpleNamespace(get=lambda *_: RUN)))
    for _ in range(2):
        series._readers.acquire()
    with pytest.raises(BusyError, match="other series are being read") as caught:
        series.get_run_series(call(training_pb2.GetRunSeriesRequest(run_ids=["r"])))
    assert caught.value.retry_after == 1.0


def test_a_series_has_1000_points_unless_fewer_or_more_are_asked_for(monkeypatch):
    points = []
    reader = SimpleNamespace(read=lambda log: {})
    monkeypatch.setattr(run_series, "SeriesReader", lambda names, count, **_: points.append(count) or reader)
    for most in (0, 2, 10_000):
        made = call(training_pb2.GetRunSeriesRequest(run_ids=["r"], max_points=most))
        RunSeries(SimpleNamespace(table=SimpleNamespace(get=lambda *_: RUN))).get_run_series(made)
    assert points == [1000, 2, 10_000]


def test_without_training_there_are_no_datasets(monkeypatch):
    with pytest.raises(NotTrainableError, match="training is off on this server: it has no training slots"):
        check_may_have_datasets(ANYONE, training=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert declared().format == "npz"
    with pytest.raises(NotTrainableError, match=r"format csv: requires pyarrow on the server: pip install pyarrow"):
        declared(format=datasets_pb2.DATASET_FORMAT_CSV)
