"""Metrics of binary predictions at thresholds: counts of the confusion matrix, and ratios and areas from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from layergraph.config.options import Expected, boolean, fraction, integer, option, optional, positive_int
from layergraph.errors import ConfigError, DataError
from layergraph.functional.tensor import Shape
from layergraph.training.loss_functions import EPSILON, same_rank
from layergraph.training.losses import weights_like
from layergraph.training.metrics.metric import Metric, Result
from layergraph.training.options import (
    MOST_GIVEN_THRESHOLDS,
    MOST_THRESHOLDS,
    count,
    list_of,
    nonnegative,
    one_or_list_of,
)

Tensor = torch.Tensor

#: Value of predictions other than the k best, and the threshold below all others (Keras's NEG_INF).
LOWEST = -1e10


class Counts:
    """True and false positives by threshold, and numbers of positive and negative labels, as weighted sums.

    Tensors have the shape (thresholds,) or, for metrics by label, (thresholds, labels).
    """

    def __init__(self, thresholds: Sequence[float]) -> None:
        self._thresholds = np.asarray(thresholds, np.float64)
        steps = len(thresholds) - 1
        # Thresholds i / steps don't need a comparison with each of them (Keras's is_evenly_distributed_thresholds).
        self._even = steps >= 2 and np.allclose(self._thresholds, np.arange(steps + 1) / steps, atol=EPSILON)
        self._sums: tuple[Tensor, ...] | None = None

    @property
    def found(self) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """True positives, false positives, true negatives, false negatives; None before the first batch."""
        if self._sums is None:
            return None
        tp, fp, positive, negative = self._sums
        return tp, fp, negative - fp, positive - tp

    @property
    def sums(self) -> tuple[Tensor, ...] | None:
        """All sums, as the state of a metric; None before the first batch."""
        return self._sums

    @sums.setter
    def sums(self, value: tuple[Tensor, ...] | None) -> None:
        self._sums = value

    def take(self, labels: Tensor, predictions: Tensor, weights: Tensor | None) -> None:
        """Adds (N, labels) labels and predictions; `weights` broadcast to them."""
        positive = labels.bool().to(torch.float64)
        negative = 1.0 - positive
        if weights is not None:
            positive, negative = positive * weights, negative * weights
        by_threshold = self._buckets if self._even else self._compared
        now = (
            by_threshold(predictions, positive),
            by_threshold(predictions, negative),
            positive.sum(0),
            negative.sum(0),
        )
        self._sums = now if self._sums is None else tuple(a + b for a, b in zip(self._sums, now, strict=True))

    def _compared(self, predictions: Tensor, amounts: Tensor) -> Tensor:
        """Sums of `amounts` where predictions are above each threshold."""
        limits = torch.as_tensor(self._thresholds, dtype=predictions.dtype, device=predictions.device)
        above = predictions[None] > limits[:, None, None]
        return torch.where(above, amounts[None], 0.0).sum(1)

    def _buckets(self, predictions: Tensor, amounts: Tensor) -> Tensor:
        """The same for evenly spaced thresholds: a histogram, summed up from the highest threshold down."""
        count = len(self._thresholds)
        places = (torch.ceil(predictions.clamp(0.0, 1.0) * (count - 1)) - 1).long()
        if self._thresholds[0] < 0.0 or self._thresholds[-1] > 1.0:
            places = places.clamp_min(0)
        # A prediction of 0 is above no threshold: it goes to an extra bucket, which is dropped.
        places = places.where(places >= 0, count)
        buckets = amounts.new_zeros((count + 1, amounts.shape[1]))
        return buckets.scatter_add_(0, places, amounts)[:count].flip(0).cumsum(0).flip(0)


class _Confusion(Metric):
    """Base of metrics on confusion matrices at `thresholds`."""

    state_names = ("sums",)
    top_k: int | None = None
    class_id: int | None = None

    def thresholds_used(self) -> Sequence[float]:
        """The thresholds at which predictions are counted."""
        raise NotImplementedError

    def setup(self) -> None:
        self._counts = Counts(self.thresholds_used())
        super().setup()

    def reset(self) -> None:
        self._counts.sums = None

    @property
    def sums(self) -> tuple[Tensor, ...] | None:
        """The metric's state."""
        return self._counts.sums

    @sums.setter
    def sums(self, value: tuple[Tensor, ...] | None) -> None:
        self._counts.sums = value

    def check_shapes(self, labels: Shape, predictions: Shape) -> None:
        classes = predictions[-1] if predictions else 1
        if self.top_k is not None and classes is not None and self.top_k > classes:
            raise DataError(
                f"metric '{self.name}': top_k is {self.top_k}, expected at most {classes} for predictions {predictions}"
            )
        if self.class_id is None:
            return
        if len(predictions) < 2 or (classes is not None and not 0 <= self.class_id < classes):
            raise DataError(
                f"metric '{self.name}': class_id is {self.class_id}, expected a class of predictions {predictions}"
            )

    def update(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        y_pred, y_true = same_rank(y_pred.float(), y_true)
        weights = None if sample_weight is None else weights_like(y_true, sample_weight)
        if self.top_k is not None:
            best = y_pred.topk(self.top_k, -1).indices
            y_pred = torch.full_like(y_pred, LOWEST).scatter(-1, best, y_pred.gather(-1, best))
        if self.class_id is not None:
            # A slice keeps the axis, so that weights still broadcast.
            chosen = slice(self.class_id, self.class_id + 1)
            y_true, y_pred = y_true[..., chosen], y_pred[..., chosen]
        self.count(y_true, y_pred, weights)

    def count(self, y_true: Tensor, y_pred: Tensor, weights: Tensor | None) -> None:
        """Counts all elements together."""
        if weights is not None:
            weights = weights.expand(y_pred.shape).reshape(-1, 1)
        self._counts.take(y_true.reshape(-1, 1), y_pred.reshape(-1, 1), weights)

    def outcomes(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """True positives, false positives, true negatives, false negatives by threshold."""
        found = self._counts.found
        if found is None:
            zeros = torch.zeros(len(self.thresholds_used()), dtype=torch.float64)
            return zeros, zeros, zeros, zeros
        tp, fp, tn, fn = (count[:, 0] for count in found)
        return tp, fp, tn, fn


def _single(values: Tensor) -> Result:
    """The only number, or all of them."""
    return float(values[0]) if len(values) == 1 else np.asarray(values.float().cpu())


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole; 0 where `whole` is 0."""
    return torch.where(whole == 0, 0.0, part / whole)


_thresholds = one_or_list_of(fraction, MOST_GIVEN_THRESHOLDS)


class _AtThresholds(_Confusion):
    """Base of metrics with one result per given threshold."""

    thresholds: float | tuple[float, ...] | None = option(optional(_thresholds), default=None)

    def thresholds_used(self) -> Sequence[float]:
        if self.thresholds is None:
            return (0.5 if self.top_k is None else LOWEST,)
        return self.thresholds if isinstance(self.thresholds, tuple) else (self.thresholds,)


class TruePositives(_AtThresholds):
    """Weighted number of positive labels that are predicted positive (keras.metrics.TruePositives)."""

    def result(self) -> Result:
        return _single(self.outcomes()[0])


class FalsePositives(_AtThresholds):
    """Weighted number of negative labels that are predicted positive (keras.metrics.FalsePositives)."""

    def result(self) -> Result:
        return _single(self.outcomes()[1])


class TrueNegatives(_AtThresholds):
    """Weighted number of negative labels that are predicted negative (keras.metrics.TrueNegatives)."""

    def result(self) -> Result:
        return _single(self.outcomes()[2])


class FalseNegatives(_AtThresholds):
    """Weighted number of positive labels that are predicted negative (keras.metrics.FalseNegatives)."""

    def result(self) -> Result:
        return _single(self.outcomes()[3])


class Precision(_AtThresholds):
    """Fraction of the positive predictions that are true (keras.metrics.Precision).

    top_k      only the k largest predictions of a row count as positive
    class_id   index of the only class that is counted
    """

    direction = "up"
    thresholds: float | tuple[float, ...] | None = option(optional(_thresholds), default=None)
    top_k: int | None = option(optional(positive_int), default=None)
    class_id: int | None = option(optional(integer), default=None)

    def result(self) -> Result:
        tp, fp, _, _ = self.outcomes()
        return _single(_share(tp, tp + fp))


class Recall(_AtThresholds):
    """Fraction of the positive labels that are predicted positive (keras.metrics.Recall); options as for Precision."""

    direction = "up"
    thresholds: float | tuple[float, ...] | None = option(optional(_thresholds), default=None)
    top_k: int | None = option(optional(positive_int), default=None)
    class_id: int | None = option(optional(integer), default=None)

    def result(self) -> Result:
        tp, _, _, fn = self.outcomes()
        return _single(_share(tp, tp + fn))


class _AtConstraint(_Confusion):
    """Base of metrics that maximise one ratio over the thresholds at which another is at least a given value."""

    direction = "up"
    num_thresholds: int = option(count(MOST_THRESHOLDS), default=200)
    class_id: int | None = option(optional(integer), default=None)

    #: Name of the option with that value.
    constraint: ClassVar[str]

    def thresholds_used(self) -> Sequence[float]:
        if self.num_thresholds == 1:
            return (0.5,)
        return [index / (self.num_thresholds - 1) for index in range(self.num_thresholds)]

    def shares(self) -> tuple[Tensor, Tensor]:
        """The constrained ratio and the maximised ratio, by threshold."""
        raise NotImplementedError

    def result(self) -> Result:
        constrained, wanted = self.shares()
        # As in Keras, compared in float32.
        feasible = constrained.float() >= float(getattr(self, self.constraint))
        return float(torch.where(feasible, wanted, 0.0).max())


class SensitivityAtSpecificity(_AtConstraint):
    """Best sensitivity where specificity is at least a value (keras.metrics.SensitivityAtSpecificity)."""

    constraint = "specificity"
    specificity: float = option(fraction)  # type: ignore[misc]
    num_thresholds: int = option(count(MOST_THRESHOLDS), default=200)
    class_id: int | None = option(optional(integer), default=None)

    def shares(self) -> tuple[Tensor, Tensor]:
        tp, fp, tn, fn = self.outcomes()
        return _share(tn, tn + fp), _share(tp, tp + fn)


class SpecificityAtSensitivity(_AtConstraint):
    """Best specificity where sensitivity is at least a value (keras.metrics.SpecificityAtSensitivity)."""

    constraint = "sensitivity"
    sensitivity: float = option(fraction)  # type: ignore[misc]
    num_thresholds: int = option(count(MOST_THRESHOLDS), default=200)
    class_id: int | None = option(optional(integer), default=None)

    def shares(self) -> tuple[Tensor, Tensor]:
        tp, fp, tn, fn = self.outcomes()
        return _share(tp, tp + fn), _share(tn, tn + fp)


class PrecisionAtRecall(_AtConstraint):
    """Best precision where recall is at least a value (keras.metrics.PrecisionAtRecall)."""

    constraint = "recall"
    recall: float = option(fraction)  # type: ignore[misc]
    num_thresholds: int = option(count(MOST_THRESHOLDS), default=200)
    class_id: int | None = option(optional(integer), default=None)

    def shares(self) -> tuple[Tensor, Tensor]:
        tp, fp, _, fn = self.outcomes()
        return _share(tp, tp + fn), _share(tp, tp + fp)


class RecallAtPrecision(_AtConstraint):
    """Best recall where precision is at least a value (keras.metrics.RecallAtPrecision)."""

    constraint = "precision"
    precision: float = option(fraction)  # type: ignore[misc]
    num_thresholds: int = option(count(MOST_THRESHOLDS), default=200)
    class_id: int | None = option(optional(integer), default=None)

    def shares(self) -> tuple[Tensor, Tensor]:
        tp, fp, _, fn = self.outcomes()
        return _share(tp, tp + fp), _share(tp, tp + fn)


def _word(*choices: str) -> Any:
    """Validator: one of the words in any case, returned in the spelling of `choices`. tf_keras 2.21 writes PR_GAIN."""

    def validate(value: Any) -> str:
        for choice in choices:
            if isinstance(value, str) and value.replace("_", "").lower() == choice.lower():
                return choice
        raise Expected(" or ".join(repr(choice) for choice in choices))

    return validate


class AUC(_Confusion):
    """Area under the ROC or precision-recall curve, approximated at thresholds (keras.metrics.AUC).

    curve              'ROC', 'PR' or 'PRGAIN'
    summation_method   'interpolation', 'minoring' or 'majoring' of the curve between thresholds
    multi_label        average of one area per label, weighted by `label_weights`
    label_weights      without multi_label, weights of the predictions by label
    from_logits        apply a sigmoid to the predictions first
    """

    direction = "up"
    default_name = "auc"
    num_thresholds: int = option(count(MOST_THRESHOLDS, 2), default=200)
    curve: str = option(_word("ROC", "PR", "PRGAIN"), default="ROC")
    summation_method: str = option(_word("interpolation", "majoring", "minoring"), default="interpolation")
    thresholds: tuple[float, ...] | None = option(
        optional(list_of(fraction, MOST_GIVEN_THRESHOLDS)), default=None, kw_only=True
    )
    multi_label: bool = option(boolean, default=False, kw_only=True)
    num_labels: int | None = option(optional(positive_int), default=None, kw_only=True)
    label_weights: tuple[float, ...] | None = option(optional(list_of(nonnegative)), default=None, kw_only=True)
    from_logits: bool = option(boolean, default=False, kw_only=True)

    def setup(self) -> None:
        if self.num_labels and not self.multi_label:
            raise ConfigError("AUC: option 'num_labels' is only for multi_label")
        super().setup()

    def thresholds_used(self) -> Sequence[float]:
        between: Sequence[float] = [i / (self.num_thresholds - 1) for i in range(1, self.num_thresholds - 1)]
        if self.thresholds is not None:
            between = sorted(self.thresholds)
        return [0.0 - EPSILON, *between, 1.0 + EPSILON]

    def check_shapes(self, labels: Shape, predictions: Shape) -> None:
        if self.multi_label and len(predictions) != 2:
            raise DataError(f"metric '{self.name}': predictions have shape {predictions}, expected (rows, labels)")

    def count(self, y_true: Tensor, y_pred: Tensor, weights: Tensor | None) -> None:
        if self.from_logits:
            y_pred = torch.sigmoid(y_pred)
        if self.multi_label:
            self._counts.take(y_true, y_pred, weights)
            return
        if self.label_weights is not None:
            by_label = torch.as_tensor(self.label_weights, dtype=y_pred.dtype, device=y_pred.device)
            by_label = by_label.expand(y_pred.shape)
            weights = by_label if weights is None else weights * by_label
        super().count(y_true, y_pred, weights)

    def result(self) -> Result:
        if self._counts.found is None:
            return 0.0
        areas = self._areas(*self._counts.found)  # (labels,)
        if self.multi_label and self.label_weights is not None:
            weights = torch.as_tensor(self.label_weights, dtype=areas.dtype, device=areas.device)
            return float(_share((areas * weights).sum(), weights.sum()))
        return float(areas.mean())

    def _areas(self, tp: Tensor, fp: Tensor, tn: Tensor, fn: Tensor) -> Tensor:
        if self.curve == "PR" and self.summation_method == "interpolation":
            return _interpolated_pr(tp, fp, fn)
        x, y = self._curve(tp, fp, tn, fn)
        ends = {"interpolation": (y[:-1] + y[1:]) / 2.0, "minoring": torch.minimum(y[:-1], y[1:])}
        heights = ends.get(self.summation_method, torch.maximum(y[:-1], y[1:]))
        return ((x[:-1] - x[1:]) * heights).sum(0)

    def _curve(self, tp: Tensor, fp: Tensor, tn: Tensor, fn: Tensor) -> tuple[Tensor, Tensor]:
        recall = _share(tp, tp + fn)
        if self.curve == "ROC":
            return _share(fp, fp + tn), recall
        if self.curve == "PR":
            return recall, _share(tp, tp + fp)
        scale = _share(tp + fn, tn + fp)
        recall_gain = torch.where(tp == 0, 0.0, 1.0 - scale * _share(fn, tp))
        precision_gain = torch.where(tp == 0, 1.0, 1.0 - scale * _share(fp, tp))
        return recall_gain.clamp_min(0.0), precision_gain


def _interpolated_pr(tp: Tensor, fp: Tensor, fn: Tensor) -> Tensor:
    """Area under the precision-recall curve by Davis & Goadrich, 2006 (Keras's interpolate_pr_auc)."""
    more = tp[:-1] - tp[1:]
    found = tp + fp
    slope = _share(more, (found[:-1] - found[1:]).clamp_min(0.0))
    intercept = tp[1:] - slope * found[1:]
    both = (found[:-1] > 0) & (found[1:] > 0)
    ratio = torch.where(both, _share(found[:-1], found[1:].clamp_min(0.0)), 1.0)
    steps = _share(slope * (more + intercept * ratio.log()), (tp[1:] + fn[1:]).clamp_min(0.0))
    return steps.sum(0)


#: The metrics of this module.
METRICS = (
    TruePositives,
    FalsePositives,
    TrueNegatives,
    FalseNegatives,
    Precision,
    Recall,
    SensitivityAtSpecificity,
    SpecificityAtSensitivity,
    PrecisionAtRecall,
    RecallAtPrecision,
    AUC,
)
