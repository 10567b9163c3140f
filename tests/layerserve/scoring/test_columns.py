"""Columns as arrays of inputs, and outputs as columns of Arrow."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from layerserve import InvalidTensor, TensorSpec
from layerserve.scoring.columns import arrow_array, arrow_type, input_array, no_rows
from layerserve.values.tensors import NUMPY_DTYPES


def spec(*row: int | None, dtype: str = "float32") -> TensorSpec:
    return TensorSpec("x", (None, *row), dtype)


def nested(array: np.ndarray) -> Any:
    made = pa.array(array.reshape(-1))
    for length in reversed(array.shape[1:]):
        made = pa.FixedSizeListArray.from_arrays(made, length)
    return made


def objects(*values: bytes) -> np.ndarray:
    return np.array(values, object)


TEXT = spec(dtype="string")
GRID = np.arange(24, dtype="float32").reshape(4, 2, 3)
TWO_LISTS = [[1, 2], [3, 4]]

#: Columns that fit: the column, the input, and the array.
FITTING: dict[str, tuple[Any, TensorSpec, Any]] = {
    "numbers": (np.array([1.5, 2.5]), spec(), np.array([1.5, 2.5], "float32")),
    "whole numbers for floats": ([1, 2], spec(), np.array([1, 2], "float32")),
    "whole floats for ints": (np.array([1.0, 2.0]), spec(dtype="int32"), np.array([1, 2], "int32")),
    "lists": (TWO_LISTS, spec(2), np.array(TWO_LISTS, "float32")),
    "objects that are arrays": (np.array([*map(np.array, TWO_LISTS), None], object)[:2], spec(2), np.array(TWO_LISTS)),
    "flat lists": (GRID.reshape(4, 6), spec(2, 3), GRID),
    "text": (np.array(["a", "ä"]), TEXT, np.array(["a", "ä"])),
    "Arrow: numbers": (pa.array([1.5, 2.5]), spec(), np.array([1.5, 2.5], "float32")),
    "Arrow: chunks": (pa.chunked_array([[1], [2, 3]]), spec(), np.array([1, 2, 3], "float32")),
    "Arrow: no chunks": (pa.chunked_array([], pa.int64()), spec(), np.empty(0, "float32")),
    "Arrow: bools": (pa.array([True, False]), spec(), np.array([1, 0], "float32")),
    "Arrow: halves": (pa.array(np.array([1.5], "float16")), spec(), np.array([1.5], "float32")),
    "Arrow: decimals": (pa.array([decimal.Decimal("1.25")]), spec(), np.array([1.25], "float32")),
    "Arrow: times as seconds": (pa.array([datetime.datetime(1970, 1, 2)]), spec(), np.array([86400], "float32")),
    "Arrow: dates as text": (pa.array([datetime.date(2020, 1, 2)]), TEXT, objects(b"2020-01-02")),
    "Arrow: lists": (pa.array(TWO_LISTS), spec(2), np.array(TWO_LISTS, "float32")),
    "Arrow: lists of any length": (pa.array(TWO_LISTS, pa.large_list(pa.int8())), spec(None), np.array(TWO_LISTS)),
    "Arrow: lists of one size": (nested(GRID), spec(2, 3), GRID),
    "Arrow: a part of lists": (nested(GRID)[1:3], spec(2, 3), GRID[1:3]),
    "Arrow: flat lists": (nested(GRID.reshape(4, 6)), spec(2, 3), GRID),
    "Arrow: tensors": (pa.FixedShapeTensorArray.from_numpy_ndarray(GRID), spec(2, 3), GRID),
    "Arrow: text": (pa.array(["a", "ä"], pa.large_string()), TEXT, objects(b"a", "ä".encode())),
    "Arrow: bytes": (pa.array([b"\xff"]), TEXT, objects(b"\xff")),
    "Arrow: categories": (pa.array(["a", "b", "a"]).dictionary_encode(), TEXT, objects(b"a", b"b", b"a")),
    "Arrow: categories of numbers": (pa.array([5, 7, 5]).dictionary_encode(), spec(), np.array([5, 7, 5], "float32")),
    "Arrow: lists of text": (pa.array([["a"], ["b"]]), spec(1, dtype="string"), np.array([[b"a"], [b"b"]], object)),
}  # fmt: skip


@pytest.mark.parametrize(("column", "wanted", "expected"), FITTING.values(), ids=FITTING)
def test_columns_become_arrays(column: Any, wanted: TensorSpec, expected: np.ndarray) -> None:
    found = input_array([("c", column)], wanted)
    np.testing.assert_array_equal(found, expected)
    assert wanted.dtype == "string" or found.dtype == NUMPY_DTYPES[wanted.dtype]


#: Columns that don't fit: the column, the input, and what the error says.
WRONG: dict[str, tuple[Any, TensorSpec, str]] = {
    "text for numbers": (np.array(["a"]), spec(), "'c': got dtype string, expected float32"),
    "numbers for text": (np.array([1]), TEXT, "'c': got dtype int64, expected string"),
    "a fraction for ints": ([1.5], spec(dtype="int32"), "1.5, expected int32"),
    "too large": ([300], spec(dtype="uint8"), "300, expected uint8"),
    "None": ([1.0, None], spec(), "column 'c', row 2: got no value"),
    "None in text": (np.array(["a", None], object), TEXT, "column 'c', row 2: got no value"),
    "NaN in text": (np.array(["a", float("nan")], object), TEXT, "column 'c', row 2: got no value"),
    "None among arrays": (np.array([np.ones(2), None, np.ones(3)], object), spec(2), "column 'c', row 2: got no value"),
    "ragged": (np.array([np.ones(2), np.ones(3)], object), spec(2), r"row 2: got shape \(3,\), expected \(2,\)"),
    "dates": (np.array(["2020-01-01"], "datetime64[s]"), spec(), "'c': got an array of datetime64"),
    "Arrow: text for numbers": (pa.array(["1"]), spec(), "column 'c' has type string, expected float32"),
    "Arrow: numbers for text": (pa.array([1]), TEXT, "column 'c' has type int64, expected string"),
    "Arrow: structs": (pa.array([{"a": 1}]), spec(), r"'c' has type struct<a: int64>, expected numbers, text"),
    "Arrow: null": (pa.array([1, None]), spec(), "column 'c', row 2: got no value.*, expected one; drop the row"),
    "Arrow: null in the second chunk": (pa.chunked_array([[1], [2, None]]), spec(), "column 'c', row 3: got no value"),
    "Arrow: null in a list": (pa.array([[1, 2], [3, None]]), spec(2), "column 'c', row 2: got no value"),
    "Arrow: null for a list": (pa.array([None, [1, 2]]), spec(2), "column 'c', row 1: got no value"),
    "Arrow: null category": (pa.array(["a", None]).dictionary_encode(), TEXT, "row 2: got no value"),
    "Arrow: only nulls": (pa.nulls(2), spec(), "column 'c' has type null"),
    "Arrow: ragged": (pa.array([[1, 2], [3]]), spec(2), "column 'c', row 2: got a list of 1, expected 2"),
    "Arrow: a fraction for ints": (pa.array([1.5]), spec(dtype="int32"), "1.5, expected int32"),
}  # fmt: skip


@pytest.mark.parametrize(("column", "wanted", "text"), WRONG.values(), ids=WRONG)
def test_wrong_columns_are_named_with_what_fits(column: Any, wanted: TensorSpec, text: str) -> None:
    with pytest.raises(InvalidTensor, match=text):
        input_array([("c", column)], wanted)


def test_several_columns_are_the_last_axis() -> None:
    columns = [("a", np.array([1, 2])), ("b", pa.array([0.5, 1.5])), ("c", np.array([True, False]))]
    np.testing.assert_array_equal(input_array(columns, spec(3)), np.array([[1, 0.5, 1], [2, 1.5, 0]], "float32"))
    with pytest.raises(InvalidTensor, match=r"'l': got shape \(2, 2\), expected one value a row"):
        input_array([*columns, ("l", TWO_LISTS)], spec(3))


@pytest.mark.parametrize("dtype", [name for name in NUMPY_DTYPES if name not in ("string", "complex64", "complex128")])
def test_outputs_become_lists_of_one_size(dtype: str) -> None:
    array = GRID.astype(NUMPY_DTYPES[dtype])
    made = arrow_array(array, spec(2, 3, dtype=dtype))
    assert made.type == arrow_type(spec(2, 3, dtype=dtype)) == pa.list_(pa.list_(made.type.value_type.value_type, 3), 2)
    assert np.array_equal(np.array(made.to_pylist(), array.dtype), array)
    # And back.
    np.testing.assert_array_equal(input_array([("x", made)], spec(2, 3, dtype=dtype)), array)


def test_outputs_of_any_length_have_one_type() -> None:
    wanted = spec(None, 2)
    lengths = [arrow_array(np.ones((2, length, 2), "float32"), wanted) for length in (1, 3)]
    assert lengths[0].type == lengths[1].type == arrow_type(wanted) == pa.list_(pa.list_(pa.float32(), 2))
    assert [one.to_pylist() for one in lengths] == [[[[1, 1]] * length] * 2 for length in (1, 3)]


def test_text_becomes_text() -> None:
    made = arrow_array(np.array([["ä".encode()], ["b"]], object), spec(1, dtype="string"))
    assert made.type == pa.list_(pa.string(), 1)
    assert made.to_pylist() == [["ä"], ["b"]]
    with pytest.raises(InvalidTensor, match="'x': got bytes that aren't UTF-8"):
        arrow_array(np.array([b"\xff"], object), spec(dtype="string"))


@pytest.mark.parametrize("dtype", ["float32", "string", "bfloat16"])
def test_outputs_without_rows_have_their_type(dtype: str) -> None:
    wanted = spec(2, None, dtype=dtype)
    assert arrow_array(no_rows(wanted), wanted).type == arrow_type(wanted)


def test_complex_numbers_are_none_of_arrows() -> None:
    with pytest.raises(InvalidTensor, match="complex64, expected a type that Arrow has"):
        arrow_type(spec(dtype="complex64"))
