"""The unusual inputs on which engines are tried, in addition to random ones."""

from __future__ import annotations

import numpy as np
from layergraph.execution.samples import Sampler
from layergraph.execution.tuning.edge_cases import unusual_rows
from layergraph.functional.tensor import TensorSpec


def rows(*specs: tuple[tuple[int | None, ...], str]) -> list[list[np.ndarray]]:
    inputs = [TensorSpec(f"x{i}", shape, dtype) for i, (shape, dtype) in enumerate(specs)]
    return unusual_rows(Sampler(inputs, lambda arrays: None))


def test_each_case_has_the_inputs_types() -> None:
    kinds = ["float32", "float64", "int32", "uint8", "bool"]
    cases = rows(*(((None, 40), kind) for kind in kinds))
    assert [[array.dtype.name for array in case] for case in cases] == [kinds] * 4
    assert [[array.shape for array in case] for case in cases] == [[(n, 40)] * 5 for n in (1, 1, 3, 1)]


def test_rows_of_one_number_of_few_and_of_wide_ones() -> None:
    zeros, ones, few, wide = rows(((None, 200), "float32"), ((None, 200), "int64"), ((None, 200), "int8"))
    assert all((array == 0).all() for array in zeros)
    assert all((array == 1).all() for array in ones)
    numbers, ids, bytes_ = few
    assert set(np.unique(numbers)) >= {-1.0, 0.0, 1.0}
    np.testing.assert_array_equal(numbers, np.rint(numbers))
    assert set(np.unique(ids)) == set(np.unique(bytes_)) == {0, 1, 2}
    assert np.unique(wide[0]).size == 200
    assert np.abs(wide[1]).max() > 2**32
    assert (wide[2].min(), wide[2].max()) >= (-128, 100)


def test_only_integers_are_wide() -> None:
    assert len(rows(((None, 4), "float32"))) == 3
    assert len(rows(((None, 4), "bool"))) == 3
