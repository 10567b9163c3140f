"""Random inputs on which engines are tried."""

from __future__ import annotations

from typing import Any

import pytest
from layergraph.execution.samples import Sampler
from layergraph.functional.tensor import TensorSpec


@pytest.mark.parametrize(
    ("shape", "tried"),
    [((None, 4), [(2, 4)]), ((None, None, 4), [(2, 64, 4), (2, 48, 4)])],
    ids=["of fixed lengths", "with an open axis"],
)
def test_a_second_length_is_only_tried_where_the_model_leaves_an_axis_open(
    shape: tuple[int | None, ...], tried: list[tuple[int, ...]]
) -> None:
    shapes: list[Any] = []
    sampler = Sampler([TensorSpec("x", shape, "float32")], lambda arrays: shapes.append(arrays[0].shape))
    assert shapes == tried
    assert sampler.open_axes == (len(tried) > 1)
