"""Metrics against stock Keras: several batches, weights, masks."""

import re

import keras
import numpy as np
import pytest
import torch
from keras.src.backend.common.masking import set_keras_mask
from layergraph.config.training_rules import EARLY_RULES, KERAS3_RULES
from layergraph.errors import ConfigError
from layergraph.training.metrics.metric import FunctionMean
from layergraph.training.metrics.table import METRICS, by_shapes, metric, metric_for_shapes

RNG = np.random.default_rng(4)


def batches(labels, predictions):
    """Two batches of different sizes."""
    return [(labels(rows), predictions(rows)) for rows in (6, 3)]


def real(*shape):
    return lambda rows: RNG.standard_normal((rows, *shape)).astype("float32")


def probability(*shape):
    return lambda rows: RNG.uniform(0.01, 0.99, (rows, *shape)).astype("float32")


def coarse(*shape):
    """Probabilities at the thresholds, including 0 and 1."""
    return lambda rows: (RNG.integers(0, 11, (rows, *shape)) / 10).astype("float32")


def yes_no(*shape):
    return lambda rows: RNG.integers(0, 2, (rows, *shape)).astype("float32")


def one_hot(classes):
    return lambda rows: np.eye(classes, dtype="float32")[RNG.integers(0, classes, rows)]


def classes(count, *shape):
    return lambda rows: RNG.integers(0, count, (rows, *shape))


