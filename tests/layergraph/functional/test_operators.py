"""Python's operators on symbolic tensors: the same numbers as for arrays, with the tensor on either side."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from layergraph import Input, Model

NUMBERS = np.array([[1.5, -2.0, 3.0], [-0.5, 4.0, 2.5]], "float32")
OTHERS = np.array([[2.0, 3.0, -1.5], [1.25, -2.0, 0.5]], "float32")
TRUTHS = np.array([[True, True, False, False]])
OTHER_TRUTHS = np.array([[True, False, True, False]])

ON_NUMBERS = [
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod),
    *(operator.lt, operator.le, operator.gt, operator.ge),
]
ON_TRUTHS = [operator.and_, operator.or_, operator.xor]

Operator = Callable[[Any, Any], Any]


def computed(made: Callable[[Any], Any], array: np.ndarray, dtype: str) -> np.ndarray:
    x = Input(array.shape[1:], dtype=dtype, name="x")
    return Model(x, made(x)).predict(array)


@pytest.mark.parametrize("operate", ON_NUMBERS, ids=lambda each: each.__name__)
def test_numbers_on_either_side(operate: Operator) -> None:
    # A separate row for the array: the batch size is unknown in a graph.
    row = OTHERS[0]
    np.testing.assert_allclose(computed(lambda x: operate(x, row), NUMBERS, "float32"), operate(NUMBERS, row), 1e-6)
    np.testing.assert_allclose(computed(lambda x: operate(row, x), NUMBERS, "float32"), operate(row, NUMBERS), 1e-6)
    np.testing.assert_allclose(computed(lambda x: operate(2.0, x), NUMBERS, "float32"), operate(2.0, NUMBERS), 1e-6)
    equal = computed(lambda x: operate(x, x), NUMBERS, "float32")
    np.testing.assert_allclose(equal, operate(NUMBERS, NUMBERS), 1e-6)


def test_powers_on_either_side() -> None:
    x = np.abs(NUMBERS)
    np.testing.assert_allclose(computed(lambda t: t**1.5, x, "float32"), x**1.5, 1e-5)
    np.testing.assert_allclose(computed(lambda t: 1.5**t, x, "float32"), 1.5**x, 1e-5)


@pytest.mark.parametrize("operate", ON_TRUTHS, ids=lambda each: each.__name__)
def test_truths_on_either_side(operate: Operator) -> None:
    row = OTHER_TRUTHS[0]
    expected = operate(TRUTHS, OTHER_TRUTHS)
    np.testing.assert_array_equal(computed(lambda x: operate(x, row), TRUTHS, "bool"), expected)
    np.testing.assert_array_equal(computed(lambda x: operate(row, x), TRUTHS, "bool"), expected)


def test_products_of_matrices_on_either_side() -> None:
    x = np.arange(12, dtype="float32").reshape(2, 2, 3)
    matrix = np.array([[1, 2], [3, 4], [5, 7]], "float32")
    np.testing.assert_allclose(computed(lambda t: t @ matrix, x, "float32"), x @ matrix)
    np.testing.assert_allclose(computed(lambda t: matrix @ t, x, "float32"), matrix @ x)


def test_operators_of_one_tensor() -> None:
    np.testing.assert_array_equal(computed(operator.neg, NUMBERS, "float32"), -NUMBERS)
    np.testing.assert_array_equal(computed(abs, NUMBERS, "float32"), np.abs(NUMBERS))
    np.testing.assert_array_equal(computed(operator.invert, TRUTHS, "bool"), ~TRUTHS)
    np.testing.assert_array_equal(computed(lambda x: x[:, 1:], NUMBERS, "float32"), NUMBERS[:, 1:])


def test_equality_tells_tensors_apart() -> None:
    one, other = Input((2,)), Input((2,))
    assert one == one
    assert one != other
