"""ModelInfer requests: raw and typed elements, parameters, what doesn't fit, and templates."""

from __future__ import annotations

import random
import re
from types import SimpleNamespace

import numpy as np
import pytest
from fake_plans import Plan, Spec
from layerserve.values import tensors
from layerserve_server.errors import InvalidRequestError
from layerserve_server.inference.admission import Admission
from layerserve_server.protocols.inference import inference_pb2 as pb
from layerserve_server.services.open_inference.datatypes import DATATYPES
from layerserve_server.services.open_inference.encoder import InferEncoder, classes, largest
from layerserve_server.services.open_inference.infer_protocol import HIGHEST_PRIORITY, InferProtocol
from layerserve_server.services.prediction.decoder import Decoder
from layerserve_server.services.prediction.request_template import RequestTemplates

PROTOCOL = InferProtocol()
X = Spec("x", (None, 2), "float32")
ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)
VALUES = {
    "bool": np.array([[True, False]]),
    "string": np.array([[b"a\0\xff", b""]], dtype=object),
    "float16": np.array([[1.5, -2]], np.float16),
    "bfloat16": np.array([[1.5, -2]], np.float32),
    **{name: np.array([[1, 2]], name) for name in ("uint8", "uint16", "uint32", "uint64", "float32", "float64")},
    **{name: np.array([[-1, np.iinfo(name).max]], name) for name in ("int8", "int16", "int32", "int64")},
}
FIELDS = {"b": "bool", "O": "bytes"}


def raw(rows=ROWS, name="x", dtype="float32", **fields):
    tensor = pb.ModelInferRequest.InferInputTensor(name=name, datatype=DATATYPES[dtype], shape=rows.shape)
    contents = [tensors.encode_data(rows, dtype)]
    return pb.ModelInferRequest(model_name="m", inputs=[tensor], raw_input_contents=contents, **fields)


def typed(array, datatype, field, shape=None):
    message = pb.ModelInferRequest(model_name="m")
    tensor = message.inputs.add(name="x", datatype=datatype, shape=array.shape if shape is None else shape)
    getattr(tensor.contents, field).extend(array.ravel().tolist())
    return message


def only_array(message):
    (tensor,) = PROTOCOL.request(message).tensors
    return tensor.array()


@pytest.mark.parametrize("dtype", VALUES)
def test_raw_elements_of_every_dtype_are_read(dtype):
    got = only_array(raw(VALUES[dtype], dtype=dtype))
    np.testing.assert_array_equal(got, VALUES[dtype])
    assert got.dtype == VALUES[dtype].dtype


@pytest.mark.parametrize("dtype", sorted(set(VALUES) - {"float16", "bfloat16"}))
def test_typed_elements_of_every_dtype_are_read(dtype):
    field = {"bool": "bool_contents", "string": "bytes_contents", "float32": "fp32_contents"}.get(dtype)
    field = field or {"float64": "fp64_contents", "int64": "int64_contents", "uint64": "uint64_contents"}.get(dtype)
    field = field or ("uint_contents" if dtype.startswith("u") else "int_contents")
    got = only_array(typed(VALUES[dtype], DATATYPES[dtype], field))
    np.testing.assert_array_equal(got, VALUES[dtype])
    assert got.dtype == VALUES[dtype].dtype


