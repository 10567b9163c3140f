"""Random inputs on which engines are tried."""

from __future__ import annotations

from typing import Any

import layergraph
import pytest
from layergraph import layers
from layergraph.execution.padding_check import UnpaddableError, check_padding
from layergraph.execution.samples import Sampler
from layergraph.functional.tensor import TensorSpec
from layergraph.ops.table import OPERATIONS


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


def _cropping() -> Any:
    x = layergraph.Input((None, 4))
    return layergraph.Model(x, layers.Conv1D(2, 1)(layers.Cropping1D(2000, crop_rule="keras2")(x)))


def test_a_model_that_crops_thousands_of_steps_gets_long_sequences() -> None:
    plan = _cropping().plan()
    (rows,) = Sampler(plan.input_specs, plan.run_eagerly).rows(2)
    assert rows.shape == (2, 12_000, 4)


def test_padding_of_a_model_that_needs_long_sequences_is_refused_as_such() -> None:
    with pytest.raises(UnpaddableError, match=r"timesteps are refused: .*expected at least 1"):
        check_padding(_cropping().plan())


def test_rows_of_a_slice_after_thousands_of_steps_are_independent() -> None:
    x = layergraph.Input((None, 4))
    model = layergraph.Model(x, OPERATIONS["tf>Slice"](name="slice")(x, [0, 5000, 0], [-1, 10, -1]))
    assert model.plan().batched
