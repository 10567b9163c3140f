"""Losses against stock Keras: values, gradients, weights, masks, reductions."""

import keras
import numpy as np
import pytest
import torch
from keras.src.backend.common.masking import set_keras_mask
from layergraph.errors import ConfigError
from layergraph.training.losses import LOSSES, loss, loss_for_shapes

RNG = np.random.default_rng(3)
REAL = RNG.standard_normal((5, 4)).astype("float32")
TARGET = RNG.standard_normal((5, 4)).astype("float32")
PROBABILITY = RNG.uniform(0, 1, (5, 4)).astype("float32")
YES_NO = RNG.integers(0, 2, (5, 4)).astype("float32")
ONE_HOT = np.eye(4, dtype="float32")[RNG.integers(0, 4, 5)]
CLASSES = RNG.integers(0, 4, 5)
STEPS = RNG.uniform(0.01, 1, (3, 6, 4)).astype("float32")
STEP_CLASSES = RNG.integers(0, 4, (3, 6))
EMBEDDING = REAL / np.linalg.norm(REAL, axis=1, keepdims=True)

CASES = [
    ("MeanSquaredError", {}, TARGET, REAL),
    ("MeanAbsoluteError", {}, TARGET, REAL),
    ("MeanAbsolutePercentageError", {}, TARGET, REAL),
    ("MeanSquaredLogarithmicError", {}, TARGET, REAL),
    ("CosineSimilarity", {}, TARGET, REAL),
    ("CosineSimilarity", {"axis": 0}, TARGET, REAL),
    ("Huber", {}, TARGET, 3 * REAL),
    ("Huber", {"delta": 0.4}, TARGET, REAL),
    ("LogCosh", {}, TARGET, REAL),
    ("Hinge", {}, YES_NO, REAL),
    ("Hinge", {}, TARGET, REAL),
    ("SquaredHinge", {}, YES_NO, REAL),
    ("CategoricalHinge", {}, ONE_HOT, REAL),
    ("KLDivergence", {}, PROBABILITY, PROBABILITY[::-1]),
    ("Poisson", {}, np.abs(TARGET), PROBABILITY),
    ("BinaryCrossentropy", {}, YES_NO, PROBABILITY),
    ("BinaryCrossentropy", {"from_logits": True, "label_smoothing": 0.2}, YES_NO, REAL),
    ("BinaryCrossentropy", {"axis": 0}, YES_NO, PROBABILITY),
    ("BinaryCrossentropy", {}, YES_NO, YES_NO),
    ("BinaryFocalCrossentropy", {}, YES_NO, PROBABILITY),
    ("BinaryFocalCrossentropy", {"apply_class_balancing": True, "from_logits": True, "gamma": 1.5}, YES_NO, REAL),
    ("CategoricalCrossentropy", {}, ONE_HOT, PROBABILITY),
    ("CategoricalCrossentropy", {"label_smoothing": 0.1}, ONE_HOT, PROBABILITY),
    ("CategoricalCrossentropy", {"from_logits": True}, ONE_HOT, REAL),
    ("CategoricalFocalCrossentropy", {}, ONE_HOT, PROBABILITY),
    ("CategoricalFocalCrossentropy", {"from_logits": True, "alpha": [0.1, 0.2, 0.3, 0.4]}, ONE_HOT, REAL),
    ("SparseCategoricalCrossentropy", {}, CLASSES, PROBABILITY),
    ("SparseCategoricalCrossentropy", {}, CLASSES[:, None], PROBABILITY),
    ("SparseCategoricalCrossentropy", {"from_logits": True}, CLASSES, REAL),
    ("SparseCategoricalCrossentropy", {"ignore_class": 2}, STEP_CLASSES, STEPS),
    ("SparseCategoricalCrossentropy", {}, STEP_CLASSES, STEPS),
    ("SparseCategoricalCrossentropy", {"axis": 1}, RNG.integers(0, 6, (3, 4)), STEPS),
    ("CategoricalGeneralizedCrossEntropy", {}, CLASSES, PROBABILITY),
    ("CategoricalGeneralizedCrossEntropy", {"q": 0.8}, CLASSES, PROBABILITY),
    # Keras broadcasts these to (5, 5) values.
    ("CategoricalGeneralizedCrossEntropy", {}, CLASSES[:, None], PROBABILITY),
    ("CTC", {}, np.array([[1, 2, 0], [3, 1, 1], [2, 0, 0]]), STEPS),
    ("Dice", {}, YES_NO, PROBABILITY),
    ("Dice", {"axis": 1}, YES_NO, PROBABILITY),
    ("Tversky", {"alpha": 0.3, "beta": 0.8}, YES_NO, PROBABILITY),
    ("Circle", {}, np.array([0, 1, 0, 1, 0]), EMBEDDING),
    ("Circle", {"gamma": 8, "margin": 0.2, "remove_diagonal": False}, np.array([0, 1, 0, 1, 0]), EMBEDDING),
]


