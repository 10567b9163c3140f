"""Admission: what fits is converted, what doesn't is named with what came and what was expected."""

from types import SimpleNamespace

import numpy as np
import pytest
from layerserve_server.errors import InvalidRequestError, InvalidTensorError, MissingInputError, UnknownInputError
from layerserve_server.inference.admission import admit


def spec(name="x", shape=(None, 2), dtype="float32"):
    return SimpleNamespace(name=name, shape=shape, dtype=dtype)


def admitted(tensors, *specs, needed=None):
    plan = SimpleNamespace(input_specs=needed or specs)
    return admit(plan, specs, tensors)


@pytest.mark.parametrize(
    ("dtype", "array", "expected"),
    [
        ("int64", np.array([1, 2], np.int32), np.int64),
        ("int32", np.array([1, 2], np.int64), np.int32),
        ("float32", np.array([0, 255], np.uint8), np.float32),
        ("float32", np.array([1e-3, 0.1]), np.float32),
        ("float32", np.array([2**24], np.int64), np.float32),
        ("float64", np.array([0.1], np.float16), np.float64),
        ("float32", np.array([True]), np.float32),
        ("float32", np.array([np.nan, np.inf]), np.float32),
        ("bfloat16", np.array([1.5], np.float32), np.float32),
        ("string", np.array([b"a"], object), object),
    ],
)
def test_types_are_converted_where_nothing_is_lost(dtype, array, expected):
    got = admitted([("x", array)], spec(shape=(None,), dtype=dtype)).arrays["x"]
    assert got.dtype == expected
    np.testing.assert_array_equal(got, array.astype(expected))


@pytest.mark.parametrize(
    ("dtype", "array", "text"),
    [
        ("int32", np.array([1.0]), "got dtype float64, expected int32"),
        ("bool", np.array([1]), "got dtype int64, expected bool"),
        ("int32", np.array([2**31]), "got 2147483648 as int64, which int32 can't represent"),
        ("uint8", np.array([-1]), "got -1 as int64, which uint8 can't represent"),
        ("uint8", np.array([5, 256]), "got 256 as int64, which uint8 can't represent"),
        ("uint8", np.array([-1, 5]), "got -1 as int64, which uint8 can't represent"),
        ("float32", np.array([2**24 + 1]), "got 16777217 as int64, which float32 can't represent"),
        ("float32", np.array([1e300]), "too large for float32"),
        ("bfloat16", np.array([1, -3.4e38], np.float32), "got a finite float32 that is too large for bfloat16"),
        ("bfloat16", np.array([np.inf, 3.4e38]), "got a finite float64 that is too large for bfloat16"),
        ("float32", np.array([b"a"], object), "got dtype string, expected float32"),
        ("string", np.array([1.0]), "got dtype float64, expected string"),
    ],
)
def test_types_are_refused_where_something_would_be_lost(dtype, array, text):
    with pytest.raises(InvalidTensorError, match="input 'x': ") as caught:
        admitted([("x", array)], spec(shape=(None,), dtype=dtype))
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "came", "becomes"),
    [
        ((None, 1), (5,), (5, 1)),
        ((None,), (5, 1), (5,)),
        ((None, None), (5, 7), (5, 7)),
        ((None, 2), (0, 2), (0, 2)),
        ((4, 2), (4, 2), (4, 2)),
    ],
)
def test_shapes_that_fit_or_miss_a_last_axis_of_one(wanted, came, becomes):
    assert admitted([("x", np.zeros(came, np.float32))], spec(shape=wanted)).arrays["x"].shape == becomes


@pytest.mark.parametrize(
    ("wanted", "came", "text"),
    [
        ((None, 2), (5, 3), "got length 3 on axis 1, shape (5, 3), expected 2, shape (None, 2)"),
        ((None, 2), (2,), "got 1 axis, shape (2,), expected 2 axes, shape (None, 2); add a first axis"),
        ((None, 8, 8, 3), (1, 8, 8), "; add a last axis of length 3, such as the channels of an image"),
        ((None, 8, 8, 3), (8, 8, 3), "; add a first axis"),
        ((None, 8, 8, None), (1, 8, 8), "expected 4 axes, shape (None, 8, 8, None)"),
        ((None, 2), (5, 2, 2), "got 3 axes"),
        # A single row, although its last axis of length 1 may look like a missing one.
        (
            (None, 5, 1),
            (5, 1),
            "got length 1 on axis 1, shape (5, 1), expected 5, shape (None, 5, 1); add a first axis",
        ),
        ((None, 2), (), "got 0 axes"),
        ((None,), (), "got 0 axes"),
        ((None, None, 3), (5, 4), "expected 3 axes, shape (None, None, 3)"),
        ((4, 2), (5, 2), "got length 5 on axis 0"),
    ],
)
def test_shapes_that_do_not_fit(wanted, came, text):
    with pytest.raises(InvalidTensorError) as caught:
        admitted([("x", np.zeros(came, np.float32))], spec(shape=wanted))
    assert str(caught.value).startswith("input 'x': ")
    assert text in str(caught.value)


ROW = np.zeros((1, 2), np.float32)


@pytest.mark.parametrize(
    ("tensors", "error", "text"),
    [
        ([("a", ROW)], MissingInputError, "missing input 'b': got 'a', expected 'a', 'b'"),
        ([], MissingInputError, "missing input 'a' and 'b': got none"),
        ([("a", ROW), ("bb", ROW)], UnknownInputError, "unknown input 'bb'"),
        ([("a", ROW), ("b", ROW), ("a", ROW)], InvalidTensorError, "input 'a': given twice"),
        ([("", ROW), ("b", ROW)], UnknownInputError, "got an input without a name, but the model has 2: 'a', 'b'"),
        ([("a", ROW), ("b", np.zeros((3, 2)))], InvalidTensorError, "inputs differ in rows: 'a' has 1, 'b' has 3"),
    ],
)
def test_inputs_that_are_not_those_of_the_model(tensors, error, text):
    with pytest.raises(error) as caught:
        admitted(tensors, spec("a"), spec("b"))
    assert text in str(caught.value)
    assert isinstance(caught.value, InvalidRequestError)


def test_an_empty_name_stands_for_the_only_input():
    assert list(admitted([("", ROW)], spec("a")).arrays) == ["a"]


def test_inputs_that_the_outputs_do_not_need_may_come_or_stay_away():
    a, b = spec("a"), spec("b")
    assert list(admitted([("a", ROW)], a, b, needed=[a]).arrays) == ["a"]
    assert list(admitted([("a", ROW), ("b", np.zeros((9, 9)))], a, b, needed=[a]).arrays) == ["a"]


def test_a_model_of_fixed_batches_counts_its_longest_array():
    fixed = [spec("a", (2, 3)), spec("b", (4,)), spec("c", ())]
    arrays = [("a", np.zeros((2, 3))), ("b", np.zeros(4)), ("c", np.zeros(()))]
    assert admitted(arrays, *fixed).rows == 4
    assert admitted(arrays[2:], fixed[2]).rows == 1


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_rows_are_counted(rows):
    assert admitted([("x", np.zeros((rows, 2)))], spec()).rows == rows
