"""Calls that fail on shapes: which layer, and what is wrong, in words that aren't torch's."""

from __future__ import annotations

import re

import layergraph
import layergraph.functional.nest
import numpy as np
import pytest
from layergraph import layers, ops
from layergraph.errors import ConfigError, DataError, GraphError, LayerGraphError
from layergraph.layers.table import LAYERS
from layergraph.ops import operations

#: Words of torch's and Python's own errors.
TORCH = re.compile(
    r"torch|\baten|numel|mat1|Dimension out of range|size of tensor|enforce fail|alloc_cpu|dispatch|argument '|_tensor|"
    r"positional argument|has no attribute"
)
WITH_AXES = {
    (name, option): known
    for table in (LAYERS, operations())
    for name, known in table.items()
    for option in ("axis", "axis1", "axis2")
    if option in known._options
}


def two():
    return layergraph.Input((4, 3)), layergraph.Input((4, 3))


@pytest.mark.parametrize("axis", [7, -9, [1, 7]], ids=str)
@pytest.mark.parametrize(("name", "option"), WITH_AXES)
def test_an_axis_that_does_not_exist(name, option, axis):
    """On torch's `meta` device Softmax, Sort, Sum and others accept any axis; expand_dims took it modulo the rank."""
    try:
        layer = WITH_AXES[name, option](**{option: axis})
    except (LayerGraphError, TypeError):
        return  # refused already, or more options are needed
    for given in (two()[:1], two(), (list(two()),)):
        with pytest.raises((LayerGraphError, TypeError)) as caught:
            layer(*given)
        if caught.type is TypeError:
            assert len(layergraph.functional.nest.flatten(list(given))) > 1  # `build` takes one shape
            continue
        assert not TORCH.search(str(caught.value)), caught.value


@pytest.mark.parametrize(
    "make",
    [
        lambda x: layers.Softmax(axis=-2)(x),
        lambda x: ops.expand_dims(x, -4),
        lambda x: ops.expand_dims(x, 3),
        lambda x: ops.stack([x, x], 3),
        lambda x: ops.one_hot(ops.cast(x, "int32"), 3, axis=3),
        lambda x: ops.sum(x, -3),
    ],
)
def test_the_outermost_axes_exist(make):
    assert make(layergraph.Input((4, 3))) is not None


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: layers.Add()([layergraph.Input((2,)), layergraph.Input((3,))]), "lengths of axes differ"),
        (lambda: layers.UpSampling2D(2**31)(layergraph.Input((4, 4, 2))), "too large"),
        (lambda: ops.matmul(layergraph.Input((2, 3)), layergraph.Input((4, 5))), "lengths of axes"),
        (lambda: ops.einsum("abc,cd->abd", layergraph.Input((2, 3)), layergraph.Input((4, 5))), ""),
    ],
)
def test_what_is_wrong_with_shapes(make, text):
    with pytest.raises((GraphError, ConfigError)) as caught:
        make()
    assert text in str(caught.value)
    assert not TORCH.search(str(caught.value)), caught.value


def test_lengths_that_show_only_in_a_run():
    one, other = layergraph.Input((None, 2), name="one"), layergraph.Input((None, 2), name="other")
    plan = layergraph.Model([one, other], layers.Add()([one, other])).plan()
    with pytest.raises(DataError, match=r"inputs of shapes .* don't fit the model: lengths of axes differ"):
        plan.run({"one": np.zeros((1, 2, 2), "float32"), "other": np.zeros((1, 3, 2), "float32")})
