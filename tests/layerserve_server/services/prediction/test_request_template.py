"""Requests known again by their bytes say what protobuf reads in them; all others are left to protobuf."""

import random

import numpy as np
import pytest
from fake_plans import Plan, Spec
from layerserve.v1 import prediction_pb2, tensor_pb2
from layerserve.values import tensors
from layerserve_server.inference.admission import Admission
from layerserve_server.services.messages import choice
from layerserve_server.services.prediction import request_template
from layerserve_server.services.prediction.decoder import Decoder
from layerserve_server.services.prediction.layerserve_v1 import LayerserveV1
from layerserve_server.services.prediction.request_template import RequestTemplates, template_of

PROTOCOL = LayerserveV1()
X, IDS = Spec("x", (None, 2), "float32"), Spec("ids", (None,), "int64")
ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


def request(rows=ROWS, **fields):
    fields.setdefault("model", tensor_pb2.ModelSpec(name="m"))
    return prediction_pb2.PredictRequest(inputs=[tensors.encode(rows, "x")], **fields)


def learned(*messages):
    patterns = RequestTemplates()
    for message in messages:
        patterns.learn(message.SerializeToString(), PROTOCOL.request(message))
    return patterns


def test_a_message_with_other_numbers_and_another_id_is_known():
    model = tensor_pb2.ModelSpec(name="m", version=3)
    first = request(model=model, outputs=["y"], id="a1", priority=-2, max_queue_ms=7)
    second = request(ROWS + 1, model=model, outputs=["y"], id="b2", priority=-2, max_queue_ms=7).SerializeToString()
    found = learned(first).find(second)
    assert (found.choice, found.requested.outputs, found.priority, found.max_wait) == (
        ("m", 3, None),
        ("y",),
        -2,
        0.007,
    )
    assert found.id(second) == "b2"
    (layout,) = Decoder(Admission(Plan(X), [X], ("y",))).layouts(found)
    np.testing.assert_array_equal(layout.read(second), ROWS + 1)


@pytest.mark.parametrize(
    "other",
    [
        request(model=tensor_pb2.ModelSpec(name="n")),
        request(model=tensor_pb2.ModelSpec(name="m", version=1)),
        request(ROWS[:2]),
        request(ROWS.reshape(2, 3)),
        request(ROWS.view(np.int32)),
        request(outputs=["y"]),
        request(id="é"),
        request(priority=1),
    ],
    ids=str,
)
def test_a_message_that_says_something_else_is_new(other):
    assert learned(request(), request(id="ab")).find(other.SerializeToString()) is None


def test_an_id_that_is_no_text_is_left_to_protobuf():
    message = request(id="ab").SerializeToString()
    assert learned(request(id="cd")).find(message) is not None
    assert learned(request(id="cd")).find(message.replace(b"ab", b"\xff\xff")) is None


def test_what_stands_there_twice_has_no_pattern():
    message = request(id="ab")
    for added in (prediction_pb2.PredictRequest(id="cd"), prediction_pb2.PredictRequest(inputs=[tensor_pb2.Tensor()])):
        twice = message.SerializeToString() + added.SerializeToString()
        assert template_of(twice, PROTOCOL.request(PROTOCOL.read(twice))) is None


def test_a_group_has_no_pattern():
    # Field 9 as a group that is empty: protobuf skips it.
    message = request().SerializeToString() + b"\x4b\x4c"
    assert template_of(message, PROTOCOL.request(PROTOCOL.read(message))) is None


@pytest.mark.parametrize(
    "rows", [ROWS.astype(np.float64), ROWS[:, :1], ROWS[:0], ROWS[None]], ids=lambda r: str(r.shape)
)
def test_arrays_that_the_model_does_not_take_as_they_are_have_no_layout(rows):
    message = request(rows)
    if not rows.size:
        assert template_of(message.SerializeToString(), PROTOCOL.request(message)) is None
        return
    found = learned(message).find(message.SerializeToString())
    assert Decoder(Admission(Plan(X), [X], ("y",))).layouts(found) is None


def test_inputs_that_differ_in_rows_have_no_layout():
    for count in (3, 4):
        message = request()
        message.inputs.append(tensors.encode(np.arange(count), "ids"))
        found = learned(message).find(message.SerializeToString())
        layouts = Decoder(Admission(Plan(X, IDS), [X, IDS], ("y",))).layouts(found)
        assert (layouts is None) == (count == 4)


def test_callers_can_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(request_template, "MAX_LENGTHS", 3)
    patterns = RequestTemplates()
    for length in range(1, 51):
        for name in "abcdefgh":
            message = request(np.zeros((length, 1), np.float32), model=tensor_pb2.ModelSpec(name=name))
            patterns.learn(message.SerializeToString(), PROTOCOL.request(message))
    kept = patterns._by_length
    assert len(kept) == 50 % 3
    assert all(len(alike) <= request_template.MAX_OF_LENGTH for alike in kept.values())
    long = request(model=tensor_pb2.ModelSpec(name="m" * request_template.MAX_FIXED_BYTES))
    patterns.learn(long.SerializeToString(), PROTOCOL.request(long))
    assert patterns.find(long.SerializeToString()) is None


def test_whatever_is_known_is_what_protobuf_reads():
    """Random requests whose bytes are changed at random: a pattern fits none that protobuf reads otherwise."""
    draw = random.Random(0)
    form = Decoder(Admission(Plan(X), [X], ("y",)))
    known = 0
    for _ in range(300):
        rows = np.arange(2 * draw.randint(1, 3), dtype=np.float32).reshape(-1, 2)
        message = request(rows, id=draw.choice(["", "ab", "cde"]), outputs=draw.choice([[], ["y"]]))
        patterns, sent = learned(message), message.SerializeToString()
        for _ in range(20):
            changed = bytearray(sent)
            changed[draw.randrange(len(changed))] = draw.randrange(256)
            found = patterns.find(bytes(changed))
            if found is None:
                continue
            known += 1
            read = prediction_pb2.PredictRequest.FromString(bytes(changed))
            assert (found.id(bytes(changed)), found.requested.outputs, found.choice) == (
                read.id,
                tuple(read.outputs),
                choice(read.model),
            )
            (layout,) = form.layouts(found)
            assert layout.read(bytes(changed)).tobytes() == read.inputs[0].data
    assert known > 100
