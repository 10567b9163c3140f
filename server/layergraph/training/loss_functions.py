"""Losses as functions: (labels, predictions) -> a value for each sample, by the formulas of keras.losses."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional

#: Keras's backend.epsilon().
EPSILON = 1e-7

#: Maximum number of classes for which taking the logarithms of all is faster than gathering one first.
FEW_CLASSES = 64

Tensor = torch.Tensor


def same_rank(y_true: Tensor, y_pred: Tensor) -> tuple[Tensor, Tensor]:
    """Drops or adds a last axis of length 1 if the ranks differ by one (Keras's squeeze_or_expand_to_same_rank).

    Without it, (N,) and (N, 1) would broadcast to (N, N).
    """
    if y_true.ndim == y_pred.ndim + 1 and y_true.shape[-1] == 1:
        return (y_true, y_pred[..., None]) if y_pred.ndim == 1 else (y_true[..., 0], y_pred)
    if y_pred.ndim == y_true.ndim + 1 and y_pred.shape[-1] == 1:
        return (y_true[..., None], y_pred) if y_true.ndim == 1 else (y_true, y_pred[..., 0])
    return y_true, y_pred


def mean_squared_error(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """mean (y - p)^2 over the last axis."""
    return (y_pred - y_true).square().mean(-1)


def mean_absolute_error(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """mean |y - p| over the last axis."""
    return (y_pred - y_true).abs().mean(-1)


def mean_absolute_percentage_error(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """100 x mean |y - p| / max(|y|, epsilon) over the last axis."""
    return 100.0 * ((y_true - y_pred) / y_true.abs().clamp_min(EPSILON)).abs().mean(-1)


def mean_squared_logarithmic_error(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """mean (log(1 + y) - log(1 + p))^2 over the last axis, both at least epsilon."""
    difference = torch.log(y_pred.clamp_min(EPSILON) + 1.0) - torch.log(y_true.clamp_min(EPSILON) + 1.0)
    return difference.square().mean(-1)


def normalized(x: Tensor, axis: int) -> Tensor:
    """x / |x| along `axis`, with the inverse norm clipped to at most 1 / epsilon (Keras's normalize)."""
    return x * torch.rsqrt(x.square().sum(axis, keepdim=True).clamp_min(EPSILON**2))


def cosine_similarity(y_true: Tensor, y_pred: Tensor, axis: int = -1) -> Tensor:
    """-cos of the angle along `axis`: -1 for equal directions."""
    return -(normalized(y_true, axis) * normalized(y_pred, axis)).sum(axis)


def huber(y_true: Tensor, y_pred: Tensor, delta: float = 1.0) -> Tensor:
    """mean e^2 / 2 for |e| <= delta, delta |e| - delta^2 / 2 beyond, over the last axis; e = p - y."""
    error = (y_pred - y_true).abs()
    return torch.where(error <= delta, 0.5 * error.square(), delta * error - 0.5 * delta**2).mean(-1)


def log_cosh(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """mean log(cosh(p - y)) over the last axis."""
    error = y_pred - y_true
    return (error + functional.softplus(error * -2.0) - math.log(2.0)).mean(-1)


def _signed(y_true: Tensor) -> Tensor:
    """Labels 0 and 1 as -1 and 1, if all labels of the batch are 0 or 1; else the labels."""
    binary = ((y_true == 0) | (y_true == 1)).all()
    return torch.where(binary, 2.0 * y_true - 1.0, y_true)


def hinge(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """mean max(1 - y p, 0) over the last axis."""
    return (1.0 - _signed(y_true) * y_pred).clamp_min(0.0).mean(-1)


def squared_hinge(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """mean max(1 - y p, 0)^2 over the last axis."""
    return (1.0 - _signed(y_true) * y_pred).clamp_min(0.0).square().mean(-1)


def categorical_hinge(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """max(largest wrong score - right score + 1, 0)."""
    right = (y_true * y_pred).sum(-1)
    wrong = ((1.0 - y_true) * y_pred).amax(-1)
    return (wrong - right + 1.0).clamp_min(0.0)


def kl_divergence(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """sum y log(y / p) over the last axis, both clipped to [epsilon, 1]."""
    y_true = y_true.clamp(EPSILON, 1.0)
    return (y_true * torch.log(y_true / y_pred.clamp(EPSILON, 1.0))).sum(-1)


def poisson(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """mean p - y log(p + epsilon) over the last axis."""
    return (y_pred - y_true * torch.log(y_pred + EPSILON)).mean(-1)


def _binary_crossentropies(y_true: Tensor, y_pred: Tensor, from_logits: bool) -> Tensor:
    if from_logits:
        return functional.binary_cross_entropy_with_logits(y_pred, y_true, reduction="none")
    # Not torch's binary_cross_entropy, which refuses labels outside 0 .. 1 (Keras's guide trains with some) and NaN
    # predictions; on a GPU that error makes the context unusable.
    y_pred = y_pred.clamp(EPSILON, 1.0 - EPSILON)
    return (y_true - 1.0) * torch.log1p(-y_pred) - y_true * torch.log(y_pred)


def smoothed_binary(y_true: Tensor, label_smoothing: float) -> Tensor:
    """Labels 0 and 1 moved towards 1/2."""
    return y_true * (1.0 - label_smoothing) + 0.5 * label_smoothing if label_smoothing else y_true


def smoothed_classes(y_true: Tensor, label_smoothing: float) -> Tensor:
    """One-hot labels moved towards equal shares of all classes."""
    # Keras counts the classes on the last axis, regardless of `axis`.
    return y_true * (1.0 - label_smoothing) + label_smoothing / y_true.shape[-1] if label_smoothing else y_true


def _log_probabilities(y_pred: Tensor, from_logits: bool, axis: int) -> Tensor:
    """Logarithms of the class probabilities, which are normalised to a sum of 1 and clipped, as in Keras."""
    if from_logits:
        return functional.log_softmax(y_pred, axis)
    return _clipped_log(y_pred if _adds_up_to_1(y_pred, axis) else y_pred / y_pred.sum(axis, keepdim=True))


def _clipped_log(share: Tensor) -> Tensor:
    """log of `share`, clipped to [epsilon, 1 - epsilon].

    Uses hardtanh, whose gradient differs from clamp's only at the bounds, where it is 0 and a softmax scales it by 1e-7
    anyway. The backward pass of clamp takes four operations, which slows small models down.
    """
    return functional.hardtanh(share, EPSILON, 1.0 - EPSILON).log()


def _adds_up_to_1(y_pred: Tensor, axis: int) -> bool:
    """Whether the predictions are the direct output of a softmax over `axis`, so that dividing by their sum is a no-op.

    It doesn't change the gradient, either: the sum adds the same amount for all classes, which the softmax cancels.
    """
    made_by: Any = y_pred.grad_fn
    if made_by is None or made_by.name() != "SoftmaxBackward0":
        return False
    # torch stores a negative axis as the unsigned number with the same bits.
    dim = int(made_by._saved_dim) & 0xFF
    return dim in (axis & 0xFF, axis % y_pred.ndim)


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
    """mean (1 - p_t)^gamma x binary crossentropy, p_t the label's probability; `alpha` is for class balancing only."""
    y_true = smoothed_binary(y_true, label_smoothing)
    y_pred = torch.sigmoid(y_pred) if from_logits else y_pred
    right = y_true * y_pred + (1 - y_true) * (1 - y_pred)
    value = (1.0 - right).pow(gamma) * _binary_crossentropies(y_true, y_pred, False)
    if apply_class_balancing:
        value = (y_true * alpha + (1 - y_true) * (1 - alpha)) * value
    return value.mean(axis)


def categorical_crossentropy(
    y_true: Tensor, y_pred: Tensor, from_logits: bool = False, label_smoothing: float = 0.0, axis: int = -1
) -> Tensor:
    """-sum y log p over `axis`."""
    return -(smoothed_classes(y_true, label_smoothing) * _log_probabilities(y_pred, from_logits, axis)).sum(axis)


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
    y_true = smoothed_classes(y_true, label_smoothing)
    y_pred = torch.softmax(y_pred, axis) if from_logits else y_pred
    log_p = _log_probabilities(y_pred, False, axis)
    factor = (1.0 - log_p.exp()).pow(gamma) * torch.as_tensor(alpha, dtype=y_pred.dtype, device=y_pred.device)
    return (factor * -y_true * log_p).sum(axis)


def sparse_categorical_crossentropy(
    y_true: Tensor, y_pred: Tensor, from_logits: bool = False, ignore_class: int | None = None, axis: int = -1
) -> Tensor:
    """-log of the probability of class `y_true` along `axis`; 0 where `y_true` is `ignore_class`."""
    labels = class_numbers(y_true, y_pred, axis)
    if ignore_class is not None:
        valid = labels != ignore_class
        labels = labels.where(valid, 0)
        # Predictions are masked, too, so that a NaN there doesn't spread.
        y_pred = y_pred.where(valid.unsqueeze(axis), torch.zeros((), dtype=y_pred.dtype, device=y_pred.device))
    if from_logits:
        # torch expects the classes on axis 1.
        loss = functional.cross_entropy(y_pred.movedim(axis, 1), labels, reduction="none")
    elif _few_probabilities(y_pred, axis):
        # Half the operations of the general case, which take most of a small model's time for its loss.
        loss = functional.nll_loss(_clipped_log(y_pred), labels, reduction="none")
    else:
        # As `_log_probabilities`, but only for the labels' classes: logarithms of all would take most of the time.
        right = y_pred.gather(axis, labels.unsqueeze(axis)).squeeze(axis)
        share = right if _adds_up_to_1(y_pred, axis) else right / y_pred.sum(axis)
        loss = -torch.log(share.clamp(EPSILON, 1.0 - EPSILON))
    return loss if ignore_class is None else loss.where(valid, 0.0)


def mean_sparse_categorical_crossentropy(y_true: Tensor, y_pred: Tensor, axis: int) -> Tensor | None:
    """The mean of sparse_categorical_crossentropy by torch's own reduction; None where that isn't faster."""
    if not _few_probabilities(y_pred, axis):
        return None
    return functional.nll_loss(_clipped_log(y_pred), class_numbers(y_true, y_pred, axis))


def class_numbers(y_true: Tensor, y_pred: Tensor, axis: int) -> Tensor:
    """Class indices without the axis of length 1 that they may have along `axis`."""
    labels = y_true.long()
    return labels.squeeze(axis) if labels.ndim == y_pred.ndim and labels.shape[axis] == 1 else labels


def _few_probabilities(y_pred: Tensor, axis: int) -> bool:
    return y_pred.ndim == 2 and y_pred.shape[1] <= FEW_CLASSES and _adds_up_to_1(y_pred, axis)


def categorical_generalized_cross_entropy(y_true: Tensor, y_pred: Tensor, q: float = 0.5) -> Tensor:
    """(1 - p^q) / q with the probability p of class `y_true`.

    Keras documents labels (N, 1), too, but broadcasts their one-hot form (N, 1, classes) against all predictions.
    """
    one_hot = functional.one_hot(y_true.long(), y_pred.shape[-1]).to(y_pred.dtype)
    return (1 - (y_pred * one_hot).sum(-1).pow(q)) / q


def ctc(y_true: Tensor, y_pred: Tensor) -> Tensor:
    """Connectionist temporal classification: (N, length) labels, padded with 0, and (N, steps, classes) logits."""
    labels = y_true.long()
    steps = torch.full((len(y_pred),), y_pred.shape[1], dtype=torch.long)
    log_p = functional.log_softmax(y_pred.transpose(0, 1), -1)
    return functional.ctc_loss(log_p, labels, steps, (labels != 0).sum(-1), blank=0, reduction="none")


def _total(x: Tensor, axis: tuple[int, ...] | None) -> Tensor:
    return x.sum() if axis is None else x.sum(axis)


def dice(y_true: Tensor, y_pred: Tensor, axis: tuple[int, ...] | None = None) -> Tensor:
    """1 - 2 sum y p / (sum y + sum p + epsilon) over `axis`; over all axes, one number for the batch, if None."""
    both = _total(y_true * y_pred, axis)
    return 1 - 2.0 * both / (_total(y_true, axis) + _total(y_pred, axis) + EPSILON)


def tversky(
    y_true: Tensor, y_pred: Tensor, alpha: float = 0.5, beta: float = 0.5, axis: tuple[int, ...] | None = None
) -> Tensor:
    """1 - tp / (tp + alpha fn + beta fp + epsilon) over `axis`, with alpha and beta as in Keras 3."""
    both = _total(y_true * y_pred, axis)
    missed = _total((1 - y_pred) * y_true, axis)
    wrong = _total(y_pred * (1 - y_true), axis)
    return 1 - both / (both + missed * alpha + wrong * beta + EPSILON)


def circle(
    y_true: Tensor, y_pred: Tensor, remove_diagonal: bool = True, gamma: float = 80.0, margin: float = 0.4
) -> Tensor:
    """Circle loss of l2-normalised embeddings with class labels, one value per row (Sun et al., 2020)."""
    distance = (1 - y_pred @ y_pred.T).clamp_min(0.0)
    labels = y_true.long().reshape(-1, 1)
    same = labels == labels.T
    other = ~same
    if remove_diagonal:
        same = same & ~torch.eye(len(labels), dtype=torch.bool, device=same.device)
    near = (margin + distance).where(same, 0.0).clamp_min(0.0)
    far = (1 + margin - distance).where(other, 0.0).clamp_min(0.0)
    positive = -gamma * near * (margin - distance)
    negative = gamma * far * (1 - margin - distance)
    p_loss = torch.logsumexp(positive.where(same, -torch.inf), 1)
    n_loss = torch.logsumexp(negative.where(other, -torch.inf), 1)
    return functional.softplus(p_loss + n_loss)
