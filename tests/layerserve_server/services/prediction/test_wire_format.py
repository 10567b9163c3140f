"""Where the fields of a message are, however many a caller sends."""

from layerserve.v1 import prediction_pb2, tensor_pb2
from layerserve_server.services.prediction.predict_protocol import Span
from layerserve_server.services.prediction.wire_format import MAX_FIELDS, UNREAD, fields, without


def found(message):
    return [(number, message[span.start : span.stop]) for number, span in fields(message, Span(0, len(message)))]


def test_fields_up_to_the_limit_are_read():
    message = b"\x0a\x01x" * MAX_FIELDS
    assert found(message) == [(1, b"x")] * MAX_FIELDS


def test_millions_of_fields_are_not_read():
    for field in (b"\x0a\x01x", b"\x08\x01", b"\x0d\0\0\0\0"):
        numbers = [number for number, _ in found(field * (MAX_FIELDS + 1))]
        assert numbers[-1] == UNREAD
        assert len(numbers) <= MAX_FIELDS + 1


def test_a_message_without_some_fields():
    tensors = [tensor_pb2.Tensor(name=name, data=b"12") for name in ("a", "b")]
    spec = tensor_pb2.ModelSpec(name="m", version=3)
    # A plain field before, between and after others.
    message = prediction_pb2.PredictRequest(model=spec, inputs=tensors, priority=5, id="i", max_queue_ms=7)
    whole = b"x" + message.SerializeToString() + b"y"
    rest, spans = without(whole, {prediction_pb2.PredictRequest.INPUTS_FIELD_NUMBER}, Span(1, len(whole) - 1))
    assert [tensor_pb2.Tensor.FromString(whole[span.start : span.stop]) for span in spans] == tensors
    del message.inputs[:]
    assert prediction_pb2.PredictRequest.FromString(rest) == message


def test_a_message_of_this_server_may_have_any_number_of_fields():
    rest, spans = without(b"\x0a\x01x" * (2 * MAX_FIELDS) + b"\x12\x01y", {1})
    assert (rest, len(spans)) == (b"\x12\x01y", 2 * MAX_FIELDS)