CASES = [
    ("Accuracy", {}, batches(classes(3), lambda n: RNG.integers(0, 3, n).astype("float32"))),
    ("BinaryAccuracy", {}, batches(yes_no(4), probability(4))),
    ("BinaryAccuracy", {"threshold": 0.8}, batches(yes_no(), probability(1))),
    ("CategoricalAccuracy", {}, batches(one_hot(5), probability(5))),
    ("SparseCategoricalAccuracy", {}, batches(classes(5), probability(5))),
    ("SparseCategoricalAccuracy", {}, batches(classes(5, 1), probability(5))),
    ("SparseCategoricalAccuracy", {}, batches(classes(5, 7), probability(7, 5))),
    ("TopKCategoricalAccuracy", {"k": 2}, batches(one_hot(5), probability(5))),
    ("SparseTopKCategoricalAccuracy", {"k": 2}, batches(classes(5), probability(5))),
    ("SparseTopKCategoricalAccuracy", {"k": 3}, batches(classes(5, 7), probability(7, 5))),
    ("BinaryCrossentropy", {}, batches(yes_no(4), probability(4))),
    ("BinaryCrossentropy", {"from_logits": True, "label_smoothing": 0.1}, batches(yes_no(4), real(4))),
    ("CategoricalCrossentropy", {"label_smoothing": 0.1}, batches(one_hot(5), probability(5))),
    ("SparseCategoricalCrossentropy", {"from_logits": True}, batches(classes(5), real(5))),
    ("SparseCategoricalCrossentropy", {"ignore_class": 0}, batches(classes(5, 7), probability(7, 5))),
    ("KLDivergence", {}, batches(probability(4), probability(4))),
    ("Poisson", {}, batches(probability(4), probability(4))),
    ("MeanSquaredError", {}, batches(real(4), real(4))),
    ("MeanSquaredError", {}, batches(real(), real(1))),
    ("RootMeanSquaredError", {}, batches(real(4), real(4))),
    ("MeanAbsoluteError", {}, batches(real(4), real(4))),
    ("MeanAbsolutePercentageError", {}, batches(real(4), real(4))),
    ("MeanSquaredLogarithmicError", {}, batches(real(4), real(4))),
    ("CosineSimilarity", {}, batches(real(4), real(4))),
    ("LogCoshError", {}, batches(real(4), real(4))),
    ("Hinge", {}, batches(yes_no(4), real(4))),
    ("SquaredHinge", {}, batches(yes_no(4), real(4))),
    ("CategoricalHinge", {}, batches(one_hot(4), real(4))),
    # Labels (N,) and predictions (N, 1), or vice versa: only for these metrics, Keras broadcasts to (N, N).
    *[
        (name, {}, batches(*shapes))
        for name in ("KLDivergence", "Poisson", "Hinge", "SquaredHinge", "CategoricalHinge", "MeanAbsoluteError")
        for shapes in ((probability(), probability(1)), (probability(1), probability()))
    ],
    ("PearsonCorrelation", {}, batches(real(4), real(4))),
    ("ConcordanceCorrelation", {}, batches(real(4), real(4))),
    ("ConcordanceCorrelation", {"axis": 1}, batches(real(7, 3), real(7, 3))),
    *[
        (name, options, batches(yes_no(*shape), coarse(*shape)))
        for name in ("TruePositives", "FalsePositives", "TrueNegatives", "FalseNegatives", "Precision", "Recall")
        for options, shape in [
            ({}, ()),
            ({"thresholds": [0.2, 0.5, 0.9]}, (3,)),
            ({"thresholds": [0.0, 0.5, 1.0]}, (3,)),
        ]
    ],
    ("Precision", {}, batches(yes_no(), coarse(1))),
    ("Precision", {"top_k": 2}, batches(one_hot(5), probability(5))),
    ("Precision", {"class_id": 1, "thresholds": 0.3}, batches(one_hot(5), probability(5))),
    ("Recall", {"top_k": 2, "class_id": 3}, batches(one_hot(5), probability(5))),
    *[
        (name, {value: limit, "num_thresholds": count}, batches(yes_no(2), coarse(2)))
        for name, value in (
            ("SensitivityAtSpecificity", "specificity"),
            ("SpecificityAtSensitivity", "sensitivity"),
            ("PrecisionAtRecall", "recall"),
            ("RecallAtPrecision", "precision"),
        )
        for limit, count in ((0.4, 200), (0.6, 1), (0.3, 7))
    ],
    ("RecallAtPrecision", {"precision": 0.2, "class_id": 1}, batches(one_hot(5), probability(5))),
    *[
        ("AUC", {"curve": curve, "summation_method": method, "num_thresholds": 20}, batches(yes_no(2), coarse(2)))
        for curve in ("ROC", "PR", "PRGAIN")
        for method in ("interpolation", "minoring", "majoring")
    ],
    ("AUC", {}, batches(yes_no(1), probability(1))),
    ("AUC", {"from_logits": True, "curve": "pr"}, batches(yes_no(), real(1))),
    ("AUC", {"thresholds": [0.3, 0.1, 0.7]}, batches(yes_no(2), coarse(2))),
    ("AUC", {"multi_label": True}, batches(yes_no(3), coarse(3))),
    ("AUC", {"multi_label": True, "thresholds": [0.2, 0.3], "curve": "PR"}, batches(yes_no(3), coarse(3))),
    ("AUC", {"multi_label": True, "num_labels": 3, "label_weights": [1.0, 2.0, 0.5]}, batches(yes_no(3), coarse(3))),
    ("AUC", {"label_weights": [1.0, 2.0, 0.5]}, batches(yes_no(3), coarse(3))),
    *[
        (name, {**options, "average": average}, batches(one_hot(4), probability(4)))
        for name, options in (("FBetaScore", {"beta": 2.0}), ("F1Score", {}), ("F1Score", {"threshold": 0.4}))
        for average in (None, "micro", "macro", "weighted")
    ],
    ("R2Score", {}, batches(real(3), real(3))),
    ("R2Score", {}, batches(real(), real(1))),
    ("R2Score", {}, batches(real(1), real())),
    ("R2Score", {}, batches(real(1), real(3))),
    ("R2Score", {"class_aggregation": None, "num_regressors": 1}, batches(real(1), real(3))),
    ("R2Score", {}, batches(lambda rows: np.ones((rows, 1), "float32"), real(1))),
    ("R2Score", {"class_aggregation": None, "num_regressors": 2}, batches(real(3), real(3))),
    ("R2Score", {"class_aggregation": "variance_weighted_average"}, batches(real(3), real(3))),
    ("IoU", {"num_classes": 4, "target_class_ids": [0, 2]}, batches(classes(5, 6), classes(5, 6))),
    ("IoU", {"num_classes": 4, "target_class_ids": [1], "ignore_class": 0}, batches(classes(4), classes(4))),
    ("MeanIoU", {"num_classes": 4}, batches(classes(4, 6), classes(3, 6))),
    ("MeanIoU", {"num_classes": 4, "sparse_y_pred": False}, batches(classes(4, 6), probability(6, 4))),
    ("BinaryIoU", {}, batches(yes_no(6), probability(6))),
    ("BinaryIoU", {"target_class_ids": [1], "threshold": 0.7}, batches(yes_no(6), probability(6))),
    ("OneHotIoU", {"num_classes": 4, "target_class_ids": [0, 3]}, batches(one_hot(4), probability(4))),
    ("OneHotMeanIoU", {"num_classes": 4}, batches(one_hot(4), probability(4))),
    ("OneHotMeanIoU", {"num_classes": 4, "sparse_y_pred": True, "ignore_class": 2}, batches(one_hot(4), classes(4))),
    ("Mean", {}, batches(real(), probability())),
    ("Sum", {}, batches(real(), probability())),
]
#: Metrics of labels with predictions as weights, which don't support sample weights.
UNWEIGHTED = ("Mean", "Sum")
IDS = [f"{name}-{options}" for name, options, _ in CASES]


