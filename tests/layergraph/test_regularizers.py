"""Regularizers and constraints against stock Keras."""

import keras
import numpy as np
import pytest
import torch
from layergraph.constraints import CONSTRAINTS, constraint
from layergraph.errors import ConfigError
from layergraph.regularizers import REGULARIZERS, regularizer

WEIGHTS = np.random.default_rng(0).standard_normal((4, 6)).astype("float32") * 2
REGULARIZER_CASES = [
    ("L1", {}),
    ("L1", {"l1": 0.3}),
    ("L2", {"l2": 0.2}),
    ("L1L2", {}),
    ("L1L2", {"l1": 0.1, "l2": 0.4}),
    ("OrthogonalRegularizer", {"factor": 0.2}),
    ("OrthogonalRegularizer", {"mode": "columns"}),
]
CONSTRAINT_CASES = [
    ("NonNeg", {}),
    ("MaxNorm", {}),
    ("MaxNorm", {"max_value": 1, "axis": [0, 1]}),
    ("UnitNorm", {}),
    ("UnitNorm", {"axis": 1}),
    ("MinMaxNorm", {"min_value": 1.0, "max_value": 2.0, "rate": 0.4, "axis": 1}),
]


@pytest.mark.parametrize(("name", "options"), REGULARIZER_CASES, ids=str)
def test_penalties_and_their_gradients(name, options):
    ours, theirs = (torch.tensor(WEIGHTS, requires_grad=True) for _ in range(2))
    penalty = REGULARIZERS[name](**options)(ours)
    expected = getattr(keras.regularizers, name)(**options)(theirs)
    assert float(penalty.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert penalty.requires_grad == expected.requires_grad
    if expected.requires_grad:
        penalty.backward()
        expected.backward()
        np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.0), (torch.bfloat16, 0.0), (torch.float64, 1e-7)])
@pytest.mark.parametrize("name", ["L1", "L2", "L1L2"])
def test_penalties_of_other_types_round_as_keras_does(name, dtype, tolerance):
    options = {"l1": 0.013, "l2": 0.017} if name == "L1L2" else {}
    x = torch.tensor(WEIGHTS, dtype=dtype)
    ours, theirs = REGULARIZERS[name](**options)(x), getattr(keras.regularizers, name)(**options)(x)
    assert ours.dtype == theirs.dtype
    assert float(ours) == pytest.approx(float(theirs), rel=tolerance, abs=0)


@pytest.mark.parametrize(("name", "options"), CONSTRAINT_CASES, ids=str)
def test_projections(name, options):
    expected = getattr(keras.constraints, name)(**options)(torch.tensor(WEIGHTS))
    np.testing.assert_allclose(CONSTRAINTS[name](**options)(torch.tensor(WEIGHTS)), expected, rtol=1e-6, atol=1e-7)


def test_every_regularizer_and_constraint_has_a_case():
    assert {name for name, _ in REGULARIZER_CASES} == set(REGULARIZERS)
    # Keras 3 lacks it: its case has the numbers of tf.keras 2.15.
    assert {*(name for name, _ in CONSTRAINT_CASES), "RadialConstraint"} == set(CONSTRAINTS)


@pytest.mark.parametrize(
    ("length", "rings"), [(2, [0, 0]), (3, [4, 0, 4]), (4, [15, 5, 5, 15]), (5, [18, 12, 6, 12, 18])]
)
def test_radial_constraint_gives_the_numbers_of_keras_2(length, rings):
    kernel = torch.arange(float(length**2)).reshape(length, length, 1, 1)
    projected = CONSTRAINTS["RadialConstraint"]()(kernel)[..., 0, 0]
    middle = length // 2
    assert projected[middle].tolist() == rings
    assert projected[:, middle].tolist() == rings
    assert projected[0].tolist() == [rings[0]] * length


def test_radial_constraint_takes_square_kernels():
    with pytest.raises(ConfigError, match=r"RadialConstraint: got shape \(4, 6\), expected"):
        CONSTRAINTS["RadialConstraint"]()(torch.zeros(4, 6))


def test_orthogonal_regularizer_of_a_zero_row_has_a_finite_gradient():
    weights = torch.zeros(2, 3, requires_grad=True)
    REGULARIZERS["OrthogonalRegularizer"]()(weights).backward()
    assert torch.isfinite(weights.grad).all()


@pytest.mark.parametrize(
    ("validate", "table", "theirs"),
    [(regularizer, REGULARIZERS, keras.regularizers), (constraint, CONSTRAINTS, keras.constraints)],
)
def test_configs_are_read_by_both_and_none_is_none(validate, table, theirs):
    assert validate(None) is None
    for name in table.keys() - {"RadialConstraint"}:
        keras_object = getattr(theirs, name)()
        ours = validate(theirs.serialize(keras_object))
        assert type(ours).__name__ == name
        assert getattr(theirs, name).from_config(ours.get_config()).get_config() == pytest.approx(
            keras_object.get_config()
        )


@pytest.mark.parametrize(
    ("validate", "given", "message"),
    [
        (regularizer, "l3", "unknown regularizer 'l3'"),
        (regularizer, {"class_name": "L2", "config": {"l2": -1}}, "expected a number of at least 0"),
        (constraint, "maxnorm", "did you mean"),
        (constraint, {"class_name": "MaxNorm", "config": {"axis": "0"}}, "expected an integer"),
    ],
)
def test_what_is_wrong_is_named(validate, given, message):
    with pytest.raises(ConfigError, match=message):
        validate(given)