WRONG = {
    "no datatype": (typed(ROWS, "", "fp32_contents"), "input 'x': got datatype '', expected one of BOOL"),
    "a name of NumPy": (typed(ROWS, "float32", "fp32_contents"), "got datatype 'float32', expected one of BOOL"),
    "another field": (typed(ROWS, "FP32", "fp64_contents"), "got fp64_contents, expected fp32_contents"),
    "too few": (typed(ROWS, "FP32", "fp32_contents", (4, 2)), "got 6 elements, expected 8 for shape [4, 2]"),
    "none": (typed(ROWS[:0], "FP32", "fp32_contents", (4, 2)), "got no contents, expected fp32_contents"),
    "a huge shape": (typed(ROWS, "FP32", "fp32_contents", (2**40, 2**40)), "expected a size below 2**63 bytes"),
    "a negative length": (typed(ROWS, "FP32", "fp32_contents", (-3, -2)), "expected no negative axis"),
    "out of range": (typed(np.array([[300]]), "INT8", "int_contents"), "an element that INT8 can't represent"),
    "halves, typed": (typed(ROWS, "FP16", "fp32_contents"), "got typed contents of FP16, expected raw contents"),
    "too few bytes": (
        pb.ModelInferRequest(
            model_name="m",
            inputs=[pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[3, 2])],
            raw_input_contents=[bytes(20)],
        ),
        "got 20 bytes of data",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_elements_that_do_not_fit_are_refused_by_name(case):
    message, text = WRONG[case]
    with pytest.raises(InvalidRequestError, match=re.escape(text)):
        only_array(message)


def parameter(**value):
    return pb.InferParameter(**value)


UNREADABLE = {
    "raw elements of another number": (
        pb.ModelInferRequest(model_name="m", raw_input_contents=[b"", b""]),
        "raw_input_contents: got 2 elements, expected 0, one for each input",
    ),
    "both forms": (
        pb.ModelInferRequest(
            model_name="m",
            inputs=[
                pb.ModelInferRequest.InferInputTensor(name="x", contents=pb.InferTensorContents(fp32_contents=[1]))
            ],
            raw_input_contents=[bytes(4)],
        ),
        "input 'x': got contents beside raw_input_contents, expected one of them",
    ),
    "contents beside shared memory": (
        pb.ModelInferRequest(
            model_name="m",
            inputs=[
                pb.ModelInferRequest.InferInputTensor(
                    name="x",
                    parameters={
                        "shared_memory_region": parameter(string_param="r"),
                        "shared_memory_byte_size": parameter(int64_param=4),
                    },
                    contents=pb.InferTensorContents(fp32_contents=[1]),
                )
            ],
        ),
        "input 'x': got contents beside a shared_memory_region, expected one of them",
    ),
    "no model": (pb.ModelInferRequest(), "model_name: got none"),
    "shared memory": (
        pb.ModelInferRequest(
            model_name="m",
            inputs=[
                pb.ModelInferRequest.InferInputTensor(
                    name="x", parameters={"shared_memory_region": parameter(string_param="r")}
                )
            ],
        ),
        "input 'x': parameter 'shared_memory_byte_size': got none",
    ),
    "a priority below 0": (raw(parameters={"priority": parameter(int64_param=-1)}), "parameter 'priority': got -1"),
    "a timeout that is true": (raw(parameters={"timeout": parameter(bool_param=True)}), "'timeout': got True"),
    "a timeout without a value": (raw(parameters={"timeout": parameter()}), "parameter 'timeout': got nothing"),
    "no classes": (
        raw(
            outputs=[
                pb.ModelInferRequest.InferRequestedOutputTensor(
                    name="y", parameters={"classification": parameter(int64_param=0)}
                )
            ]
        ),
        "output 'y': parameter 'classification': got 0",
    ),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_requests_without_a_meaning_are_refused(case):
    message, text = UNREADABLE[case]
    with pytest.raises(InvalidRequestError, match=re.escape(text)):
        PROTOCOL.request(message)


@pytest.mark.parametrize(
    ("version", "choice"),
    [
        ("", ("m", None, None)),
        ("7", ("m", 7, None)),
        ("stable", ("m", None, "stable")),
        ("9" * 30, ("m", None, "9" * 30)),
        ("²", ("m", None, "²")),
        ("-1", ("m", None, "-1")),
    ],
)
def test_the_version_is_a_number_or_a_label(version, choice):
    message = raw()
    message.model_version = version
    assert PROTOCOL.request(message).choice == choice


def test_empty_contents_beside_raw_ones_are_none():
    message = raw()
    message.inputs[0].contents.SetInParent()
    np.testing.assert_array_equal(PROTOCOL.request(message).tensors[0].array(), ROWS)


def test_priority_1_is_the_highest_and_timeouts_are_microseconds():
    def read(**parameters):
        found = PROTOCOL.request(raw(parameters=parameters))
        return found.priority, found.max_wait

    assert read() == (0, None)
    assert read(priority=parameter(uint64_param=1)) == (HIGHEST_PRIORITY, None)
    assert read(priority=parameter(uint64_param=2), timeout=parameter(int64_param=1500)) == (
        HIGHEST_PRIORITY - 1,
        0.0015,
    )
    assert read(priority=parameter(uint64_param=2**64 - 1))[0] == 1
    assert read(timeout=parameter(string_param="20"))[1] == 20e-6


def test_whatever_is_known_is_what_protobuf_reads():
    """Random requests whose bytes are changed at random: a template fits none that protobuf reads otherwise."""
    draw = random.Random(0)
    decoder = Decoder(Admission(Plan(X), [X], ("y",)))
    known = 0
    for _ in range(300):
        rows = np.arange(2 * draw.randint(1, 3), dtype=np.float32).reshape(-1, 2)
        message = raw(rows, id=draw.choice(["", "ab"]), model_version=draw.choice(["", "1"]))
        if draw.random() < 0.5:
            message.parameters["priority"].uint64_param = 2
        sent = message.SerializeToString()
        templates = RequestTemplates()
        templates.learn(sent, PROTOCOL.request(message))
        for _ in range(20):
            changed = bytearray(sent)
            changed[draw.randrange(len(changed))] = draw.randrange(256)
            found = templates.find(bytes(changed))
            if found is None:
                continue
            known += 1
            read = pb.ModelInferRequest.FromString(bytes(changed))
            request = PROTOCOL.request(read)
            assert (found.choice, found.requested, found.priority, found.max_wait) == (
                *(request.choice, request.requested),
                *(request.priority, request.max_wait),
            )
            assert found.id(bytes(changed)) == read.id
            (layout,) = decoder.layouts(found)
            assert layout.read(bytes(changed)).tobytes() == read.raw_input_contents[0]
    assert known > 100


def test_typed_elements_have_no_template():
    message = typed(ROWS, "FP32", "fp32_contents")
    templates, sent = RequestTemplates(), message.SerializeToString()
    templates.learn(sent, PROTOCOL.request(message))
    assert templates.find(sent) is None


VERSION = SimpleNamespace(name="m", version=300)


@pytest.mark.parametrize("rows", [1, 2])
def test_replies_are_what_protobuf_writes(rows):
    results = {"y": np.arange(6, dtype=np.float32).reshape(6, 1), "t": np.full((6, 2), b"abc", object)}
    results |= {"b": np.arange(6, dtype=np.float32), "empty": np.zeros((6, 0), np.int64)}
    outputs = [("y", "float32", 0), ("t", "string", 0), ("b", "bfloat16", 0), ("empty", "int64", 0)]
    for chosen in (outputs, [outputs[0], outputs[3]], [outputs[3]]):
        encoder = InferEncoder(VERSION, chosen)
        ids = [f"id{number}" if number % 2 else "" for number in range(6 // rows)]
        for number, message in enumerate(encoder.split(results, rows, ids)):
            part = {name: array[number * rows : (number + 1) * rows] for name, array in results.items()}
            assert message == encoder.fill(part, ids[number])
            reply = pb.ModelInferResponse.FromString(message)
            assert (reply.model_name, reply.model_version, reply.id) == ("m", "300", ids[number])
            assert len(reply.raw_output_contents) == len(reply.outputs) == len(chosen)
            for (name, dtype, _), tensor, content in zip(chosen, reply.outputs, reply.raw_output_contents, strict=True):
                assert (tensor.name, tensor.datatype) == (name, DATATYPES[dtype])
                np.testing.assert_array_equal(tensors.decode_data(content, dtype, tensor.shape), part[name])


def test_classes_are_the_largest_of_each_row():
    array = np.array([[0.1, 0.7, 0.2], [5, -1, 5]], np.float32)
    expected = [[b"0.700000:1", b"0.200000:2"], [b"5.000000:0", b"5.000000:2"]]
    assert classes(array, "y", 2).tolist() == expected
    assert classes(array, "y", 9).shape == (2, 3)
    assert classes(np.array([[3, 9]]), "y", 1).tolist() == [[b"9:1"]]
    with pytest.raises(InvalidRequestError, match="unsupported type 'BYTES', expected numbers"):
        classes(np.array([[b"a"]], object), "y", 1)
    assert classes(np.zeros((0, 3)), "y", 2).shape == (0, 2)
    (reply,) = InferEncoder(VERSION, [("y", "float32", 2)]).split({"y": array}, 2, [""])
    read = pb.ModelInferResponse.FromString(reply)
    assert (read.outputs[0].datatype, list(read.outputs[0].shape)) == ("BYTES", [2, 2])
    assert tensors.decode_data(read.raw_output_contents[0], "string", [2, 2]).tolist() == expected


@pytest.mark.parametrize("nans", [0, 30, 50])
def test_the_largest_are_those_of_a_stable_sort(nans):
    generator = np.random.default_rng(nans)
    for _ in range(20):
        # With many equal ones.
        numbers = generator.integers(-9, 9, 50).astype(np.float32)
        numbers[generator.permutation(50)[:nans]] = np.nan
        order = np.argsort(-numbers, kind="stable").tolist()
        for count in (1, 7, 25, 50, 60):
            assert largest(numbers, count) == order[:count]


@pytest.mark.parametrize(
    ("shape", "count", "text"),
    [
        ((1, 1_000_001), 5, "tensor too large: got 1000001 elements, expected at most 1000000"),
        ((2, 500_001), 1, "tensor too large: got 1000002 elements"),
        ((1, 1_000_000), 2**40, "got 1000000 for 1 rows, expected at most 100000 classes"),
        ((1000, 1000), 101, "got 101 for 1000 rows, expected at most 100000 classes"),
    ],
)
def test_so_many_classes_that_others_would_wait_are_refused(shape, count, text):
    with pytest.raises(InvalidRequestError, match=text):
        classes(np.broadcast_to(np.float32(1), shape), "y", count)
