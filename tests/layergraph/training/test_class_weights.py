"""Weights of rows by the class of their label, against stock Keras, for labels of any form."""

import numpy as np
import pytest
from keras.src.trainers.data_adapters.data_adapter_utils import class_weight_to_sample_weights
from layergraph.training.data import class_weights

RNG = np.random.default_rng(12)
WEIGHTS = {0: 0.5, 1: 2.0, 2: 3.0, 4: 7.0, -1: 11.0}


def one_hot(classes):
    return np.eye(classes)[RNG.integers(0, classes, 9)]


FORMS = {
    **{f"one-hot, {classes} classes": one_hot(classes) for classes in (2, 3, 5)},
    **{f"probabilities, {classes} classes": RNG.dirichlet([1.0] * classes, 9) for classes in (2, 3)},
    **{f"several of {classes} at once": RNG.integers(0, 2, (9, classes)) for classes in (2, 3)},
    "numbers": RNG.integers(0, 5, 9),
    "a column": RNG.integers(0, 5, (9, 1)),
    "numbers of two classes": RNG.integers(0, 2, 9),
    "a column of two classes": RNG.integers(0, 2, (9, 1)),
    "numbers that are no classes": np.array([-1, 9, 3]),
    "numbers between classes": np.array([0.4, 0.6, 1.5, 2.49, -0.6]),
    "one row": np.array([[0.0, 1.0]]),
    "yes and no": RNG.integers(0, 2, 9).astype(bool),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint8", "int64", "bool", None])
@pytest.mark.parametrize("form", FORMS)
def test_a_row_gets_the_weight_of_its_class(form, dtype):
    labels = FORMS[form].astype(dtype)
    ours = class_weights(labels, WEIGHTS)
    np.testing.assert_array_equal(ours, class_weight_to_sample_weights(labels, WEIGHTS))
    assert ours.dtype == np.float32


@pytest.mark.parametrize("classes", [2, 3])
def test_a_step_gets_the_weight_of_its_class(classes):
    """Keras can't: it gives a row one weight."""
    labels = RNG.integers(0, classes, (4, 6))
    expected = np.vectorize(WEIGHTS.get)(labels)
    for given in (np.eye(classes)[labels], labels[..., None]):
        np.testing.assert_array_equal(class_weights(given, WEIGHTS), expected)
