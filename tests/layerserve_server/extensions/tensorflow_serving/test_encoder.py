"""Replies are what protobuf would write, whole and cut from the results of a batch."""

import numpy as np
import pytest
from layerserve_server.extensions.tensorflow_serving import encoder, tensors
from layerserve_server.extensions.tensorflow_serving.encoder import PredictResponseEncoder
from layerserve_server.extensions.tensorflow_serving.tensors import TensorFlowTensor, encode
from layerserve_server.protocols.tensorflow_serving.prediction_service_pb2 import PredictResponse

KINDS = {
    "raw": {"first": np.arange(12, dtype=np.float32).reshape(6, 2), "second": np.arange(6.0)},
    "bool": {"first": np.arange(12).reshape(6, 2) % 3 == 0},
    "complex": {"first": (np.arange(12) + 1j).astype(np.complex64).reshape(6, 2)},
    "integers": {"first": np.arange(12).reshape(6, 2) - 3, "second": np.arange(6, dtype=np.float32)},
    "small": {"first": np.arange(6, dtype=np.uint8), "second": np.arange(6, dtype=np.float16)},
    "text": {"first": np.array([b"a", b"", "ä", b"\xff", b"b", b"c"], dtype=object)},
    "not in order": {"first": np.arange(12, dtype=np.float32).reshape(2, 6).T},
}


def expected(results, rows=slice(None)):
    reply = PredictResponse()
    reply.model_spec.name, reply.model_spec.signature_name = "m", "serve"
    reply.model_spec.version.value = 7
    for name, array in results.items():
        reply.outputs[f"{name}!"].CopyFrom(encode(array[rows]))
    return reply


def made(results):
    return PredictResponseEncoder("m", 7, "serve", [(f"{name}!", name) for name in results])


@pytest.mark.parametrize("kind", KINDS)
def test_whole_and_in_parts(kind):
    results = KINDS[kind]
    encoder = made(results)
    assert PredictResponse.FromString(encoder.fill(results, "")) == expected(results)
    for rows in (1, 2, 3, 6):
        replies = encoder.split(results, rows, [""] * (6 // rows))
        assert list(map(PredictResponse.FromString, replies)) == [
            expected(results, slice(start, start + rows)) for start in range(0, 6, rows)
        ]


def test_no_rows_and_a_scalar():
    for results in ({"first": np.zeros((0, 2), np.float32)}, {"first": np.float32(2).reshape(())}):
        reply = PredictResponse.FromString(made(results).fill(results, ""))
        assert reply.outputs["first!"] == encode(results["first"])


def test_heads_are_limited(monkeypatch):
    monkeypatch.setattr(encoder, "MAX_HEADS", 2)
    reply = made({"first": None})
    for rows in (1, 2, 3, 1, 3):
        results = {"first": np.ones((rows, 2), np.float32)}
        assert PredictResponse.FromString(reply.fill(results, "")) == expected(results)
        assert len(reply._heads) <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_elements_in_several_pieces_are_one_tensor(monkeypatch, kind):
    results = KINDS[kind]
    whole = expected(results)
    monkeypatch.setattr(tensors, "CHUNK_ELEMENTS", 5)
    reply = PredictResponse.FromString(made(results).fill(results, ""))
    assert reply == whole
    for name, array in results.items():
        read = TensorFlowTensor("first", reply.outputs[f"{name}!"]).array()
        assert read.tolist() == [one.encode() if isinstance(one, str) else one for one in array.tolist()]


def test_no_more_elements_are_written_at_once_than_a_piece():
    longest = max(map(len, tensors.parts_of(np.ones(10 * tensors.CHUNK_ELEMENTS, np.int32))))
    assert longest < 2 * tensors.CHUNK_ELEMENTS