def weights_for(name, y, p):
    """Weights by row; by timestep where Keras 3 requires them."""
    weight = RNG.uniform(0, 2, len(y)).astype("float32")
    if "IoU" in name:
        # Keras truncates them to integers, and requires one for each pair.
        pairs = y.shape[:-1] if "OneHot" in name else y.shape
        return RNG.integers(0, 3, pairs).astype("int32")
    if y.ndim == 2 and p.ndim == 3:
        return np.broadcast_to(weight[:, None], y.shape).copy()
    return weight


@pytest.mark.parametrize(("name", "options", "data"), CASES, ids=IDS)
def test_values(name, options, data):
    check(name, options, data)


#: Metrics of classes, with labels of two.
OF_CLASSES = [
    *[(name, {}, one_hot(2)) for name in ("CategoricalAccuracy", "CategoricalCrossentropy", "CategoricalHinge")],
    ("CategoricalCrossentropy", {"label_smoothing": 0.1}, one_hot(2)),
    ("TopKCategoricalAccuracy", {"k": 1}, one_hot(2)),
    ("SparseTopKCategoricalAccuracy", {"k": 1}, classes(2)),
    *[
        (name, {}, labels)
        for name in ("SparseCategoricalAccuracy", "SparseCategoricalCrossentropy")
        for labels in (classes(2), classes(2, 1))
    ],
    *[(name, {"class_id": number}, one_hot(2)) for name in ("Precision", "Recall") for number in (0, 1)],
    *[(name, {"top_k": 1}, one_hot(2)) for name in ("Precision", "Recall")],
    *[("F1Score", {"average": average}, one_hot(2)) for average in (None, "micro", "macro", "weighted")],
    *[("AUC", {"multi_label": several}, one_hot(2)) for several in (False, True)],
    *[("OneHotIoU", {"num_classes": 2, "target_class_ids": [number]}, one_hot(2)) for number in (0, 1)],
    ("OneHotMeanIoU", {"num_classes": 2}, one_hot(2)),
    ("MeanIoU", {"num_classes": 2, "sparse_y_pred": False}, classes(2)),
    ("R2Score", {"class_aggregation": None}, one_hot(2)),
]


@pytest.mark.parametrize(("name", "options", "labels"), OF_CLASSES)
def test_two_classes_are_as_good_as_more(name, options, labels):
    check(name, options, batches(labels, probability(2)))


def check(name, options, data):
    """Compares a metric with Keras's: without weights, with weights, and restored from its state after each batch."""
    ours, theirs = METRICS[name](**options), getattr(keras.metrics, name)(**options)
    # Keras numbers the metrics of a process.
    assert ours.name == re.sub(r"_\d+$", "", theirs.name)
    for weighted in (False,) if name in UNWEIGHTED else (False, True):
        for y, p in data:
            w = torch.tensor(weights_for(name, y, p)) if weighted else None
            ours.update(torch.tensor(y), torch.tensor(p), w)
            given = (torch.tensor(y), torch.tensor(p)) if w is None else (torch.tensor(y), torch.tensor(p), w)
            theirs.update_state(*given)
            again = METRICS[name](**options)
            again.restore(ours.state)
            ours = again
        expected = theirs.result().numpy()
        assert np.shape(ours.result()) == np.shape(expected)
        np.testing.assert_allclose(ours.result(), expected, rtol=1e-5, atol=1e-6)
        ours.reset()
        theirs.reset_state()
    assert np.all(ours.result() == 0.0)


