"""DataFrames of pandas as batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from layerserve import InvalidTensor, Scorer, TensorSpec
from layerserve.scoring.columns import input_array
from layerserve.testing import FakeServer

pandas = pytest.importorskip("pandas")

FLOATS = TensorSpec("x", (None,), "float32")
TEXT = TensorSpec("x", (None,), "string")


def test_a_frame_gets_the_outputs_beside_the_kept_columns(server: FakeServer) -> None:
    rows = np.arange(6.0).reshape(3, 2)
    frame = pandas.DataFrame({"id": ["a", "b", "c"], "x": list(np.ones((3, 3)))}, index=[7, 8, 9])
    scored = Scorer(server.address, "double", columns=["id"])(frame)
    assert list(scored) == ["id", "y"]
    assert list(scored.index) == [7, 8, 9]
    np.testing.assert_array_equal(np.stack(scored["y"]), 2 * np.ones((3, 3)))
    # Columns without names are numbered.
    scorer = Scorer(server.address, "double", input_columns={"x": ["0", "1", "0"]})
    np.testing.assert_array_equal(np.stack(scorer(pandas.DataFrame(rows))["y"]), 2 * rows[:, [0, 1, 0]])


#: Columns that fit: the values, their dtype, the input, and the array.
FITTING: dict[str, tuple[Any, Any, TensorSpec, list[Any]]] = {
    "floats with NaN": ([1.5, None], "float64", FLOATS, [1.5, np.nan]),
    "numbers that may lack": ([1, 2], "Int64", FLOATS, [1, 2]),
    "bools that may lack": ([True, False], "boolean", FLOATS, [1, 0]),
    "Arrow's numbers": ([1.5, 2.5], "float64[pyarrow]", FLOATS, [1.5, 2.5]),
    "objects": (["a", "b"], object, TEXT, ["a", "b"]),
    "text": (["a", "b"], "string", TEXT, ["a", "b"]),
    "categories": (["a", "b"], "category", TEXT, ["a", "b"]),
    "categories of numbers": ([5, 7], "category", FLOATS, [5, 7]),
}


@pytest.mark.parametrize(("values", "dtype", "spec", "expected"), FITTING.values(), ids=FITTING)
def test_columns_become_arrays(values: list[Any], dtype: Any, spec: TensorSpec, expected: list[Any]) -> None:
    found = input_array([("c", pandas.Series(values, dtype=dtype))], spec)
    np.testing.assert_array_equal(found, np.array(expected, object if spec is TEXT else "float32"))


@pytest.mark.parametrize(
    ("values", "dtype", "spec"),
    [
        ([1, None], "Int64", FLOATS),
        ([1.5, None], "float64[pyarrow]", FLOATS),
        (["a", None], object, TEXT),
        (["a", None], "string", TEXT),
        (["a", None], "category", TEXT),
    ],
)
def test_missing_values_are_named(values: list[Any], dtype: Any, spec: TensorSpec) -> None:
    with pytest.raises(InvalidTensor, match="batch, column 'c', row 2: got no value"):
        input_array([("c", pandas.Series(values, dtype=dtype))], spec)
