"""The largest values of a row: as bars if they are probabilities, with the names of classes."""

from __future__ import annotations

import numpy as np
import pytest
from layerserve_server.extensions.page.largest import Largest, largest

NAMES = (b"cat", b"", b"d\xff<b>")


def test_probabilities_are_bars_largest_first() -> None:
    rows = np.array([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]], np.float32)
    assert largest(rows, 1, NAMES) == [
        Largest("d\N{REPLACEMENT CHARACTER}<b>", "0.5", 50.0),
        Largest("1", "0.3", 30.0),
        Largest("cat", "0.2", 20.0),
    ]
    # A row that isn't there is the last one.
    assert largest(rows, 9, ())[0] == Largest("2", "0.5", 50.0)


@pytest.mark.parametrize(
    ("row", "named", "percents"),
    [
        ([0.9, 0.8, 0.1], True, [90.0, 80.0, 10.0]),  # of several labels
        ([0.9, 0.8, 0.1], False, []),
        ([3.0, -1.0, 0.5], False, []),
        ([3.0, -1.0, 0.5], True, [None] * 3),
        ([0.5, float("nan"), 0.5], False, []),
        ([3.0, 1.0, 0.5, 7.0, float("nan"), 2.0], False, [None] * 5),
        ([1, 0, 0], False, []),
        ([0.5], False, []),
    ],
)
def test_other_values_are_no_bars(row: list[float], named: bool, percents: list[float | None]) -> None:
    array = np.array([row], np.float32 if isinstance(row[0], float) else np.int64)
    assert [one.percent for one in largest(array, 0, NAMES if named else ())] == pytest.approx(percents)


def test_not_a_number_is_never_the_largest() -> None:
    row = np.array([[3.0, 1.0, float("nan"), 7.0, 5.0, 2.0]])
    assert [one.name for one in largest(row, 0, ())] == ["3", "4", "0", "5", "1"]


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros((0, 3)), np.zeros((2, 3, 4)), np.zeros((1, 100_001))])
def test_other_shapes_have_no_largest_values(array: np.ndarray) -> None:
    assert largest(array, 0, ()) == []