def both(name, options, y, p, weight=None, mask=None):
    """Loss and gradient, ours and Keras's."""
    results = []
    for is_ours in (True, False):
        predictions = torch.tensor(np.array(p), requires_grad=True)
        labels = torch.tensor(np.array(y))
        weights = None if weight is None else torch.tensor(weight)
        if is_ours:
            tensor_mask = None if mask is None else torch.tensor(mask)
            value = LOSSES[name](**options)(labels, predictions, weights, tensor_mask)
        else:
            if mask is not None:
                set_keras_mask(predictions, torch.tensor(mask))
            value = getattr(keras.losses, name)(**options)(labels, predictions, weights)
        gradient = torch.autograd.grad(value.sum(), predictions)[0]
        results.append((value.detach().numpy(), gradient.numpy()))
    return results


def check(results):
    (ours, our_gradient), (theirs, their_gradient) = results
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(our_gradient, their_gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("name", "options", "y", "p"), CASES, ids=lambda v: v if isinstance(v, (str, dict)) else "")
def test_values_and_gradients_without_and_with_weights(name, options, y, p):
    check(both(name, options, y, p))
    rows = np.shape(LOSSES[name](**options, reduction=None)(torch.tensor(np.array(y)), torch.tensor(np.array(p))))
    if rows:  # Dice may be one number for the batch.
        check(both(name, options, y, p, weight=np.linspace(0.5, 2, int(np.prod(rows)), dtype="float32").reshape(rows)))


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"CTC", "Circle"}))
def test_sequences_of_vectors(name):
    """(rows, steps, values): the last axis is reduced first."""
    y = STEP_CLASSES if name in ("SparseCategoricalCrossentropy", "CategoricalGeneralizedCrossEntropy") else STEPS[::-1]
    for reduction in ("sum_over_batch_size", None):
        check(both(name, {"reduction": reduction}, y, STEPS))


def two_classes(array):
    """The same data with two classes: numbers below 2, or two on the last axis."""
    array = np.array(array)
    return array % 2 if array.dtype.kind == "i" else np.ascontiguousarray(array[..., :2])


@pytest.mark.parametrize(
    ("name", "options", "y", "p"),
    [case for case in CASES if case[0] not in ("CTC", "Circle") and case[1].get("axis", -1) == -1],
    ids=lambda v: v if isinstance(v, (str, dict)) else "",
)
def test_two_classes_are_as_good_as_more(name, options, y, p):
    options = {**options, "alpha": options["alpha"][:2]} if "Focal" in name and "alpha" in options else options
    check(both(name, options, two_classes(y), two_classes(p)))


def test_every_loss_has_a_case():
    assert {name for name, *_ in CASES} == set(LOSSES)
    theirs = {n for n in dir(keras.losses) if isinstance(getattr(keras.losses, n), type)} - {"Loss"}
    assert theirs == set(LOSSES)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean", "sum", "mean_with_sample_weight", "none", None])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_reductions_of_sequences(reduction, weighted, masked):
    if reduction == "mean_with_sample_weight" and masked and not weighted:
        pytest.skip("covered with weights")
    weight = RNG.uniform(0, 2, (3, 6)).astype("float32") if weighted else None
    mask = np.array([[True] * 6, [True] * 4 + [False] * 2, [False] * 6]) if masked else None
    options = {"reduction": reduction}
    check(both("SparseCategoricalCrossentropy", options, STEP_CLASSES, STEPS, weight, mask))


def test_a_mask_that_leaves_nothing_gives_zero():
    mask = np.zeros((3, 6), dtype=bool)
    check(both("SparseCategoricalCrossentropy", {}, STEP_CLASSES, STEPS, None, mask))


def test_ignored_classes_and_a_mask_count_together():
    mask = np.array([[True] * 6, [True] * 4 + [False] * 2, [True] * 6])
    check(both("SparseCategoricalCrossentropy", {"ignore_class": 1}, STEP_CLASSES, STEPS, None, mask))


