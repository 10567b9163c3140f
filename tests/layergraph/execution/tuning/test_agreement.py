"""How far an engine's outputs are from eager torch's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from layergraph.execution.tuning.agreement import difference

MANY = 200_000


def _one(value: float, place: int, dtype: str = "float32") -> np.ndarray:
    array = np.ones(MANY, dtype)
    array[place] = value
    return array


@pytest.mark.parametrize("place", [0, 65_535, 65_536, MANY - 1])
def test_the_largest_difference_is_found_wherever_it_is(place: int) -> None:
    assert difference([_one(1.5, place)], [_one(1.0, place)]) == 0.5
    assert difference([_one(150.0, place)], [_one(100.0, place)]) == 0.5


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_must_be_the_same(value: float) -> None:
    ones, broken = _one(1.0, MANY - 1), _one(value, MANY - 1)
    assert difference([ones, broken], [ones, ones]) == math.inf
    assert difference([ones], [broken]) == math.inf
    assert difference([broken], [broken]) == 0.0


def test_shapes_and_types_must_be_the_same() -> None:
    ones = np.ones((2, 3), "float32")
    assert difference([ones], [ones.T]) == math.inf
    assert difference([ones], [ones.astype("float64")]) == math.inf
    assert difference([ones.astype("int32")], [ones.astype("int32")]) == 0.0
    assert difference([ones.astype("int32") + 1], [ones.astype("int32")]) == math.inf
    assert difference([ones[:0]], [ones[:0]]) == 0.0