#: Metrics that Keras 3 lacks.
KERAS_2 = {"MeanRelativeError"}


def test_every_metric_has_a_case():
    assert {name for name, *_ in CASES} == set(METRICS) - KERAS_2
    theirs = {name for name in dir(keras.metrics) if isinstance(getattr(keras.metrics, name), type)}
    # MeanMetricWrapper wraps a function; see test_keras_2_wrappers_and_serialised_functions.
    assert theirs - set(METRICS) == {"Metric", "MeanMetricWrapper"}


def test_overlaps_count_fractions_of_weights():
    """As in Keras with a float dtype; by default it truncates weights to integers."""
    y, p = classes(3)(20), classes(3)(20)
    weights = torch.tensor(RNG.uniform(0, 1, 20).astype("float32"))
    ours, theirs = METRICS["MeanIoU"](3), keras.metrics.MeanIoU(3, dtype="float32")
    ours.update(torch.tensor(y), torch.tensor(p), weights)
    theirs.update_state(y, p, weights)
    assert ours.result() == pytest.approx(float(theirs.result()), rel=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_masked_steps_do_not_count(weighted):
    from layergraph.training.losses import weights_like

    y, p = classes(5, 7)(4), probability(7, 5)(4)
    mask = np.arange(7) < np.array([[7], [3], [5], [0]])
    weight = RNG.uniform(0, 2, (4, 7)).astype("float32") if weighted else None
    predictions = torch.tensor(p)
    set_keras_mask(predictions, torch.tensor(mask))
    theirs = keras.metrics.SparseCategoricalAccuracy()
    theirs.update_state(torch.tensor(y), predictions, None if weight is None else torch.tensor(weight.copy()))
    valid = torch.tensor(mask).float()
    ours = METRICS["SparseCategoricalAccuracy"]()
    assert ours.masked
    ours.update(
        torch.tensor(y), torch.tensor(p), valid if weight is None else weights_like(valid, torch.tensor(weight)) * valid
    )
    assert ours.result() == pytest.approx(float(theirs.result()), rel=1e-6)


def test_many_batches_lose_no_digits():
    ours = METRICS["MeanSquaredError"]()
    for _ in range(3000):
        ours.update(torch.zeros(64, 1), torch.full((64, 1), 0.1))
    assert ours.result() == pytest.approx(0.01, rel=1e-6)


def test_relative_errors_as_in_keras_2():
    """Numbers of tf.keras 2.15."""
    ours = metric({"class_name": "MeanRelativeError", "config": {"normalizer": [1, 3, 2, 0], "name": "relative"}})
    ours.update(torch.tensor([[1.0, 3.0, 2.0, 3.0]]), torch.tensor([[2.0, 4.0, 6.0, 8.0]]))
    assert ours.result() == pytest.approx((1 + 1 / 3 + 2) / 4)
    assert ours.get_config() == {"name": "relative", "dtype": "float32", "normalizer": [1.0, 3.0, 2.0, 0.0]}


@pytest.mark.parametrize("name", sorted(set(METRICS) - KERAS_2))
def test_config_is_read_by_both(name):
    required = next(options for case, options, _ in CASES if case == name)
    theirs = getattr(keras.metrics, name)(name="mine", **required)
    ours = metric(keras.metrics.serialize(theirs))
    assert type(ours).__name__ == name
    assert getattr(keras.metrics, name).from_config(ours.get_config()).get_config() == theirs.get_config()


def test_names_as_they_are_spelled():
    assert metric("MSE").name == "MSE"
    assert metric("mean_squared_error").name == "mean_squared_error"
    assert metric(METRICS["LogCoshError"]()).name == "logcosh"
    assert metric(METRICS["BinaryAccuracy"]).name == "binary_accuracy"
    assert by_shapes("Acc")
    assert not by_shapes("binary_accuracy")


def test_the_curve_as_tf_keras_221_spells_it():
    assert METRICS["AUC"](curve="PR_GAIN").get_config()["curve"] == "PRGAIN"


def test_keras_2_wrappers_and_serialised_functions():
    config = {"name": "acc", "dtype": "float32", "fn": "sparse_categorical_accuracy"}
    ours = metric({"class_name": "MeanMetricWrapper", "config": config})
    assert (type(ours).__name__, ours.name) == ("SparseCategoricalAccuracy", "acc")
    function = keras.metrics.serialize(keras.metrics.mean_absolute_error)
    assert type(metric(function)).__name__ == "MeanAbsoluteError"
    wrapped = keras.metrics.MeanMetricWrapper(keras.metrics.mean_squared_error, name="m")
    ours = metric(keras.metrics.serialize(wrapped))
    assert (type(ours).__name__, ours.name) == ("MeanSquaredError", "m")


@pytest.mark.parametrize(
    ("labels", "predictions", "name"),
    [
        ((8,), (8, 1), "BinaryAccuracy"),
        ((8,), (8, 3), "SparseCategoricalAccuracy"),
        ((8, 1), (8, 3), "SparseCategoricalAccuracy"),
        ((8, 3), (8, 3), "CategoricalAccuracy"),
        ((8, 5), (8, 5, 3), "SparseCategoricalAccuracy"),
        ((8,), (8, 2), "SparseCategoricalAccuracy"),
        ((8, 1), (8, 2), "SparseCategoricalAccuracy"),
        ((8, 2), (8, 2), "CategoricalAccuracy"),
        ((8, 5), (8, 5, 2), "SparseCategoricalAccuracy"),
    ],
)
def test_accuracy_by_shapes(labels, predictions, name):
    ours = metric_for_shapes("acc", labels, predictions)
    assert (type(ours).__name__, ours.name) == (name, "acc")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("accurracy", "did you mean 'accuracy'"),
        ({"class_name": "BinaryAccuracy", "config": {"treshold": 1}}, "did you mean 'threshold'"),
        ({"class_name": "MeanMetricWrapper", "config": {"fn": "mine"}}, "unknown metric 'mine'"),
        ({"class_name": "MeanMetricWrapper", "config": {"fn": 3}}, "expected the name of a function"),
    ],
)
def test_what_is_wrong_is_named(given, message):
    with pytest.raises(ConfigError, match=message):
        metric(given)


