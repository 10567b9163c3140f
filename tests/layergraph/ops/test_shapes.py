"""Reshaping: which shapes fit a tensor whose lengths aren't all known."""

from __future__ import annotations

import pytest
import torch
from layergraph.ops.shapes import _fits


@pytest.mark.parametrize(
    ("lengths", "fits"),
    [([6], True), ([2, 3], True), ([5], False), ([-1], True), ([3, -1], True), ([4, -1], False), ([0, -1], False)],
)
def test_a_shape_fits_what_has_as_many_elements(lengths: list[int], fits: bool) -> None:
    assert _fits(torch.zeros(2, 3), lengths) is fits
