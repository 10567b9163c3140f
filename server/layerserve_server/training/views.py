"""Views of a run's data: the rows of a split, by shares of an order that depends on a seed only."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import numpy.typing as npt
from layergraph.errors import unknown_name
from layerserve.training.options.contract import View

from layerserve_server.errors import InvalidRequestError

#: Indices of rows.
Rows = npt.NDArray[np.int64]


def bounds(view: View, rows: int, split: str) -> tuple[int, int]:
    """Returns where a split begins and ends among `rows` rows in the view's order.

    Each split begins where the one before it ends, so that no two have a row in common. Raises InvalidRequestError if
    there is no such split, or if it has no rows.
    """
    splits = view.splits or {}
    if split not in splits:
        raise InvalidRequestError(f"view: {unknown_name('split', split, splits)}")
    at = list(splits).index(split)
    # Rounded to a thousandth of a row first: 0.7 + 0.2 + 0.1 of 10 rows is a bit less than 10.
    ends = [min(rows, int(round(share * rows, 3))) for share in accumulate(splits.values(), initial=0.0)]
    if ends[at] == ends[at + 1]:
        raise InvalidRequestError(f"view: split '{split}' has no rows: got {splits[split]:g} of {rows} rows")
    return ends[at], ends[at + 1]


def rows_of(view: View, rows: int, split: str | None) -> Rows | None:
    """Returns the rows of a split, or of all splits, in the view's order; None for all rows in the order of the data.

    Raises as `bounds` does.
    """
    if split is None and view.split_seed is None:
        return None
    if view.split_seed is None:
        order = np.arange(rows, dtype=np.int64)
    else:
        # NumPy guarantees that RandomState gives the same order in all of its releases, but not Generator.
        random = np.random.RandomState([view.split_seed % 2**32, view.split_seed >> 32])
        order = random.permutation(rows).astype(np.int64, copy=False)
    if split is None:
        return order
    start, stop = bounds(view, rows, split)
    return order[start:stop]


def check(view: View, rows: int) -> None:
    """Raises InvalidRequestError if a view doesn't name its splits, or if one of those it uses has no rows."""
    if view.splits is None:
        for name, given in (("split", view.split), ("validation", view.validate_on)):
            if given:
                raise InvalidRequestError(f"view: got {name} '{given}' without splits, expected their shares by name")
        return
    if not view.split:
        raise InvalidRequestError(f"view: got no split, expected one of {', '.join(view.splits)}")
    bounds(view, rows, view.split)
    if view.validate_on:
        bounds(view, rows, view.validate_on)
        if view.validate_on == view.split:
            raise InvalidRequestError(f"view: got split '{view.split}' for training and for validation, expected two")
