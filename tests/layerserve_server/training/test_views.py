"""Views of data: splits have no row in common, and are the same in every run."""

from __future__ import annotations

import numpy as np
import pytest
from layerserve.training.options.contract import View
from layerserve_server.errors import InvalidRequestError
from layerserve_server.training.views import check, rows_of

THREE = {"train": 0.7, "validation": 0.2, "test": 0.1}


@pytest.mark.parametrize("rows", [10, 11, 17, 1000, 99_999])
@pytest.mark.parametrize("splits", [THREE, {"a": 1.0}, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}, {"a": 0.5, "b": 0.25}])
@pytest.mark.parametrize("seed", [None, 0, 2**40])
def test_splits_have_each_row_at_most_once(rows, splits, seed):
    view = View(splits, "a", split_seed=seed)
    parts = [rows_of(view, rows, name) for name in splits]
    for part, share in zip(parts, splits.values(), strict=True):
        assert abs(len(part) - share * rows) <= 1
    together = np.concatenate(parts)
    assert len(np.unique(together)) == len(together) == round(sum(splits.values()) * rows - 0.499)
    assert together.min() >= 0
    assert together.max() < rows


def test_the_order_is_that_of_the_seed_for_ever():
    """Another release of NumPy or of this package mustn't move a row from one split to another."""
    order = rows_of(View(split_seed=7), 10, None)
    assert order.tolist() == FROZEN
    assert rows_of(View(THREE, "train", split_seed=7), 10, "validation").tolist() == FROZEN[7:9]
    assert rows_of(View(split_seed=8), 10, None).tolist() != FROZEN
    assert rows_of(View(split_seed=7 + 2**32), 10, None).tolist() != FROZEN


FROZEN = [0, 1, 5, 7, 6, 9, 4, 3, 2, 8]


def test_without_a_seed_splits_follow_the_order_of_the_data():
    assert rows_of(View(THREE, "train"), 10, "validation").tolist() == [7, 8]
    assert rows_of(View(), 10, None) is None


@pytest.mark.parametrize(
    ("view", "text"),
    [
        (View(THREE, "tests"), "unknown split 'tests'; did you mean 'test'"),
        (View(THREE, "train", "valid"), "unknown split 'valid'"),
        (View(THREE), "got no split, expected one of train, validation, test"),
        (View(None, "train"), "got split 'train' without splits"),
        (View(None, None, "test"), "got validation 'test' without splits"),
        (View({"a": 0.05}, "a"), "split 'a' has no rows: got 0.05 of 10 rows"),
        (View({"a": 0.5, "b": 0.01}, "a", "b"), "split 'b' has no rows"),
        (View(THREE, "test", "test"), "got split 'test' for training and for validation"),
    ],
    ids=range(8),
)
def test_what_means_nothing_is_named(view, text):
    with pytest.raises(InvalidRequestError) as caught:
        check(view, 10)
    assert text in str(caught.value)


def test_what_names_its_splits_is_right():
    check(View(), 10)
    check(View(split_seed=3), 10)
    check(View(THREE, "train", "test", 5), 10)
