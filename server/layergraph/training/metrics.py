"""Metrics: numbers about an epoch, accumulated on the device and read when asked for, by Keras's names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from typing_extensions import Self

from layergraph.config.options import (
    Configurable,
    anything,
    boolean,
    brief,
    fraction,
    integer,
    number,
    option,
    optional,
    positive_int,
    resolve,
    serialized,
    text,
)
from layergraph.errors import ConfigError, unknown_name
from layergraph.functional.naming import snake_case
from layergraph.training import loss_functions
from layergraph.training import metric_functions as functions
from layergraph.training.loss_functions import same_rank
from layergraph.training.losses import weights_like

Tensor = torch.Tensor


class Metric(Configurable):
    """A number about all batches since the last `reset` (keras.metrics.Metric)."""

    name: str = option(optional(text), default=None, kw_only=True)
    dtype: Any = option(anything, default=None, kw_only=True)

    #: The name of one without a name, where it isn't the class's in snake case.
    default_name: ClassVar[str | None] = None
    #: Whether more is better ("up"), less ("down"), or neither is known.
    direction: ClassVar[str | None] = None
    #: Whether a mask of the predictions leaves out what it masks. Keras 3: only the means of functions.
    masked: ClassVar[bool] = False

    def setup(self) -> None:
        if self.name is None:
            self.name = self.default_name or snake_case(type(self).__name__)
        self.reset()

    def reset(self) -> None:
        """Forgets all batches."""
        raise NotImplementedError

    def update(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        """Takes a batch in; nothing waits for the device."""
        raise NotImplementedError

    def result(self) -> float:
        """The number so far; 0 before the first batch. Waits for the device."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {"name": self.name, "dtype": config.pop("dtype") or "float32", **config}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        # Keras 2 writes the wrapped function of some classes as well.
        return cls(**{name: value for name, value in config.items() if name != "fn"})


