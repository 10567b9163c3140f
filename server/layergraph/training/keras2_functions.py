"""Losses as Keras 2 computes them: crossentropies from what a sigmoid or softmax was applied to, where that is known.

Keras 2 takes it from the predictions, whatever `from_logits` is, and whichever of the two functions it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from layergraph.config.training_rules import TrainingRules
from layergraph.functional.logits import logits_of
from layergraph.training import loss_functions
from layergraph.training.loss_functions import EPSILON, class_numbers, smoothed_binary, smoothed_classes

Tensor = torch.Tensor


def function_for(function: Callable[..., Tensor], rules: TrainingRules) -> Callable[..., Tensor]:
    """The function that computes a loss or metric by the rules of a release; `function` is Keras 3's."""
    if rules.averages_cosines and function is loss_functions.cosine_similarity:
        return mean_cosine_similarity
    return _FUNCTIONS.get(function, function) if rules.logits else function


def reads_logits(function: Callable[..., Tensor]) -> bool:
    """Whether a function computes from what a sigmoid or softmax was applied to."""
    return function in _FUNCTIONS.values()


def mean_cosine_similarity(y_true: Tensor, y_pred: Tensor, axis: int = -1) -> Tensor:
    """-cos of the angle along `axis`, divided by the number of elements."""
    return loss_functions.cosine_similarity(y_true, y_pred, axis) / y_pred.shape[axis]


def _given_logits(y_pred: Tensor, from_logits: bool, function: str) -> Tensor | None:
    found = logits_of(y_pred, function, from_logits)
    return y_pred if found is None and from_logits else found


def _binary_crossentropies(y_true: Tensor, y_pred: Tensor, from_logits: bool) -> Tensor:
    logits = _given_logits(y_pred, from_logits, "sigmoid")
    if logits is not None:
        return functional.binary_cross_entropy_with_logits(logits, y_true, reduction="none")
    y_pred = y_pred.clamp(EPSILON, 1.0 - EPSILON)
    # Keras 2 adds epsilon although it has clipped.
    return -(y_true * torch.log(y_pred + EPSILON) + (1.0 - y_true) * torch.log(1.0 - y_pred + EPSILON))


def binary_crossentropy(
    y_true: Tensor, y_pred: Tensor, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Tensor:
    """mean -(y log p + (1 - y) log(1 - p)) over `axis`."""
    return _binary_crossentropies(smoothed_binary(y_true, label_smoothing), y_pred, from_logits).mean(axis)


def binary_focal_crossentropy(
    y_true: Tensor,
    y_pred: Tensor,
    apply_class_balancing: bool = False,
    alpha: float = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Tensor:
    """mean (1 - p_t)^gamma x binary crossentropy; p_t, unlike the crossentropy, follows `from_logits`."""
    y_true = smoothed_binary(y_true, label_smoothing)
    share = torch.sigmoid(y_pred) if from_logits else y_pred
    right = y_true * share + (1.0 - y_true) * (1.0 - share)
    value = (1.0 - right).pow(gamma) * _binary_crossentropies(y_true, y_pred, from_logits)
    if apply_class_balancing:
        value = (y_true * alpha + (1.0 - y_true) * (1.0 - alpha)) * value
    return value.mean(axis)


class _SoftmaxCrossentropy(torch.autograd.Function):
    """-sum y log softmax(logits), with TensorFlow's gradient: softmax - y, also if y doesn't add up to 1."""

    @staticmethod
    def forward(context: Any, logits: Tensor, y_true: Tensor, axis: int) -> Tensor:
        logs = functional.log_softmax(logits, axis)
        context.save_for_backward(logs, y_true)
        context.axis = axis
        return -(y_true * logs).sum(axis)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        logs, y_true = context.saved_tensors
        return (logs.exp() - y_true) * gradient.unsqueeze(context.axis), None, None


def categorical_crossentropy(
    y_true: Tensor, y_pred: Tensor, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Tensor:
    """-sum y log p over `axis`."""
    logits = _given_logits(y_pred, from_logits, "softmax")
    if logits is None:
        return loss_functions.categorical_crossentropy(y_true, y_pred, False, label_smoothing, axis)
    crossentropy: Callable[..., Tensor] = _SoftmaxCrossentropy.apply
    return crossentropy(logits, smoothed_classes(y_true, label_smoothing), axis)


def categorical_focal_crossentropy(
    y_true: Tensor,
    y_pred: Tensor,
    alpha: float | tuple[float, ...] = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
) -> Tensor:
    """-sum alpha (1 - p)^gamma y log p over `axis`; `alpha` is a number, or one per class."""
    logits = _given_logits(y_pred, from_logits, "softmax")
    share = y_pred if logits is None else torch.softmax(logits, axis)
    return loss_functions.categorical_focal_crossentropy(
        y_true, share, alpha, gamma, False, label_smoothing=label_smoothing, axis=axis
    )


def _class_logits(y_pred: Tensor, from_logits: bool) -> Tensor:
    """Numbers whose softmax are the probabilities; Keras 2 clips those that are given, before they add up to 1."""
    logits = _given_logits(y_pred, from_logits, "softmax")
    return y_pred.clamp(EPSILON, 1.0 - EPSILON).log() if logits is None else logits


def sparse_categorical_crossentropy(
    y_true: Tensor, y_pred: Tensor, from_logits: bool = False, ignore_class: int | None = None, axis: int = -1
) -> Tensor:
    """-log of the probability of class `y_true` along `axis`; 0 where `y_true` is `ignore_class`."""
    labels, logits = class_numbers(y_true, y_pred, axis), _class_logits(y_pred, from_logits)
    if ignore_class is None:
        return functional.cross_entropy(logits.movedim(axis, 1), labels, reduction="none")
    valid = labels != ignore_class
    # Logits are masked, too, so that a NaN there doesn't spread.
    logits = logits.where(valid.unsqueeze(axis), torch.zeros((), dtype=logits.dtype, device=logits.device))
    values = functional.cross_entropy(logits.movedim(axis, 1), labels.where(valid, 0), reduction="none")
    return values.where(valid, 0.0)


def mean_sparse_crossentropy(y_true: Tensor, y_pred: Tensor, from_logits: bool, axis: int) -> Tensor:
    """The mean of sparse_categorical_crossentropy, by torch's own reduction."""
    labels = class_numbers(y_true, y_pred, axis)
    return functional.cross_entropy(_class_logits(y_pred, from_logits).movedim(axis, 1), labels)


#: Keras 3's function -> Keras 2's.
_FUNCTIONS: Mapping[Callable[..., Tensor], Callable[..., Tensor]] = {
    loss_functions.binary_crossentropy: binary_crossentropy,
    loss_functions.binary_focal_crossentropy: binary_focal_crossentropy,
    loss_functions.categorical_crossentropy: categorical_crossentropy,
    loss_functions.categorical_focal_crossentropy: categorical_focal_crossentropy,
    loss_functions.sparse_categorical_crossentropy: sparse_categorical_crossentropy,
}