def test_micro_scores_with_a_column_of_weights():
    """As in Keras, which doesn't support it for other averages."""
    ours, theirs = METRICS["F1Score"](average="micro", threshold=0.5), keras.metrics.F1Score("micro", threshold=0.5)
    for rows in (6, 3):
        y, p = yes_no(4)(rows), probability(4)(rows)
        weights = RNG.uniform(0, 2, (rows, 1)).astype("float32")
        ours.update(torch.tensor(y), torch.tensor(p), torch.tensor(weights))
        theirs.update_state(y, p, weights)
    assert ours.result() == pytest.approx(float(theirs.result()), rel=1e-5)


def test_a_label_that_is_no_class_is_never_among_the_best() -> None:
    """As in tf.math.in_top_k."""
    predictions, labels = torch.tensor([[0.3], [0.4], [0.2]]), torch.tensor([[0.0], [1.0], [-1.0]])
    found = METRICS["SparseTopKCategoricalAccuracy"]().values(labels, predictions)
    assert found.tolist() == [True, False, False]


@pytest.mark.parametrize("name", [name for name, kind in METRICS.items() if issubclass(kind, FunctionMean)])
def test_every_mean_of_a_function_follows_the_release(name):
    """Up to Keras 2.2, metrics are means over batches."""
    made = METRICS[name]()
    for rules in (EARLY_RULES, KERAS3_RULES):
        made.follow(rules)
        made.reset()
        made.accumulate(torch.ones(4), torch.tensor([0.0, 0.0, 0.0, 1.0]))
        made.accumulate(torch.zeros(4), torch.ones(4))
        assert made.result() == pytest.approx(0.5 if rules is EARLY_RULES else 0.2)
