"""Metrics that are means of values, by Keras's names."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from layergraph.config.options import boolean, fraction, integer, option, optional, positive_int
from layergraph.config.training_rules import TrainingRules
from layergraph.errors import ConfigError
from layergraph.training import loss_functions
from layergraph.training.keras2_functions import function_for
from layergraph.training.losses import weights_like
from layergraph.training.metrics import functions
from layergraph.training.metrics.metric import FunctionMean, LossMean, MeanOfValues, Metric
from layergraph.training.options import number

Tensor = torch.Tensor


class Accuracy(FunctionMean):
    """Fraction of predictions that equal their label (keras.metrics.Accuracy)."""

    function = functions.accuracy
    direction = "up"


class BinaryAccuracy(FunctionMean):
    """Fraction of correct binary predictions (keras.metrics.BinaryAccuracy)."""

    function = functions.binary_accuracy
    direction = "up"
    threshold: float = option(number, default=0.5)

    def follow(self, rules: TrainingRules) -> None:
        super().follow(rules)
        if rules.rounds_predictions:
            self._computed = functions.rounded_binary_accuracy


class CategoricalAccuracy(FunctionMean):
    """Fraction of correct classes, for one-hot labels (keras.metrics.CategoricalAccuracy)."""

    function = functions.categorical_accuracy
    direction = "up"


class SparseCategoricalAccuracy(FunctionMean):
    """Fraction of correct classes, for class indices as labels (keras.metrics.SparseCategoricalAccuracy)."""

    function = functions.sparse_categorical_accuracy
    direction = "up"


class TopKCategoricalAccuracy(FunctionMean):
    """Fraction of labels among the k best predictions, one-hot (keras.metrics.TopKCategoricalAccuracy)."""

    function = functions.top_k_categorical_accuracy
    direction = "up"
    k: int = option(positive_int, default=5)


class SparseTopKCategoricalAccuracy(FunctionMean):
    """Fraction of labels among the k best predictions, class indices (keras.metrics.SparseTopKCategoricalAccuracy)."""

    function = functions.sparse_top_k_categorical_accuracy
    direction = "up"
    k: int = option(positive_int, default=5)
    from_sorted_ids: bool = option(boolean, default=False, kw_only=True)


class BinaryCrossentropy(LossMean):
    """Mean binary crossentropy (keras.metrics.BinaryCrossentropy)."""

    function = loss_functions.binary_crossentropy
    from_logits: bool = option(boolean, default=False)
    label_smoothing: float = option(fraction, default=0.0)


class CategoricalCrossentropy(LossMean):
    """Mean crossentropy of one-hot labels (keras.metrics.CategoricalCrossentropy)."""

    function = loss_functions.categorical_crossentropy
    from_logits: bool = option(boolean, default=False)
    label_smoothing: float = option(fraction, default=0.0)
    axis: int = option(integer, default=-1)


class SparseCategoricalCrossentropy(FunctionMean):
    """Mean crossentropy for class indices as labels (keras.metrics.SparseCategoricalCrossentropy).

    As in Keras 3, ignored classes count as 0 without sample weights, and are left out with sample weights. Keras 2
    always leaves them out.
    """

    function = loss_functions.sparse_categorical_crossentropy
    direction = "down"
    from_logits: bool = option(boolean, default=False)
    ignore_class: int | None = option(optional(integer), default=None)
    axis: int = option(integer, default=-1)

    def update(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        values = self.values(y_true, y_pred)
        if self.ignore_class is not None and (sample_weight is not None or self.reads_logits):
            valid = (y_true != self.ignore_class).reshape(values.shape).to(torch.float32)
            sample_weight = valid if sample_weight is None else weights_like(valid, sample_weight) * valid
        self.accumulate(values, sample_weight)


class KLDivergence(LossMean):
    """Mean Kullback-Leibler divergence (keras.metrics.KLDivergence)."""

    function = loss_functions.kl_divergence
    fits_ranks = False
    default_name = "kl_divergence"


class Poisson(LossMean):
    """Mean Poisson loss (keras.metrics.Poisson)."""

    function = loss_functions.poisson
    fits_ranks = False


class MeanSquaredError(LossMean):
    """Mean of squared errors (keras.metrics.MeanSquaredError)."""

    function = loss_functions.mean_squared_error


class MeanAbsoluteError(LossMean):
    """Mean of absolute errors (keras.metrics.MeanAbsoluteError)."""

    function = loss_functions.mean_absolute_error


class MeanAbsolutePercentageError(LossMean):
    """Mean of absolute errors in percent of the labels (keras.metrics.MeanAbsolutePercentageError)."""

    function = loss_functions.mean_absolute_percentage_error


class MeanSquaredLogarithmicError(LossMean):
    """Mean of squared differences of logarithms (keras.metrics.MeanSquaredLogarithmicError)."""

    function = loss_functions.mean_squared_logarithmic_error


class CosineSimilarity(LossMean):
    """Mean cosine between labels and predictions (keras.metrics.CosineSimilarity)."""

    function = functions.cosine_similarity
    direction = "up"
    axis: int = option(integer, default=-1)

    def follow(self, rules: TrainingRules) -> None:
        super().follow(rules)
        if rules.negates_cosines:
            self._computed = function_for(loss_functions.cosine_similarity, rules)


class LogCoshError(LossMean):
    """Mean log(cosh(error)) (keras.metrics.LogCoshError)."""

    function = loss_functions.log_cosh
    default_name = "logcosh"


class Hinge(LossMean):
    """Mean hinge loss (keras.metrics.Hinge)."""

    function = loss_functions.hinge
    fits_ranks = False


class SquaredHinge(LossMean):
    """Mean squared hinge loss (keras.metrics.SquaredHinge)."""

    function = loss_functions.squared_hinge
    fits_ranks = False


class CategoricalHinge(LossMean):
    """Mean categorical hinge loss (keras.metrics.CategoricalHinge)."""

    function = loss_functions.categorical_hinge
    fits_ranks = False


class RootMeanSquaredError(MeanOfValues):
    """Root of the epoch's mean squared error (keras.metrics.RootMeanSquaredError)."""

    direction = "down"

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return functions.squared_error(y_true.to(y_pred.dtype), y_pred)

    def result(self) -> float:
        mean = super().result()
        # Negative sample weights may make the mean negative.
        return math.sqrt(mean) if mean >= 0 else math.nan