def test_row_weights_reach_all_steps_of_a_row():
    """Keras 2 appends axes to the weights; Keras 3 expects (N, 1), which is equivalent."""
    loss_of = LOSSES["SparseCategoricalCrossentropy"]()
    labels, predictions = torch.tensor(STEP_CLASSES), torch.tensor(STEPS)
    weights = torch.tensor([1.0, 0.0, 3.0])
    by_row = loss_of(labels, predictions, weights)
    assert float(by_row) == pytest.approx(float(loss_of(labels, predictions, weights[:, None])))
    check(both("SparseCategoricalCrossentropy", {}, STEP_CLASSES, STEPS, np.array([[1.0], [0.0], [3.0]], "float32")))


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", "sum"])
@pytest.mark.parametrize("columns", [(), (1,)], ids=["(N,)", "(N, 1)"])
def test_weights_of_a_generalized_crossentropy_with_labels_in_a_column(reduction, columns):
    weight = np.linspace(0.5, 2, len(CLASSES), dtype="float32").reshape(-1, *columns)
    options = {"reduction": reduction}
    check(both("CategoricalGeneralizedCrossEntropy", options, CLASSES[:, None], PROBABILITY, weight))


@pytest.mark.parametrize("name", ["MeanSquaredError", "MeanAbsoluteError", "BinaryCrossentropy", "Huber", "LogCosh"])
@pytest.mark.parametrize(
    ("y_shape", "p_shape"), [((5,), (5, 1)), ((5, 1), (5,)), ((5, 4, 1), (5, 4)), ((5, 4), (5, 4, 1))]
)
def test_ranks_that_differ_by_one_do_not_broadcast(name, y_shape, p_shape):
    y = RNG.integers(0, 2, y_shape).astype("float32")
    check(both(name, {}, y, RNG.uniform(0.1, 0.9, p_shape).astype("float32")))


@pytest.mark.parametrize(
    "name", ["SparseCategoricalCrossentropy", "CategoricalCrossentropy", "CategoricalFocalCrossentropy"]
)
@pytest.mark.parametrize(
    ("shape", "scale"), [((6, 5), 1.0), ((6, 5), 60.0), ((6, 100), 12.0), ((4, 3, 5), 12.0)], ids=str
)
def test_predictions_of_a_softmax_have_the_gradients_that_others_have(name, shape, scale):
    """Directly after a softmax, the division by the sum is left out, but not the clipping."""
    generator = torch.Generator().manual_seed(3)
    logits = (torch.randn(shape, generator=generator) * scale).requires_grad_()
    labels = torch.randint(0, shape[-1], shape[:-1], generator=generator)
    if not name.startswith("Sparse"):
        labels = torch.nn.functional.one_hot(labels, shape[-1]).float()
    results = []
    for loss_of in (LOSSES[name](reduction=None), getattr(keras.losses, name)(reduction=None)):
        values = loss_of(labels, torch.softmax(logits, -1))
        results.append((values.detach().numpy(), torch.autograd.grad(values.sum(), logits)[0].numpy()))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_softmax_over_another_axis_is_no_reason():
    logits = torch.randn((4, 4), requires_grad=True)
    labels = torch.arange(4)
    results = [
        torch.autograd.grad(loss_of(labels, torch.softmax(logits, 0)), logits)[0].numpy()
        for loss_of in (LOSSES["SparseCategoricalCrossentropy"](), keras.losses.SparseCategoricalCrossentropy())
    ]
    np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)


def test_a_prediction_that_is_no_number_gives_a_loss_that_is_none():
    predictions = torch.tensor([[0.5, np.nan], [0.2, 0.3]], requires_grad=True)
    value = LOSSES["BinaryCrossentropy"]()(torch.ones(2, 2), predictions)
    assert torch.isnan(value)
    value.backward()
    finite = LOSSES["BinaryCrossentropy"](reduction=None)(torch.ones(2, 2), predictions.detach())
    assert float(finite[1]) == pytest.approx(-np.log([0.2, 0.3]).mean(), rel=1e-5)


def test_half_precision_predictions_are_compared_in_float32():
    value = LOSSES["MeanSquaredError"]()(torch.zeros(2, 3), torch.full((2, 3), 300.0, dtype=torch.float16))
    assert value.dtype == torch.float32
    assert float(value) == 90000.0


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_config_is_read_by_both(name):
    theirs = getattr(keras.losses, name)()
    ours = loss(keras.losses.serialize(theirs))
    assert type(ours).__name__ == name
    assert getattr(keras.losses, name).from_config(ours.get_config()).get_config() == theirs.get_config()


def test_keras_2_configs():
    config = {"reduction": "auto", "name": "b", "from_logits": True, "label_smoothing": 0, "axis": -1, "fn": "bce"}
    ours = loss({"class_name": "BinaryCrossentropy", "config": config})
    assert ours.reduction == "sum_over_batch_size"
    assert ours.from_logits


def test_functions_of_keras_by_name_and_of_python_by_value():
    serialised = keras.losses.serialize(keras.losses.mean_absolute_error)
    assert type(loss(serialised)).__name__ == "MeanAbsoluteError"
    own = loss(lambda y, p: (y - p).abs().mean(-1))
    assert float(own(torch.zeros(2), torch.ones(2, 1))) == 1.0
    with pytest.raises(ConfigError, match="can't be saved"):
        own.get_config()


