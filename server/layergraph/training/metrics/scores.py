"""Scores over whole epochs by class or output: F scores and the coefficient of determination."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from layergraph.config.options import Expected, fraction, nonnegative_int, one_of, option, optional
from layergraph.errors import DataError
from layergraph.functional.tensor import Shape
from layergraph.training.loss_functions import EPSILON, same_rank
from layergraph.training.losses import weights_like
from layergraph.training.metrics.metric import Metric, Result
from layergraph.training.options import number

Tensor = torch.Tensor


def _positive(value: Any) -> float:
    result = number(value)
    if result <= 0:
        raise Expected("a number above 0")
    return result


def _threshold(value: Any) -> float:
    result = fraction(value)
    if result == 0:
        raise Expected("a number above 0, at most 1")
    return result


class FBetaScore(Metric):
    """(1 + beta^2) precision x recall / (beta^2 precision + recall) by class (keras.metrics.FBetaScore).

    average     None: a number per class; 'macro': their mean; 'weighted': their mean weighted by the number of labels
                of each class; 'micro': computed over all classes together
    threshold   predictions above it are positive; None: the largest prediction of each row is
    """

    direction = "up"
    default_name = "fbeta_score"
    state_names = ("_sums",)
    average: str | None = option(optional(one_of("micro", "macro", "weighted")), default=None)
    beta: float = option(_positive, default=1.0)
    threshold: float | None = option(optional(_threshold), default=None)

    def reset(self) -> None:
        self._sums: Tensor | None = None

    def check_shapes(self, labels: Shape, predictions: Shape) -> None:
        if len(predictions) != 2 or len(labels) != 2:
            raise DataError(
                f"metric '{self.name}': labels have shape {labels} and predictions {predictions}, expected (rows, "
                "classes) for both"
            )

    def update(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        y_true = y_true.to(torch.float64)
        if self.threshold is None:
            found = (y_pred >= y_pred.amax(-1, keepdim=True)) & (y_pred.abs() > 1e-9)
        else:
            found = y_pred > self.threshold
        positive = found.to(torch.float64)
        outcomes = torch.stack([positive * y_true, positive * (1 - y_true), (1 - positive) * y_true])  # (3, N, classes)
        if sample_weight is None:
            sums = outcomes.sum(1)
        elif self.average == "micro" and sample_weight.ndim == 2:
            # Keras broadcasts weights (N, 1) to (N, N, classes), so each row is weighted by the sum of all weights.
            sums = outcomes.sum(1) * sample_weight.sum()
        else:
            sums = (outcomes * weights_like(y_true, sample_weight)).sum(1)
        self._sums = sums if self._sums is None else self._sums + sums

    def result(self) -> Result:
        if self._sums is None:
            return 0.0
        sums = self._sums.sum(1, keepdim=True) if self.average == "micro" else self._sums
        tp, fp, fn = sums
        precision, recall = tp / (tp + fp + EPSILON), tp / (tp + fn + EPSILON)
        squared = self.beta**2
        scores = (1 + squared) * (precision * recall / (squared * precision + recall + EPSILON))
        if self.average is None:
            return np.asarray(scores.float().cpu())
        if self.average == "weighted":
            of_class = tp + fn
            return float((scores * of_class / (of_class.sum() + EPSILON)).sum())
        return float(scores.mean())


class F1Score(FBetaScore):
    """FBetaScore with beta 1 (keras.metrics.F1Score)."""

    default_name = "f1_score"
    average: str | None = option(optional(one_of("micro", "macro", "weighted")), default=None)
    threshold: float | None = option(optional(_threshold), default=None)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["beta"]
        return config


class R2Score(Metric):
    """1 - squared errors / squared distances of the labels from their mean (keras.metrics.R2Score).

    class_aggregation   None: a number per output; 'uniform_average': their mean; 'variance_weighted_average'
    num_regressors      number of regressors for the adjusted score; 0 for the plain score
    """

    direction = "up"
    default_name = "r2_score"
    state_names = ("_sums", "_samples")
    class_aggregation: str | None = option(
        optional(one_of("uniform_average", "variance_weighted_average")), default="uniform_average"
    )
    num_regressors: int = option(nonnegative_int, default=0)

    def reset(self) -> None:
        self._sums: Tensor | None = None
        self._samples = 0

    def check_shapes(self, labels: Shape, predictions: Shape) -> None:
        rank = len(predictions)
        if len(labels) == rank - 1 and predictions[-1] == 1:
            # Predictions lose their last axis; labels (N,) get one instead.
            rank = max(2, rank - 1)
        elif len(labels) == rank + 1 and labels[-1] == 1 and rank == 1:
            rank = 2
        if rank != 2:
            raise DataError(f"metric '{self.name}': predictions have shape {predictions}, expected (rows, outputs)")

    def update(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        y_true, y_pred = same_rank(y_true.to(torch.float64), y_pred.to(torch.float64))
        weights = torch.ones_like(y_true) if sample_weight is None else weights_like(y_true, sample_weight)
        errors = (y_true - y_pred).square()
        # As in Keras, labels of one column are broadcast to all outputs.
        labels = y_true.expand_as(errors)
        terms = torch.stack([labels, labels.square(), errors, torch.ones_like(errors)])
        sums = (terms * weights).sum(1)  # (4, outputs)
        self._sums = sums if self._sums is None else self._sums + sums
        # As in Keras, the number of elements, not of rows.
        self._samples += y_true.numel()

    def result(self) -> Result:
        if self._sums is None:
            return 0.0
        labels, squares, errors, count = self._sums
        # Evaluated in this order, equal labels give exactly 0.
        spread = squares - labels * (labels / count)
        scores = 1 - errors / spread
        scores = torch.where(scores.isinf(), 0.0, scores)
        if self.class_aggregation is None:
            return np.asarray(self._adjusted(scores).float().cpu())
        if self.class_aggregation == "uniform_average":
            return float(self._adjusted(scores.mean()))
        return float(self._adjusted((spread * scores).sum() / spread.sum()))

    def _adjusted(self, score: Tensor) -> Tensor:
        left = self._samples - self.num_regressors - 1
        if self.num_regressors == 0 or left <= 0:
            return score
        return 1 - (1 - score) * (self._samples - 1) / left


#: The metrics of this module.
METRICS = (
    FBetaScore,
    F1Score,
    R2Score,
)
