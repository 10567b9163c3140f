"""Sample weights that are all zero, or negative: results of metrics and losses, compared with stock Keras."""

import warnings

import keras
import numpy as np
import pytest
import torch
from layergraph import Input, Model, layers
from layergraph.training.losses import LOSSES
from layergraph.training.metrics.table import METRICS

RNG = np.random.default_rng(3)
P = RNG.random((4, 6)).astype("float32")
P /= P.sum(-1, keepdims=True)
Y = np.eye(6, dtype="float32")[[0, 1, 1, 5]]
CLASSES, FOUND = Y.argmax(-1).astype("float32"), P.argmax(-1).astype("float32")
WEIGHTS = {"zero": np.zeros(4, "float32"), "negative": np.array([1, -1, 1, -1], "float32")}

OPTIONS = {
    "IoU": {"num_classes": 6, "target_class_ids": [0, 1]},
    "MeanIoU": {"num_classes": 6},
    "OneHotIoU": {"num_classes": 6, "target_class_ids": [0, 1]},
    "OneHotMeanIoU": {"num_classes": 6},
    "SensitivityAtSpecificity": {"specificity": 0.5},
    "SpecificityAtSensitivity": {"sensitivity": 0.5},
    "PrecisionAtRecall": {"recall": 0.5},
    "RecallAtPrecision": {"precision": 0.5},
}
#: Metrics whose labels, and for some predictions, are class indices.
SPARSE = {"SparseCategoricalAccuracy", "SparseTopKCategoricalAccuracy", "SparseCategoricalCrossentropy"}
NUMBERS = {"Accuracy", "IoU", "MeanIoU"}
#: Metrics without sample weights, those that Keras 3 lacks, or with other shapes.
ELSEWHERE = {"Mean", "Sum", "MeanRelativeError", "CTC", "CategoricalGeneralizedCrossEntropy"}


def labels_and_predictions(name):
    if name in NUMBERS:
        return CLASSES, FOUND
    if name == "BinaryIoU":
        return Y[:, 0], P[:, 0]
    return (CLASSES if name in SPARSE else Y), P


@pytest.mark.parametrize("name", [name for name in METRICS if name not in ELSEWHERE])
def test_metrics(name):
    y, p = labels_and_predictions(name)
    ours, theirs = METRICS[name](**OPTIONS.get(name, {})), getattr(keras.metrics, name)(**OPTIONS.get(name, {}))
    for weights in WEIGHTS.values():
        ours.update(torch.tensor(y), torch.tensor(p), torch.tensor(weights))
        with warnings.catch_warnings():
            # Keras truncates the weights of IoU metrics to integers, with a warning.
            warnings.simplefilter("ignore")
            theirs.update_state(y, p, sample_weight=weights)
        expected = keras.ops.convert_to_numpy(theirs.result())
        np.testing.assert_allclose(ours.result(), expected, rtol=1e-5, atol=1e-6)
        ours.reset()
        theirs.reset_state()


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in ELSEWHERE])
def test_losses(name):
    y = CLASSES.astype("int64") if name in {"SparseCategoricalCrossentropy", "Circle"} else Y
    for reduction in ("sum_over_batch_size", "sum", "mean_with_sample_weight"):
        ours, theirs = LOSSES[name](reduction=reduction), getattr(keras.losses, name)(reduction=reduction)
        for weights in WEIGHTS.values():
            own = ours(torch.tensor(y), torch.tensor(P), torch.tensor(weights), None)
            expected = keras.ops.convert_to_numpy(theirs(y, P, sample_weight=weights))
            np.testing.assert_allclose(float(own), expected, rtol=1e-5, atol=1e-6)


def test_a_run_whose_weights_are_all_zero():
    x = Input((3,))
    model = Model(x, layers.Dense(6, activation="softmax")(x))
    known = [name for name in METRICS if name not in ELSEWHERE | SPARSE | NUMBERS | {"BinaryIoU", "R2Score"}]
    model.compile("sgd", "mse", weighted_metrics=[METRICS[name](**OPTIONS.get(name, {})) for name in known])
    before = model.get_weights()
    history = model.fit(RNG.random((4, 3)), Y, sample_weight=WEIGHTS["zero"], batch_size=2, verbose=0).history
    assert all(np.isfinite(values).all() for values in history.values())
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))


def test_a_mean_square_that_is_negative_has_no_root():
    y, p, weights = np.zeros((2, 1), "float32"), np.array([[10.0], [1.0]], "float32"), np.array([1.0, -2.0], "float32")
    ours, theirs = METRICS["RootMeanSquaredError"](), keras.metrics.RootMeanSquaredError()
    ours.update(torch.tensor(y), torch.tensor(p), torch.tensor(weights))
    theirs.update_state(y, p, sample_weight=weights)
    assert np.isnan(ours.result())
    assert np.isnan(float(theirs.result()))