def _normalizer(value: Any) -> Any:
    """Validator: a number, or nested lists of numbers."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        value = value.tolist()
    return tuple(_normalizer(item) for item in value) if isinstance(value, (list, tuple)) else number(value)


class MeanRelativeError(MeanOfValues):
    """Mean of |y - p| / normalizer, 0 where the normalizer is 0 (Keras 2's keras.metrics.MeanRelativeError)."""

    direction = "down"
    normalizer: Any = option(_normalizer)

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, y_pred = loss_functions.same_rank(y_true, y_pred)
        by = torch.as_tensor(self.normalizer, dtype=y_pred.dtype, device=y_pred.device)
        return torch.where(by == 0, 0.0, (y_true - y_pred).abs() / torch.where(by == 0, 1.0, by))


class PearsonCorrelation(LossMean):
    """Mean Pearson correlation of labels and predictions along `axis` (keras.metrics.PearsonCorrelation)."""

    function = functions.pearson_correlation
    direction = "up"
    axis: int = option(integer, default=-1)


class ConcordanceCorrelation(LossMean):
    """Mean concordance correlation of labels and predictions along `axis` (keras.metrics.ConcordanceCorrelation)."""

    function = functions.concordance_correlation
    direction = "up"
    axis: int = option(integer, default=-1)


class Sum(Metric):
    """Weighted sum (keras.metrics.Sum). As a metric of an output, as in Keras, the labels weighted by predictions."""

    state_names = ("_total",)

    def reset(self) -> None:
        self._total: Tensor | None = None

    def update(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        if sample_weight is not None:
            raise ConfigError(f"metric '{self.name}' doesn't support sample weights")
        total = (y_true * weights_like(y_true, y_pred)).sum(dtype=torch.float64)
        self._total = total if self._total is None else self._total + total

    def result(self) -> float:
        return 0.0 if self._total is None else float(self._total)


#: The metrics of this module.
METRICS = (
    Accuracy,
    BinaryAccuracy,
    CategoricalAccuracy,
    SparseCategoricalAccuracy,
    TopKCategoricalAccuracy,
    SparseTopKCategoricalAccuracy,
    BinaryCrossentropy,
    CategoricalCrossentropy,
    SparseCategoricalCrossentropy,
    KLDivergence,
    Poisson,
    MeanSquaredError,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredLogarithmicError,
    CosineSimilarity,
    LogCoshError,
    Hinge,
    SquaredHinge,
    CategoricalHinge,
    RootMeanSquaredError,
    MeanRelativeError,
    PearsonCorrelation,
    ConcordanceCorrelation,
    Sum,
)
