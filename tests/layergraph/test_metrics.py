"""Metrics against stock Keras: several batches, weights, masks."""

import keras
import numpy as np
import pytest
import torch
from keras.src.backend.common.masking import set_keras_mask
from layergraph.errors import ConfigError
from layergraph.training.metrics import METRICS, by_shapes, metric, metric_for_shapes

RNG = np.random.default_rng(4)


def batches(labels, predictions):
    """Two batches of different sizes."""
    return [(labels(rows), predictions(rows)) for rows in (6, 3)]


def real(*shape):
    return lambda rows: RNG.standard_normal((rows, *shape)).astype("float32")


def probability(*shape):
    return lambda rows: RNG.uniform(0.01, 0.99, (rows, *shape)).astype("float32")


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
]
IDS = [f"{name}-{options}" for name, options, _ in CASES]


@pytest.mark.parametrize(("name", "options", "data"), CASES, ids=IDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_values(name, options, data, weighted):
    ours, theirs = METRICS[name](**options), getattr(keras.metrics, name)(**options)
    assert ours.name == theirs.name
    for _ in range(2):
        for y, p in data:
            weight = RNG.uniform(0, 2, len(y)).astype("float32") if weighted else None
            if weighted and y.ndim == 2 and p.ndim == 3:
                # Keras 3 wants the steps to be there.
                weight = np.broadcast_to(weight[:, None], y.shape).copy()
            w = None if weight is None else torch.tensor(weight)
            ours.update(torch.tensor(y), torch.tensor(p), w)
            theirs.update_state(torch.tensor(y), torch.tensor(p), w)
        assert ours.result() == pytest.approx(float(theirs.result()), rel=1e-5, abs=1e-6)
        ours.reset()
        theirs.reset_state()
    assert ours.result() == 0.0


def test_every_metric_has_a_case():
    assert {name for name, *_ in CASES} == set(METRICS)


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


@pytest.mark.parametrize("name", sorted(METRICS))
def test_config_is_read_by_both(name):
    theirs = getattr(keras.metrics, name)(name="mine")
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
