"""TensorProto in every form: what tf.make_ndarray would read, or an error before anything is allocated."""

import struct

import numpy as np
import pytest
from layerserve_server.errors import InvalidTensorError
from layerserve_server.extensions.tensorflow_serving.tensors import MAX_REPEATED_BYTES, TensorFlowTensor, encode
from layerserve_server.protocols.tensorflow.tensor_pb2 import DataType, TensorProto, TensorShapeProto

DTYPES = [
    "float32",
    "float64",
    "float16",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
    "complex64",
    "complex128",
]
OTHER_NAMES = {"float32": "FLOAT", "float64": "DOUBLE", "float16": "HALF"}
NUMBERS = {name: DataType.Value(f"DT_{OTHER_NAMES.get(name, name.upper())}") for name in DTYPES}


def proto(dtype, shape=(2, 3), **fields):
    return TensorProto(dtype=dtype, tensor_shape=TensorShapeProto(dim=[{"size": size} for size in shape]), **fields)


def read(message):
    return TensorFlowTensor("x", message).array()


def some(dtype):
    kind = np.dtype(dtype)
    if kind.kind == "c":
        return np.array([1.5 - 2j, 3, -1j, 0.25, 5, 1j], kind).reshape(2, 3)
    if kind.kind in "iu":
        bounds = np.iinfo(kind)
        return np.array([bounds.min, bounds.max, 0, 1, 2, 100], kind).reshape(2, 3)
    return np.array([0.0, 1.0, -2.5, 0.1, 3.0, -0.0]).astype(kind).reshape(2, 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_content_and_values_are_read_to_the_same_array(dtype):
    array = some(dtype)
    in_content = read(proto(NUMBERS[dtype], tensor_content=array.tobytes()))
    in_values = read(encode(array))
    for got in (in_content, in_values):
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_last_value_stands_for_those_that_are_missing(dtype):
    array = some(dtype).ravel()
    one, two = encode(array[1:2]), encode(array[1:3])
    for message in (one, two):
        message.tensor_shape.CopyFrom(proto(0).tensor_shape)
    np.testing.assert_array_equal(read(one), np.full((2, 3), array[1]))
    np.testing.assert_array_equal(read(two).ravel(), np.array([array[1], *[array[2]] * 5], array.dtype))


def test_bfloat16_is_read_as_float32():
    bits = [0x3F80, 0xC020, 0x0000, 0x7F80, 0x4049, 0xBF80]
    expected = [[1, -2.5, 0], [np.inf, 3.140625, -1]]
    values = read(proto(DataType.DT_BFLOAT16, half_val=bits))
    content = read(proto(DataType.DT_BFLOAT16, tensor_content=struct.pack("<6H", *bits)))
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(content, expected)
    assert values.dtype == content.dtype == np.float32


def test_text():
    texts = ["ä".encode(), b"", b"\x00" * 200, b"d", b"e", b"f"]
    values = read(proto(DataType.DT_STRING, string_val=texts))
    lengths = b"".join(bytes([len(text)]) if len(text) < 128 else bytes([len(text) & 127 | 128, 1]) for text in texts)
    content = read(proto(DataType.DT_STRING, tensor_content=lengths + b"".join(texts)))
    repeated = read(proto(DataType.DT_STRING, string_val=[b"a", b"b"]))
    assert values.ravel().tolist() == content.ravel().tolist() == texts
    assert repeated.tolist() == [[b"a", b"b", b"b"], [b"b", b"b", b"b"]]


def test_a_scalar_and_no_elements():
    assert read(proto(DataType.DT_FLOAT, (), float_val=[2])).shape == ()
    assert read(proto(DataType.DT_FLOAT, (0, 3))).shape == (0, 3)
    assert read(proto(DataType.DT_STRING, (0,))).shape == (0,)


def test_content_comes_before_values():
    message = proto(DataType.DT_FLOAT, (1,), tensor_content=struct.pack("<f", 1), float_val=[2])
    assert read(message).tolist() == [1]


WRONG = {
    "no dtype": (proto(0), "got dtype number 0, expected one of DT_FLOAT"),
    "a dtype that isn't supported": (proto(11, int_val=[1]), "got dtype number 11, expected one of DT_FLOAT"),
    "unknown rank": (
        TensorProto(dtype=DataType.DT_FLOAT, tensor_shape=TensorShapeProto(unknown_rank=True), float_val=[1]),
        "got a shape of unknown rank, expected a length for each axis",
    ),
    "a negative axis": (proto(1, (-1, 2), float_val=[1]), r"got shape \[-1, 2\], expected no negative axis"),
    "a huge shape": (proto(1, (2**62, 2**62), float_val=[1]), "below 2"),
    "a huge shape and an axis of 0": (proto(1, (0, 2**62, 2**62), float_val=[1]), "below 2"),
    "many axes": (proto(1, (1,) * 33, float_val=[1]), "got 33 axes"),
    "many repeated": (proto(1, (1 << 40,), float_val=[1]), "got 1 elements for shape .*, expected all 1099511627776"),
    "many repeated texts": (proto(7, (1 << 40,), string_val=[b""]), "expected all 1099511627776"),
    "a huge shape of text in content": (proto(7, (1 << 40,), tensor_content=b"\0"), "got 1 bytes of tensor_content"),
    "none": (proto(1), "got 0 numbers in float_val and no tensor_content, expected 6 elements of float32"),
    "another dtype's field": (proto(1, double_val=[1] * 6), "got 0 numbers in float_val"),
    "too many": (proto(1, (2,), float_val=[1] * 3), "got 3 numbers in float_val .*, expected 2 elements"),
    "too many for no elements": (proto(1, (0,), float_val=[1]), "expected 0 elements"),
    "too little content": (proto(1, (2,), tensor_content=bytes(7)), "got 7 bytes of data, expected 8 for shape"),
    "too much content": (proto(1, (2,), tensor_content=bytes(9)), "got 9 bytes of data, expected 8 for shape"),
    "half a complex number": (proto(8, (1,), scomplex_val=[1]), "got 1 numbers in scomplex_val"),
    "one and a half complex numbers": (proto(8, (2,), scomplex_val=[1, 2, 3]), "got 3 numbers in scomplex_val"),
    "a value out of range": (proto(6, (2,), int_val=[1, 200]), "got the element 200, expected -128 to 127, as in int8"),
    "a negative unsigned value": (proto(4, (1,), int_val=[-1]), "got the element -1, expected 0 to 255, as in uint8"),
    "bits out of range": (proto(19, (1,), half_val=[1 << 16]), "got the element 65536, expected 0 to 65535"),
    "a bool of 2": (proto(10, (1,), tensor_content=b"\2"), "got a bool of 2, expected 0 or 1"),
    "text that ends in a length": (proto(7, (1,), tensor_content=b"\xff"), "ends within a length"),
    "a length without end": (proto(7, (1,), tensor_content=b"\xff" * 30), "ends within a length"),
    "text that is too short": (proto(7, (1,), tensor_content=b"\5ab"), "got 2 bytes of text .*, expected 5"),
    "text that is too long": (proto(7, (1,), tensor_content=b"\1ab"), "got 2 bytes of text .*, expected 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_refused(case):
    message, text = WRONG[case]
    with pytest.raises(InvalidTensorError, match=f"tensor 'x': .*{text}"):
        read(message)


def test_the_limit_of_repeated_elements():
    rows = MAX_REPEATED_BYTES // 4
    assert read(proto(1, (rows,), float_val=[3])).shape == (rows,)
    with pytest.raises(InvalidTensorError, match="are filled with repeated elements"):
        read(proto(1, (rows + 1,), float_val=[3]))
    assert read(proto(1, (rows + 1,), float_val=[3] * (rows + 1))).shape == (rows + 1,)
    assert read(proto(1, (rows + 1,), tensor_content=bytes(4 * rows + 4))).shape == (rows + 1,)
