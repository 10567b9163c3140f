"""Replies written by hand are those that protobuf writes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from layerserve.v1 import prediction_pb2, tensor_pb2
from layerserve.values import tensors
from layerserve.values.wire import varint
from layerserve_server.services.prediction import encoder
from layerserve_server.services.prediction.encoder import Encoder, joined


def by_protobuf(names, results, id):
    return prediction_pb2.PredictResponse(
        model=tensor_pb2.ModelSpec(name="m", version=300),
        outputs=[tensors.encode(results[name], name) for name in names],
        id=id,
    ).SerializeToString()


DTYPES = st.sampled_from([dtype for name, dtype in tensors.NUMPY_DTYPES.items() if name != "string"])


@settings(deadline=None)
@given(
    st.lists(arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, min_side=0, max_side=200)), max_size=3), st.text()
)
def test_any_arrays(values, id):
    results = {f"output {place}": value for place, value in enumerate(values)}
    form = Encoder("m", 300, list(results))
    assert form.fill(results, id) == by_protobuf(list(results), results, id)


@settings(deadline=None)
@given(
    st.lists(st.binary(max_size=20) | arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, min_side=0, max_side=9)))
)
def test_parts_joined_in_pieces(parts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "CHUNK_BYTES", 5)
        assert joined(parts) == b"".join(parts)
        assert joined([memoryview(part) for part in parts if isinstance(part, bytes)]) == b"".join(
            part for part in parts if isinstance(part, bytes)
        )


@pytest.mark.parametrize(
    "array",
    [
        np.array([["a", "b"]], object),
        np.arange(12, dtype=">f4").reshape(3, 4),
        np.arange(12.0).reshape(3, 4).T,
        np.arange(12.0).reshape(3, 4)[:, ::2],
    ],
)
def test_text_and_other_layouts(array):
    assert Encoder("m", 300, ["y", "y"]).fill({"y": array}, "") == by_protobuf(["y", "y"], {"y": array}, "")


@pytest.mark.parametrize(("value", "expected"), [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\x01"), (2**40, None)])
def test_varints(value, expected):
    written = varint(value)
    assert expected in (None, written)
    assert sum((byte & 127) << 7 * place for place, byte in enumerate(written)) == value


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda rows: np.arange(rows * 2, dtype=np.float32).reshape(rows, 2),
        lambda rows: np.asfortranarray(np.arange(rows * 6.0).reshape(rows, 2, 3)),
        lambda rows: np.arange(rows),
        lambda rows: np.zeros((rows, 0), np.int8),
        lambda rows: np.arange(rows * 2, dtype=">f4").reshape(rows, 2),
        lambda rows: np.array([[str(row)] for row in range(rows)], object),
    ],
)
def test_results_are_cut_into_replies(make, rows):
    ids = ["", "a", "é"]
    results = {"y": make(rows * len(ids)), "z": np.arange(rows * len(ids), dtype=np.int16)}
    expected = [
        by_protobuf("yz", {name: array[start : start + rows] for name, array in results.items()}, id)
        for start, id in zip(range(0, rows * len(ids), rows), ids, strict=True)
    ]
    assert Encoder("m", 300, ["y", "z"]).split(results, rows, ids) == expected
