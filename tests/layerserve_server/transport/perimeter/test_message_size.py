"""Messages that become much larger when they are parsed are refused before."""

import time

import numpy as np
import pytest
from layerserve.v1 import graph_pb2, prediction_pb2, tensor_pb2, training_pb2
from layerserve.values.tensors import encode
from layerserve_server.errors import InvalidRequestError
from layerserve_server.protocols.inference.inference_pb2 import InferTensorContents, ModelInferRequest
from layerserve_server.services.messages import parse
from layerserve_server.transport.perimeter import message_size
from layerserve_server.transport.perimeter.message_size import ELEMENTS, PROMPT_BYTES, check_elements, is_long

#: A field of two bytes in messages that have another one for it, by what it becomes.
DENSE = {
    "nested messages": (b"\x12\x00", prediction_pb2.PredictRequest, ELEMENTS // 4),
    "texts": (b"\x12\x00", graph_pb2.GetNodeShapesRequest, ELEMENTS),
    "numbers": (b"\x18\x01", tensor_pb2.Tensor, ELEMENTS),
    "unknown fields": (b"\x78\x01", tensor_pb2.Tensor, ELEMENTS),
}


@pytest.mark.parametrize("what", DENSE)
def test_the_largest_number_of_elements_is_parsed_and_one_more_is_not(what):
    field, kind, most = DENSE[what]
    parse(kind, field * most)
    with pytest.raises(InvalidRequestError, match=f"more than {ELEMENTS} elements"):
        parse(kind, field * (most + 1))


def inside(number, content):
    """A field of bytes or of a nested message."""
    size = len(content)
    return (
        bytes([number << 3 | 2, size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21]) + content
    )


def test_elements_within_nested_messages_count():
    many = b"\x22\x00" * ELEMENTS
    training_pb2.TrainRequest.FromString(inside(1, many[:100]))
    with pytest.raises(InvalidRequestError):
        parse(training_pb2.TrainRequest, inside(1, many))


@pytest.mark.parametrize(
    ("kind", "number", "count"),
    [
        (tensor_pb2.Tensor, tensor_pb2.Tensor.SHAPE_FIELD_NUMBER, 8),
        (InferTensorContents, InferTensorContents.UINT_CONTENTS_FIELD_NUMBER, 16),
    ],
)
def test_packed_integers_count_as_one_element_for_each_64_bytes(kind, number, count):
    parse(kind, inside(number, b"\x01" * (count * (ELEMENTS - 2))))
    with pytest.raises(InvalidRequestError):
        parse(kind, inside(number, b"\x01" * (count * (ELEMENTS + 1))))


def test_elements_after_an_unknown_group_count():
    with pytest.raises(InvalidRequestError):
        parse(tensor_pb2.Tensor, b"\x7b\x1a\x05\x80\x80\x80\x80\x80\x7c" + b"\x18\x01" * (ELEMENTS + 1))


def test_arrays_as_bytes_have_any_size():
    array = encode(np.zeros(10_000_000, np.float32))
    message = prediction_pb2.PredictRequest(inputs=[array]).SerializeToString()
    assert parse(prediction_pb2.PredictRequest, message).inputs[0].shape == [10_000_000]
    packed = ModelInferRequest()
    packed.inputs.add().contents.fp32_contents.extend(np.zeros(2 * ELEMENTS, np.float32))
    parse(ModelInferRequest, packed.SerializeToString())


@pytest.mark.parametrize("end", [b"\x12", b"\x12\xff", b"\x12\xff\xff\xff\xff\x0f", b"\xff" * 20, b"\x0d\x01", b"\x0f"])
def test_what_is_no_message_is_left_to_protobuf(end):
    with pytest.raises(InvalidRequestError, match="isn't a valid PredictRequest"):
        parse(prediction_pb2.PredictRequest, b"\x08\x01" * PROMPT_BYTES + end)


def test_a_number_without_end_takes_no_time():
    began = time.process_time()
    check_elements(b"\xff" * 30_000_000, prediction_pb2.PredictRequest.DESCRIPTOR)
    assert time.process_time() - began < 1


def test_messages_of_many_elements_or_bytes_are_long(monkeypatch):
    monkeypatch.setattr(message_size, "PROMPT_BYTES", 0)
    monkeypatch.setattr(message_size, "LONG_ELEMENTS", 10)
    monkeypatch.setattr(message_size, "LONG_BYTES", 100)
    kind = graph_pb2.GetNodeShapesRequest.DESCRIPTOR
    assert [is_long(message, kind) for message in (b"\x12\x00" * 10, b"\x12\x00" * 11)] == [False, True]
    assert [is_long(inside(2, b"x" * size), kind) for size in (50, 100)] == [False, True]