@pytest.mark.parametrize(
    ("labels", "predictions", "name"),
    [
        ((None, 1), (None, 1), "BinaryCrossentropy"),
        ((None,), (None, 3), "SparseCategoricalCrossentropy"),
        ((None, 1), (None, 3), "SparseCategoricalCrossentropy"),
        ((None, 3), (None, 3), "CategoricalCrossentropy"),
        ((None,), (None, 2), "SparseCategoricalCrossentropy"),
        ((None, 1), (None, 2), "SparseCategoricalCrossentropy"),
        ((None, 2), (None, 2), "CategoricalCrossentropy"),
    ],
)
def test_crossentropy_by_shapes(labels, predictions, name):
    assert type(loss_for_shapes(labels, predictions)).__name__ == name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("categorical_crosentropy", "did you mean 'categorical_crossentropy'"),
        ({"class_name": "Huber", "config": {"dleta": 1}}, "did you mean 'delta'"),
        ({"class_name": "Huber", "config": {"delta": "wide"}}, "Huber: option 'delta' is 'wide', expected a number"),
        ({"class_name": "MeanSquaredError", "config": {"reduction": "avg"}}, "'sum_over_batch_size' or"),
        (3, "loss is 3"),
    ],
)
def test_what_is_wrong_is_named(given, message):
    with pytest.raises(ConfigError, match=message):
        loss(given)


#: Losses of which a value depends on several rows: the batch as a whole, other rows, or the axis of the rows.
MIXED = [
    ("Dice", {}, YES_NO, YES_NO),
    ("Dice", {"axis": [0, 1]}, YES_NO, YES_NO),
    ("Tversky", {}, YES_NO, YES_NO),
    ("Circle", {}, CLASSES, REAL),
    ("BinaryCrossentropy", {"axis": 0}, YES_NO, YES_NO),
    ("CosineSimilarity", {"axis": -2}, REAL, REAL),
    ("CategoricalGeneralizedCrossEntropy", {}, CLASSES[:, None], ONE_HOT),
]


def mixes(name, options, labels, predictions):
    made = loss({"class_name": name, "config": options})
    return made.mixes_rows(torch.tensor(labels), torch.tensor(predictions.copy()))


@pytest.mark.parametrize(("name", "options", "labels", "predictions"), [case for case in CASES if not mixes(*case)])
def test_a_rows_loss_is_keras_of_this_row_alone(name, options, labels, predictions):
    if name in ("Hinge", "SquaredHinge"):
        # Keras looks at all labels of the batch, whether they are 0 and 1.
        labels = np.sign(labels)
    weights = RNG.uniform(0.5, 2, len(labels)).astype("float32")
    oracle = getattr(keras.losses, name)(**options)
    # Keras multiplies these weights with a mask in place.
    given = np.repeat(weights[:, None], labels.shape[1], 1) if "ignore_class" in options else weights
    rows = range(len(labels))
    expected = [float(oracle(labels[i : i + 1], predictions[i : i + 1], sample_weight=given[i : i + 1])) for i in rows]
    for reduction in ("sum_over_batch_size", "sum"):
        ours = loss({"class_name": name, "config": {**options, "reduction": reduction}})
        got = ours.by_row(*map(torch.as_tensor, (labels, predictions.copy(), weights)))
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "options", "labels", "predictions"), MIXED)
def test_a_loss_of_several_rows_is_refused_by_name(name, options, labels, predictions):
    made = loss({"class_name": name, "config": options})
    with pytest.raises(ConfigError, match=f"loss '{name}' has no losses by row"):
        made.by_row(torch.as_tensor(labels), torch.as_tensor(predictions))


def test_masked_values_do_not_count():
    labels, mask = np.zeros((3, 6), "int64"), np.arange(6) < np.array([[6], [2], [0]])
    made = loss("sparse_categorical_crossentropy")
    values = -np.log(STEPS[..., 0] / STEPS.sum(-1))
    got = made.by_row(torch.as_tensor(labels), torch.as_tensor(STEPS), None, torch.as_tensor(mask))
    np.testing.assert_allclose(got, [values[0].mean(), values[1, :2].mean(), 0.0], rtol=1e-5)
    ignoring = loss({"class_name": "SparseCategoricalCrossentropy", "config": {"ignore_class": 7}})
    got = ignoring.by_row(torch.as_tensor(np.where(mask, labels, 7)), torch.as_tensor(STEPS))
    np.testing.assert_allclose(got, [values[0].mean(), values[1, :2].mean(), 0.0], rtol=1e-5)
