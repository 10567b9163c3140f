"""Metrics as functions: (labels, predictions) -> a value for each sample, by the formulas of keras.metrics."""

from __future__ import annotations

import torch

from layergraph.training import loss_functions
from layergraph.training.loss_functions import same_rank

Tensor = torch.Tensor


def accuracy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Whether label and prediction are equal, element by element."""
    y_true, y_pred = same_rank(y_true, y_pred)
    return y_true.to(y_pred.dtype) == y_pred


def binary_accuracy(y_true: Tensor, y_pred: Tensor, threshold: float = 0.5) -> Tensor:
    """Whether the label equals 1 where the prediction is above `threshold`, 0 elsewhere."""
    y_true, y_pred = same_rank(y_true, y_pred)
    return (y_pred > threshold).to(y_true.dtype) == y_true


def rounded_binary_accuracy(y_true: Tensor, y_pred: Tensor, threshold: float = 0.5) -> Tensor:
    """Whether the label equals the rounded prediction; only other thresholds than 0.5 are compared with."""
    if threshold != 0.5:
        return binary_accuracy(y_true, y_pred, threshold)
    y_true, y_pred = same_rank(y_true, y_pred)
    return y_pred.round() == y_true


def categorical_accuracy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Whether the largest prediction has the index of the largest label."""
    return y_true.argmax(-1) == y_pred.argmax(-1)


def sparse_categorical_accuracy(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Whether the largest prediction has the index `y_true`."""
    return _class_numbers(y_true, y_pred) == y_pred.argmax(-1)


def _class_numbers(y_true: Tensor, y_pred: Tensor) -> Tensor:
    return y_true[..., 0] if y_true.ndim == y_pred.ndim and y_true.shape[-1] == 1 else y_true


def top_k_categorical_accuracy(y_true: Tensor, y_pred: Tensor, k: int = 5) -> Tensor:
    """Whether the class of the largest label is among the `k` largest predictions, including ties."""
    return sparse_top_k_categorical_accuracy(y_true.argmax(-1), y_pred, k)


def sparse_top_k_categorical_accuracy(
    y_true: Tensor, y_pred: Tensor, k: int = 5, from_sorted_ids: bool = False
) -> Tensor:
    """Whether class `y_true` is among the `k` largest predictions, or among the first `k` predicted class indices."""
    labels = _class_numbers(y_true, y_pred).long()
    if from_sorted_ids:
        return (labels[..., None] == y_pred[..., :k]).any(-1)
    worst = y_pred.topk(min(k, y_pred.shape[-1]), -1).values[..., -1]
    # A label that isn't among the classes is never right.
    known = (labels >= 0) & (labels < y_pred.shape[-1])
    own = y_pred.gather(-1, labels.clamp(0, y_pred.shape[-1] - 1)[..., None])[..., 0]
    return (own >= worst) & known


def cosine_similarity(y_true: Tensor, y_pred: Tensor, axis: int = -1) -> Tensor:
    """The cosine of the angle along `axis`: 1 for equal directions; the loss is -1."""
    y_true, y_pred = same_rank(y_true, y_pred)
    return -loss_functions.cosine_similarity(y_true, y_pred, axis)


def squared_error(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """(y - p)^2, element by element."""
    y_true, y_pred = same_rank(y_true, y_pred)
    return (y_pred - y_true).square()


def pearson_correlation(y_true: Tensor, y_pred: Tensor, axis: int = -1) -> Tensor:
    """Mean product of the standardised labels and predictions along `axis`."""
    y_true, y_pred = same_rank(y_true, y_pred)
    return (_standardised(y_true, axis) * _standardised(y_pred, axis)).mean(axis)


def _standardised(x: Tensor, axis: int) -> Tensor:
    centred = x - x.mean(axis, keepdim=True)
    return centred / centred.std(axis, keepdim=True, correction=0)


def concordance_correlation(y_true: Tensor, y_pred: Tensor, axis: int = -1) -> Tensor:
    """2 covariance / (both variances + squared distance of the means + epsilon) along `axis`.

    As in Keras, labels are centred by the mean of the predictions, too, which doesn't change the mean.
    """
    y_true, y_pred = same_rank(y_true, y_pred)
    true_mean, pred_mean = y_true.mean(axis, keepdim=True), y_pred.mean(axis, keepdim=True)
    covariance = (y_true - pred_mean) * (y_pred - pred_mean)
    variances = y_true.var(axis, keepdim=True, correction=0) + y_pred.var(axis, keepdim=True, correction=0)
    distance = (true_mean - pred_mean).square()
    return (2.0 * covariance / (variances + distance + loss_functions.EPSILON)).mean(axis)
