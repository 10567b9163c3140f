from __future__ import annotations

import re

import numpy as np
import pytest
from layerserve import InvalidTensor
from layerserve.values import tensors
from layerserve.values.casting import as_array, cast, default_cast


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        ([1, 2], "float32", np.array([1, 2], np.float32)),
        ([0.1, 0.2], "float32", np.array([0.1, 0.2], np.float32)),
        ([True, False], "float32", np.array([1, 0], np.float32)),
        ([1.0, 2.0], "int32", np.array([1, 2], np.int32)),
        ([1, 255], "uint8", np.array([1, 255], np.uint8)),
        ([-(2**31), 2**31 - 1], "int32", np.array([-(2**31), 2**31 - 1], np.int32)),
        (np.array([2**63], np.uint64), "float64", np.array([2.0**63])),
        ([0, 1], "bool", np.array([False, True])),
        ([True], "int64", np.array([1], np.int64)),
        # NumPy has no bfloat16: float32 holds its values.
        (np.array([1, 2], np.int8), "bfloat16", np.array([1, 2], np.float32)),
        ([], "int32", np.zeros(0, np.int32)),
        ([[], []], "string", np.zeros((2, 0), object)),
        (["a", "ü"], "string", np.array(["a", "ü"])),
        ([b"a\xff"], "string", np.array([b"a\xff"])),
        # As pandas has columns of several dtypes.
        (np.array([[1.5, True], [np.int64(2), np.True_]], object), "float32", np.array([[1.5, 1], [2, 1]], np.float32)),
        (np.array([True, 0], object), "bool", np.array([True, False])),
    ],
)
def test_what_loses_nothing_is_converted(value, dtype, expected):
    array = cast(as_array(value, "x"), dtype, "x")
    assert (array.shape, array.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize(("value", "kind"), [("good film", "str"), (b"good film", "bytes")])
def test_one_text_is_no_row(value, kind):
    expected = f"tensor 'x': got one {kind}, {value!r}, expected a list or an array of rows; one row of text is a list"
    with pytest.raises(InvalidTensor, match=re.escape(expected)):
        as_array(value, "x")


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool", "bytes"])
def test_numbers_become_no_complex_ones(dtype):
    held = "string" if dtype == "bytes" else dtype
    with pytest.raises(InvalidTensor, match=f"got dtype {held}, expected complex64"):
        cast(np.ones(2, dtype), "complex64", "x")


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool", "string", "complex128"])
def test_complex_numbers_are_not_converted(dtype):
    with pytest.raises(InvalidTensor, match=f"got dtype complex64, expected {dtype}"):
        cast(np.ones(2, "complex64"), dtype, "x")
    with pytest.raises(InvalidTensor, match="expected real numbers"):
        default_cast(np.ones(2, "complex64"), "y")


@pytest.mark.parametrize(
    ("value", "dtype", "lost"),
    [
        ([0, 255, 300, -1], "uint8", 300),
        ([255, 0, -1, 300], "uint8", -1),
        ([0.0, 255.0, 255.5], "uint8", 255.5),
        ([0, 1, 2], "bool", 2),
        (np.array([2**63 - 1, 2**63], np.uint64), "int64", 2**63),
    ],
)
def test_the_first_value_that_would_be_lost_is_named(value, dtype, lost):
    with pytest.raises(InvalidTensor, match=f"with a value of {lost}, expected {dtype}, which can't represent it"):
        cast(as_array(value, "x"), dtype, "x")


def test_floats_are_rounded_as_keras_rounds_them():
    assert cast(np.array([0.1]), "float32", "x")[0] == np.float32(0.1)
    assert np.isnan(cast(np.array([np.nan]), "float16", "x")[0])
    assert np.isposinf(cast(np.array([np.inf]), "float32", "x")[0])


def test_an_array_of_the_right_type_is_not_copied():
    array = np.zeros(3, np.float32)
    assert cast(array, "float32", "x") is array


@pytest.mark.parametrize(
    ("value", "dtype", "lost"),
    [
        ([1.0, 1.5], "int32", "1.5"),
        ([np.nan], "int64", "nan"),
        ([np.inf], "int64", "inf"),
        ([2.0**31], "int32", "2147483648.0"),
        ([2.0**63], "int64", "9.22"),
        (np.array([60000.0], np.float16), "int8", "60000.0"),
        ([-1], "uint8", "-1"),
        ([256], "uint8", "256"),
        (np.array([2**64 - 1], np.uint64), "int64", "18446744073709551615"),
        (np.array([-1]), "uint64", "-1"),
        ([2], "bool", "2"),
        ([0.5], "bool", "0.5"),
    ],
)
def test_what_would_lose_a_value_is_refused_with_the_value(value, dtype, lost):
    with pytest.raises(InvalidTensor) as caught:
        cast(as_array(value, "x"), dtype, "x")
    assert lost in caught.value.got
    assert dtype in caught.value.expected


def test_a_finite_number_does_not_become_infinite():
    with pytest.raises(InvalidTensor, match="too large"):
        cast(np.array([1e300]), "float32", "x")
    for large in (np.float32(3.4e38), np.float64(-3.4e38), np.array([[1, np.nan, 3.3961776e38]], np.float32)):
        with pytest.raises(InvalidTensor, match=r"too large.*bfloat16"):
            cast(np.asarray(large), "bfloat16", "x")
    kept = np.array([3.3961774e38, -np.inf, np.nan, 0], np.float32)
    np.testing.assert_array_equal(cast(kept, "bfloat16", "x"), kept)
    assert np.isfinite(tensors.decode(tensors.encode(kept[:1], dtype="bfloat16"))).all()


@pytest.mark.parametrize(("value", "dtype"), [(["a"], "float32"), ([1], "string")])
def test_text_and_numbers_are_not_mixed_up(value, dtype):
    with pytest.raises(InvalidTensor, match=f"expected {dtype}"):
        cast(as_array(value, "x"), dtype, "x")


class WithGradients:
    """What NumPy gets of such a tensor of torch."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad.")


@pytest.mark.parametrize("value", [[[1, 2], [3]], [None], [object()], {"a": 1}, [2**70], WithGradients()])
def test_what_is_no_array_is_refused(value):
    with pytest.raises(InvalidTensor, match="'x'"):
        as_array(value, "x")


@pytest.mark.parametrize(
    ("value", "kinds"), [([1.5, None], "NoneType, float"), (np.array(["a", 1], object), "int, str")]
)
def test_objects_of_several_kinds_are_named(value, kinds):
    with pytest.raises(InvalidTensor, match=f"got an array of objects: {kinds}, expected numbers, or str or bytes"):
        as_array(value, "x")


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_text_that_is_missing_is_refused_with_what_to_do(missing):
    with pytest.raises(InvalidTensor, match=r"in place of missing values: column\.fillna\(''\)"):
        as_array(np.array(["a", missing], object), "x")


def test_targets_keep_their_type_but_for_float64():
    assert default_cast(np.zeros(2), "y").dtype == np.float32
    assert default_cast(np.zeros(2, np.int64), "y").dtype == np.int64
