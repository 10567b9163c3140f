from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from layerserve import InvalidTensor
from layerserve.v1.tensor_pb2 import DATA_TYPE_FLOAT32, DATA_TYPE_STRING, DataType, Tensor
from layerserve.values import tensors

NUMERIC = [name for name in tensors.NUMPY_DTYPES if name not in ("string", "bfloat16")]


def test_every_wire_type_has_a_name():
    names = {tensors.dtype_name(value.number) for value in DataType.DESCRIPTOR.values if value.number}
    assert names == set(tensors.NUMPY_DTYPES)
    assert all(tensors.dtype_name(tensors.dtype_enum(name)) == name for name in names)


@pytest.mark.parametrize("dtype", NUMERIC)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (0, 4), (2, 1, 3)])
def test_numbers_survive_the_round_trip(dtype, shape):
    array = (np.arange(np.prod(shape, dtype=int)) % 2).reshape(shape).astype(dtype)
    tensor = tensors.encode(array, "t")
    decoded = tensors.decode(tensor)
    assert (tensor.name, tensors.dtype_name(tensor.dtype), tuple(tensor.shape)) == ("t", dtype, shape)
    assert decoded.dtype == array.dtype
    np.testing.assert_array_equal(decoded, array)


@pytest.mark.parametrize("dtype", [name for name in NUMERIC if name != "bool"])
def test_extreme_values_survive(dtype):
    kind = np.dtype(dtype)
    info = np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind)
    array = np.array([info.min, info.max], kind)
    np.testing.assert_array_equal(tensors.decode(tensors.encode(array)), array)


def test_bytes_are_little_endian_rows_first():
    assert tensors.encode(np.array([1, 258], ">u2")).data == b"\x01\x00\x02\x01"
    assert tensors.encode(np.array([[1, 2], [3, 4]], np.uint8).T).data == b"\x01\x03\x02\x04"


@pytest.mark.parametrize(
    "view",
    [
        np.arange(24.0).reshape(4, 6)[::2, 1::2],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(6.0).reshape(2, 3)[::-1],
        np.broadcast_to(np.arange(3.0), (2, 3)),
        np.arange(6.0).astype(">f8").reshape(2, 3),
    ],
)
def test_memory_layout_does_not_matter(view):
    np.testing.assert_array_equal(tensors.decode(tensors.encode(view)), view)


def test_decoding_numbers_does_not_copy_unless_asked_to():
    data = np.arange(4, dtype=np.float32).tobytes()
    shared = tensors.decode_data(data, "float32", (4,))
    assert not shared.flags.writeable
    assert np.shares_memory(shared, np.frombuffer(data, np.float32))
    copied = tensors.decode_data(data, "float32", (4,), copy=True)
    copied[0] = 7
    assert shared[0] == 0


def test_strings_survive_as_bytes():
    array = np.array([["a", b"\x00\xff"], ["", "é"]], dtype=object)
    tensor = tensors.encode(array)
    assert tensor.data == b"\x01\0\0\0a" + b"\x02\0\0\0\x00\xff" + b"\0\0\0\0" + b"\x02\0\0\0\xc3\xa9"
    assert tensors.decode(tensor).tolist() == [[b"a", b"\x00\xff"], [b"", "é".encode()]]
    assert tensors.decode(tensors.encode(np.array(["x", "yz"]))).tolist() == [b"x", b"yz"]
    assert tensors.decode(tensors.encode(np.array([], dtype=object))).shape == (0,)


def test_bfloat16_is_rounded_as_ml_dtypes_rounds_and_decoded_to_float32():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.array([1.0, 3.14159, -0.0, np.inf, np.nan, 1e-40, 3.4e38, 1.00390625, 1.01171875], np.float32)
    with np.errstate(over="ignore"):
        reference = values.astype(ml_dtypes.bfloat16)
    ours = tensors.encode(values, dtype="bfloat16")
    np.testing.assert_array_equal(tensors.decode(ours), reference.astype(np.float32))
    theirs = tensors.encode(reference)
    assert tensors.dtype_name(theirs.dtype) == "bfloat16"
    assert theirs.data == ours.data
    assert tensors.decode(theirs).dtype == np.float32


def test_ml_dtypes_is_never_imported():
    program = "import sys, layerserve.values.tensors; sys.exit('ml_dtypes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


@pytest.mark.parametrize(
    ("tensor", "got", "expected"),
    [
        (Tensor(data=b""), "no dtype", "float32"),
        (Tensor(dtype=99), "dtype number 99", "float32"),  # type: ignore[arg-type]
        (Tensor(dtype=DATA_TYPE_FLOAT32, shape=[2], data=b"1234567"), "7 bytes", "8 for shape [2] of float32"),
        (Tensor(dtype=DATA_TYPE_FLOAT32, shape=[2], data=b"123456789"), "9 bytes", "8 for shape"),
        (Tensor(dtype=DATA_TYPE_FLOAT32, shape=[-1, 2]), "shape [-1, 2]", "no negative"),
        (Tensor(dtype=DATA_TYPE_FLOAT32, shape=[2**62, 4]), "shape [4611686018427387904, 4]", "2**63"),
        (Tensor(dtype=DATA_TYPE_FLOAT32, shape=[0, 2**62, 2**62]), "shape [0, ", "2**63"),
        (Tensor(dtype=DATA_TYPE_FLOAT32, shape=[1] * 33, data=b"1234"), "33 axes", "32"),
        (Tensor(dtype=tensors.dtype_enum("bool"), shape=[2], data=b"\x01\x02"), "bool of 2", "0 or 1"),
        (Tensor(dtype=DATA_TYPE_STRING, shape=[2**40], data=b""), "0 bytes", "1099511627776 strings"),
        (Tensor(dtype=DATA_TYPE_STRING, shape=[1], data=b"\x05\0\0\0abc"), "ends within string 0", "1 strings"),
        (Tensor(dtype=DATA_TYPE_STRING, shape=[2], data=b"\x01\0\0\0a\0\0\0"), "ends within string 1", "2 strings"),
        (Tensor(dtype=DATA_TYPE_STRING, shape=[1], data=b"\x01\0\0\0ab"), "1 bytes after", "none"),
    ],
)
def test_a_tensor_that_does_not_hold_together_is_refused(tensor, got, expected):
    tensor.name = "image"
    with pytest.raises(InvalidTensor) as caught:
        tensors.decode(tensor)
    assert caught.value.name == "image"
    assert got in caught.value.got
    assert expected in caught.value.expected
    assert "'image'" in str(caught.value)


@pytest.mark.parametrize(
    "array",
    [
        np.array(["2020-01-01"], "datetime64[D]"),
        np.array([(1, 2)], [("a", "i4"), ("b", "i4")]),
        np.array([1, "a"], dtype=object),
        np.array(["\ud800"], dtype=object),
    ],
)
def test_an_array_without_a_counterpart_is_refused(array):
    with pytest.raises(InvalidTensor, match="'odd'"):
        tensors.encode(array, "odd")


def test_encoding_data_converts_nothing():
    with pytest.raises(InvalidTensor, match="got an array of float64, expected float32"):
        tensors.encode_data(np.zeros(2), "float32")


def test_shapes_have_none_for_minus_one():
    assert tensors.wire_shape((None, 3)) == [-1, 3]
    assert tensors.read_shape([-1, 3]) == (None, 3)


def test_the_size_of_an_element():
    assert [tensors.itemsize(name) for name in ("bool", "float16", "bfloat16", "float64", "string")] == [1, 2, 2, 8, 4]
