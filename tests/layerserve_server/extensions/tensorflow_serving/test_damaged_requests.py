"""Requests with random damage: an error of the request, or the arrays that protobuf reads, never something else."""

import random

import numpy as np
import pytest
from layerserve_server.errors import InvalidRequestError
from layerserve_server.extensions.tensorflow_serving.contract import TensorFlowPredict
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow.tensor_pb2 import TensorProto
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow_serving.prediction_service_pb2 import (
    PredictRequest,
)
from layerserve_server.extensions.tensorflow_serving.tensors import encode
from layerserve_server.services.prediction.decoder import PLAIN
from layerserve_server.services.prediction.request_template import template_of

PROTOCOL = TensorFlowPredict()
TRIES = 2500


def requests():
    """Serialized requests in different forms."""
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    contents = TensorProto(dtype=1, tensor_shape=encode(rows).tensor_shape, tensor_content=rows.tobytes())
    text = np.array([b"a", b"bcd"], dtype=object)
    for tensors in (
        {"x": contents},
        {"x": encode(rows)},
        {"x": contents, "y": encode(rows.astype(np.float64))},
        {"x": encode(rows.astype(np.complex64)), "z": encode(text), "n": encode(rows.astype(np.int64))},
        {"x": encode(rows.astype(np.float16)), "": encode(rows > 2)},
    ):
        message = PredictRequest(output_filter=["a", "b"])
        message.model_spec.name = "m"
        message.model_spec.version.value = 3
        for name, tensor in tensors.items():
            message.inputs[name].CopyFrom(tensor)
        yield message.SerializeToString()


def damaged(draw, message):
    content = bytearray(message)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(content))
        kind = draw.randrange(5)
        if kind == 0:
            content[at] = draw.randrange(256)
        elif kind == 1:
            content[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            del content[at : at + draw.randint(1, 6)]
        elif kind == 3:
            start = draw.randrange(len(content))
            content[at:at] = content[start : start + draw.randint(1, 30)]
        else:
            content[at:at] = draw.randbytes(draw.randint(1, 4))
        if not content:
            break
    return bytes(content)


@pytest.mark.parametrize("number", range(5))
def test_damage_gives_an_error_or_what_protobuf_reads(number):
    whole = list(requests())[number]
    draw = random.Random(number)
    read, in_place = 0, 0
    for tried in range(TRIES):
        message = damaged(draw, whole) if tried else whole
        try:
            request = PROTOCOL.request(PROTOCOL.read(message))
        except InvalidRequestError:
            continue
        template = template_of(message, request)
        spans = {} if template is None else {tensor.name: tensor for tensor in template.tensors}
        for tensor in request.tensors:
            try:
                array = tensor.array()
            except InvalidRequestError:
                array = None
            span = spans.get(tensor.name)
            if span is None or span.dtype not in PLAIN:
                continue
            # As the decoder checks a span: its size, by dtype and shape.
            size = span.data.stop - span.data.start
            dtype = PLAIN[span.dtype]
            expected = np.prod(span.shape, dtype=object) * dtype.itemsize
            if span.shape and min(span.shape) >= 0 and size == expected:
                assert array is not None
                placed = np.frombuffer(message, dtype, array.size, span.data.start)
                assert placed.tobytes() == array.tobytes()
                in_place += 1
        read += 1
    assert read > TRIES / 20
    # Of the last two some inputs never have the bytes of an array.
    assert in_place > 100 or number > 2
