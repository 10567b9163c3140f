"""Files of results in each kind, and fields of CSV: what is written and read, without a job."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
from layerserve import InvalidArgument, InvalidTensor

pa = pytest.importorskip("pyarrow")
from layerserve.scoring.files import writers  # noqa: E402
from layerserve.scoring.files.rows import _Number  # noqa: E402
from pyarrow import parquet  # noqa: E402


def written(kind: str, table: Any) -> io.BytesIO:
    file = io.BytesIO()
    with writers.writer(kind, file, table.schema) as made:
        for batch in table.to_batches():
            made.write(batch)
    file.seek(0)
    return file


def test_csv_has_a_column_for_each_element() -> None:
    pairs = pa.FixedSizeListArray.from_arrays(pa.array([1, 2, 3, 4, 5, 6, 7, 8]), 2)
    halves = pa.array(np.array([0.5, 1.5], np.float16))
    table = pa.table({"a": pa.FixedSizeListArray.from_arrays(pairs, 2), "h": halves})
    assert written("csv", table).read().decode().splitlines() == [
        '"a_0_0","a_0_1","a_1_0","a_1_1","h"',
        "1,2,3,4,0.5",
        "5,6,7,8,1.5",
    ]


@pytest.mark.parametrize("limits", [{"_GROUP_ROWS": 4}, {"_GROUP_BYTES": 4 * 8}])
def test_row_groups_are_as_large_as_rows_that_are_held(monkeypatch: pytest.MonkeyPatch, limits: dict[str, int]) -> None:
    for name, value in limits.items():
        monkeypatch.setattr(writers, name, value)
    table = pa.Table.from_batches([pa.record_batch({"a": pa.array([at, at])}) for at in range(5)])
    made = parquet.ParquetFile(written("parquet", table)).metadata
    assert [made.row_group(at).num_rows for at in range(made.num_row_groups)] == [4, 4, 2]


def test_npz_has_arrays_of_the_columns() -> None:
    lists = pa.FixedSizeListArray.from_arrays(pa.FixedSizeListArray.from_arrays(pa.array(range(8)), 2), 2)
    table = pa.table({"a": lists, "b": pa.array([b"x", b"yz"]), "t": ["ä", ""]})
    found = np.load(written("npz", table))
    assert found["a"].tolist() == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]
    assert (found["b"].tolist(), found["t"].tolist()) == ([b"x", b"yz"], ["ä", ""])


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (pa.array([1, None]), "has missing values"),
        (pa.array([[1], [2]]), "has type list"),
        (pa.array([1, 2], pa.time32("s")), "has type time32"),
        (pa.nulls(0), "has type null"),
        (pa.array([b"0" * 16], pa.uuid()), "has type extension"),
        (pa.array(["ab\0"]), "has values that end with a null character"),
        (pa.array([b"a\0b", b"a\0"]), "has values that end with a null character"),
    ],
)
def test_what_npz_can_not_hold_is_named(column: Any, text: str) -> None:
    with pytest.raises(InvalidArgument, match=f"OUT: column 'a' {text}.* write Parquet"):
        written("npz", pa.table({"a": column}))


@pytest.mark.parametrize(
    ("dtype", "fields", "expected"),
    [
        ("uint64", [b"18446744073709551615", b" 0 "], [2**64 - 1, 0]),
        ("int64", [b"9007199254740993", b"NA"], [2**53 + 1, None]),
        ("int32", [b"3.0", b"4"], [3, 4]),
        ("int64", [b"9007199254740993", b"3.0", b"-1e2", b"NA"], [2**53 + 1, 3, -100, None]),
        ("float32", [b"1e3", b"null", b"-inf"], [1000.0, None, -math.inf]),
        ("bool", [b"true", b"0"], [True, False]),
    ],
)
def test_fields_are_numbers_of_the_inputs_kind(dtype: str, fields: list[bytes], expected: list[Any]) -> None:
    found = _Number("a", dtype)(pa.array(fields)).to_pylist()
    assert found == expected
    assert [type(one) for one in found] == [type(one) for one in expected]


def test_a_field_that_is_no_number_is_shown() -> None:
    with pytest.raises(InvalidTensor, match="batch, column 'a': got 'x', expected a number that fits bool"):
        _Number("a", "bool")(pa.array([b"x"]))