class Mean(Metric):
    """Weighted mean of what `values` gives for each sample (keras.metrics.Mean, MeanMetricWrapper)."""

    def reset(self) -> None:
        self._total: Tensor | None = None
        self._count: Tensor | float = 0.0

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """A value for each sample, step or element; booleans count as 0 and 1."""
        raise NotImplementedError

    def update(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        self.accumulate(self.values(y_true, y_pred), sample_weight)

    def accumulate(self, values: Tensor, weights: Tensor | None = None) -> None:
        """Takes values in as Keras's Mean does: all axes but the first are averaged, weights together with values."""
        if self._total is None:
            # Sums of many batches in float32 would lose digits.
            self._total = torch.zeros((), dtype=torch.float64, device=values.device)
        if weights is None:
            rows = values.shape[0] if values.ndim else 1
            self._total.add_(values.sum(), alpha=_per_row(values))
            self._count = self._count + rows
            return
        weights = weights_like(values, weights) if weights.ndim > values.ndim else weights
        if values.ndim > weights.ndim:
            values = values.float().mean(tuple(range(weights.ndim, values.ndim)))
        weights = weights.expand(values.shape) if weights.ndim == values.ndim else weights
        self._total.add_((values * weights).sum(), alpha=_per_row(values))
        self._count = self._count + weights.sum(dtype=torch.float64) * _per_row(weights)

    def result(self) -> float:
        count = float(self._count)
        return 0.0 if self._total is None or count == 0 else float(self._total) / count


def _per_row(values: Tensor) -> float:
    """1 over the number of elements that a row has."""
    return 1.0 / max(1, math.prod(values.shape[1:]))


class FunctionMean(Mean):
    """Mean of a function of labels and predictions (keras.metrics.MeanMetricWrapper)."""

    masked = True
    function: ClassVar[Callable[..., Tensor]]

    def setup(self) -> None:
        super().setup()
        self._arguments = {name: getattr(self, name) for name in self._options if name not in ("name", "dtype")}

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return type(self).function(y_true, y_pred, **self._arguments)


class _LossMean(FunctionMean):
    """Mean of a loss function, for which ranks and types of the labels are fitted first."""

    direction = "down"

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        y_true, y_pred = same_rank(y_true, y_pred)
        return super().values(y_true.to(y_pred.dtype), y_pred)


class Accuracy(FunctionMean):
    """Share of predictions that equal their label (keras.metrics.Accuracy)."""

    function = functions.accuracy
    direction = "up"


class BinaryAccuracy(FunctionMean):
    """Share of right yes/no answers (keras.metrics.BinaryAccuracy)."""

    function = functions.binary_accuracy
    direction = "up"
    threshold: float = option(number, default=0.5)


class CategoricalAccuracy(FunctionMean):
    """Share of right classes, labels one-hot (keras.metrics.CategoricalAccuracy)."""

    function = functions.categorical_accuracy
    direction = "up"


class SparseCategoricalAccuracy(FunctionMean):
    """Share of right classes, labels class numbers (keras.metrics.SparseCategoricalAccuracy)."""

    function = functions.sparse_categorical_accuracy
    direction = "up"


class TopKCategoricalAccuracy(FunctionMean):
    """Share of labels among the k best, one-hot (keras.metrics.TopKCategoricalAccuracy)."""

    function = functions.top_k_categorical_accuracy
    direction = "up"
    k: int = option(positive_int, default=5)


class SparseTopKCategoricalAccuracy(FunctionMean):
    """Share of labels among the k best, class numbers (keras.metrics.SparseTopKCategoricalAccuracy)."""

    function = functions.sparse_top_k_categorical_accuracy
    direction = "up"
    k: int = option(positive_int, default=5)
    from_sorted_ids: bool = option(boolean, default=False, kw_only=True)


class BinaryCrossentropy(_LossMean):
    """Mean binary crossentropy (keras.metrics.BinaryCrossentropy)."""

    function = loss_functions.binary_crossentropy
    from_logits: bool = option(boolean, default=False)
    label_smoothing: float = option(fraction, default=0.0)


class CategoricalCrossentropy(_LossMean):
    """Mean crossentropy of one-hot labels (keras.metrics.CategoricalCrossentropy)."""

    function = loss_functions.categorical_crossentropy
    from_logits: bool = option(boolean, default=False)
    label_smoothing: float = option(fraction, default=0.0)
    axis: int = option(integer, default=-1)


class SparseCategoricalCrossentropy(FunctionMean):
    """Mean crossentropy of class numbers (keras.metrics.SparseCategoricalCrossentropy).

    As in Keras 3, ignored classes count as 0 without sample weights, and not at all with them.
    """

    function = loss_functions.sparse_categorical_crossentropy
    direction = "down"
    from_logits: bool = option(boolean, default=False)
    ignore_class: int | None = option(optional(integer), default=None)
    axis: int = option(integer, default=-1)

    def update(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        values = self.values(y_true, y_pred)
        if sample_weight is not None and self.ignore_class is not None:
            valid = (y_true != self.ignore_class).reshape(values.shape).to(torch.float32)
            sample_weight = weights_like(valid, sample_weight) * valid
        self.accumulate(values, sample_weight)


class KLDivergence(_LossMean):
    """Mean Kullback-Leibler divergence (keras.metrics.KLDivergence)."""

    function = loss_functions.kl_divergence
    default_name = "kl_divergence"


class Poisson(_LossMean):
    """Mean Poisson loss (keras.metrics.Poisson)."""

    function = loss_functions.poisson


class MeanSquaredError(_LossMean):
    """Mean of squared errors (keras.metrics.MeanSquaredError)."""

    function = loss_functions.mean_squared_error


class MeanAbsoluteError(_LossMean):
    """Mean of absolute errors (keras.metrics.MeanAbsoluteError)."""

    function = loss_functions.mean_absolute_error


class MeanAbsolutePercentageError(_LossMean):
    """Mean of errors in percent of the labels (keras.metrics.MeanAbsolutePercentageError)."""

    function = loss_functions.mean_absolute_percentage_error


class MeanSquaredLogarithmicError(_LossMean):
    """Mean of squared errors of logarithms (keras.metrics.MeanSquaredLogarithmicError)."""

    function = loss_functions.mean_squared_logarithmic_error


class CosineSimilarity(_LossMean):
    """Mean cosine between labels and predictions (keras.metrics.CosineSimilarity)."""

    function = functions.cosine_similarity
    direction = "up"
    axis: int = option(integer, default=-1)


class LogCoshError(_LossMean):
    """Mean log(cosh(error)) (keras.metrics.LogCoshError)."""

    function = loss_functions.log_cosh
    default_name = "logcosh"


class Hinge(_LossMean):
    """Mean hinge loss (keras.metrics.Hinge)."""

    function = loss_functions.hinge


class SquaredHinge(_LossMean):
    """Mean squared hinge loss (keras.metrics.SquaredHinge)."""

    function = loss_functions.squared_hinge


class CategoricalHinge(_LossMean):
    """Mean categorical hinge loss (keras.metrics.CategoricalHinge)."""

    function = loss_functions.categorical_hinge


class RootMeanSquaredError(Mean):
    """Root of the epoch's mean squared error (keras.metrics.RootMeanSquaredError)."""

    direction = "down"

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return functions.squared_error(y_true.to(y_pred.dtype), y_pred)

    def result(self) -> float:
        return math.sqrt(super().result())


METRICS: Mapping[str, type[Metric]] = {
    known.__name__: known
    for known in (
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
        RootMeanSquaredError,
        MeanAbsoluteError,
        MeanAbsolutePercentageError,
        MeanSquaredLogarithmicError,
        CosineSimilarity,
        LogCoshError,
        Hinge,
        SquaredHinge,
        CategoricalHinge,
    )
}

#: Names of functions and short names.
ALIASES: Mapping[str, str] = {
    **{snake_case(name): name for name in METRICS},
    "kl_divergence": "KLDivergence",
    "kullback_leibler_divergence": "KLDivergence",
    "kld": "KLDivergence",
    "log_cosh": "LogCoshError",
    "logcosh": "LogCoshError",
    "bce": "BinaryCrossentropy",
    "BCE": "BinaryCrossentropy",
    "mse": "MeanSquaredError",
    "MSE": "MeanSquaredError",
    "mae": "MeanAbsoluteError",
    "MAE": "MeanAbsoluteError",
    "mape": "MeanAbsolutePercentageError",
    "MAPE": "MeanAbsolutePercentageError",
    "msle": "MeanSquaredLogarithmicError",
    "MSLE": "MeanSquaredLogarithmicError",
}

#: Metrics of which the shapes of labels and predictions decide; any case.
BY_SHAPES = ("accuracy", "acc")


class GivenFunction(Mean):
    """Mean of a Python function (labels, predictions) -> values. It can't be saved by value."""

    masked = True

    def __init__(self, given: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(name=getattr(given, "__name__", "metric"))
        self.given = given

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self.given(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        raise ConfigError(f"metric '{self.name}' is a Python function and can't be saved; use one of the table")


def by_shapes(value: object) -> bool:
    """Whether `value` is a word for the accuracy that fits the shapes."""
    return isinstance(value, str) and value.lower() in BY_SHAPES


def metric(value: Any) -> Metric:
    """What keras.metrics.get takes: a name, a metric, a function, or a serialised form. Raises ConfigError.

    A string stays the metric's name as it is spelled; Keras logs it so.
    """
    if isinstance(value, Metric):
        return value
    if isinstance(value, Mapping):
        return _from_serialised(value)
    if callable(value) and not isinstance(value, type):
        name = getattr(value, "__name__", "")
        known = METRICS.get(ALIASES.get(name, ""))
        if known is not None and getattr(known, "function", None) is value:
            return known(name=name)
        return GivenFunction(value)
    if isinstance(value, str):
        if value not in METRICS and value not in ALIASES:
            raise ConfigError(unknown_name("metric", value, [*METRICS, *ALIASES, *BY_SHAPES]))
        return METRICS[ALIASES.get(value, value)](name=value)
    return resolve("metric", value, METRICS, ALIASES)


def _from_serialised(value: Mapping[str, Any]) -> Metric:
    """Keras's {"class_name", "config"}; functions and Keras 2's MeanMetricWrapper name a function of the table."""
    kind, config = value.get("class_name"), value.get("config")
    if kind == "function":
        return metric(config.get("name") if isinstance(config, Mapping) else config)
    if kind != "MeanMetricWrapper" or not isinstance(config, Mapping):
        return resolve("metric", value, METRICS, ALIASES)
    function = config.get("fn")
    if isinstance(function, Mapping):
        inner = function.get("config")
        function = inner.get("name") if isinstance(inner, Mapping) else inner
    if not isinstance(function, str):
        raise ConfigError(f"metric MeanMetricWrapper: fn is {brief(function)}, expected the name of a function")
    found = type(metric(function))
    return found.from_config({name: item for name, item in config.items() if name != "fn"})


def metric_for_shapes(name: str, labels: tuple[int | None, ...], predictions: tuple[int | None, ...]) -> Metric:
    """The accuracy that "accuracy" or "acc" stands for, by the shapes of a batch of labels and predictions."""
    if predictions[-1] == 1:
        return BinaryAccuracy(name=name)
    if len(labels) < len(predictions) or labels[-1] == 1:
        return SparseCategoricalAccuracy(name=name)
    return CategoricalAccuracy(name=name)


def keras_form(value: Metric) -> dict[str, Any]:
    """The metric as Keras 3 writes it into a file."""
    return {"module": "keras.metrics", **serialized(value), "registered_name": None}
