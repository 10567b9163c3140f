"""Table of the metrics by Keras's names. Metrics accumulate on the device and are read on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from layergraph.config.names import snake_case
from layergraph.config.options import resolve, short_repr
from layergraph.config.training_rules import TrainingRules
from layergraph.errors import ConfigError, unknown_name
from layergraph.training import losses
from layergraph.training.metrics import confusion, means, overlap, scores
from layergraph.training.metrics.means import (
    BinaryAccuracy,
    BinaryCrossentropy,
    CategoricalAccuracy,
    CategoricalCrossentropy,
    SparseCategoricalAccuracy,
    SparseCategoricalCrossentropy,
)
from layergraph.training.metrics.metric import Mean, MeanOfValues, Metric

Tensor = torch.Tensor

#: Keras class name -> class.
METRICS: Mapping[str, type[Metric]] = {
    known.__name__: known for known in (Mean, *means.METRICS, *confusion.METRICS, *overlap.METRICS, *scores.METRICS)
}

#: Function names and short names -> class names.
ALIASES: Mapping[str, str] = {
    **{snake_case(name): name for name in METRICS},
    "kl_divergence": "KLDivergence",
    "kullback_leibler_divergence": "KLDivergence",
    "kld": "KLDivergence",
    "log_cosh": "LogCoshError",
    "logcosh": "LogCoshError",
    # Names of cosine_similarity up to Keras 2.3.
    "cosine": "CosineSimilarity",
    "cosine_proximity": "CosineSimilarity",
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

_ACCURACY = ("accuracy", "acc")
#: Names of metrics that are resolved by the shapes of labels and predictions, in any case. Keras 3 has the first two.
BY_SHAPES = (*_ACCURACY, "crossentropy", "ce")


class GivenFunction(MeanOfValues):
    """Mean of a Python function (labels, predictions) -> values. It can't be serialised."""

    masked = True

    def __init__(self, given: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(name=getattr(given, "__name__", "metric"))
        self.given = given

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self.given(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        raise ConfigError(f"metric '{self.name}' is a Python function and can't be saved; use a built-in metric")


class MeanMetricWrapper(MeanOfValues):
    """Mean of a function of keras.losses, by name, with its options (keras.metrics.MeanMetricWrapper)."""

    masked = True
    direction = "down"

    def __init__(self, fn: str, name: str | None = None, dtype: Any = None, **options: Any) -> None:
        kind = losses.LOSSES[losses.ALIASES[fn]]
        # The name of today, which Keras 3 reads.
        self.fn = kind.function.__name__
        self._options_of_fn = options
        self._loss = kind.from_config(options)
        super().__init__(name=name or fn, dtype=dtype)

    def follow(self, rules: TrainingRules) -> None:
        super().follow(rules)
        self._loss.follow(rules)

    @property
    def reads_logits(self) -> bool:
        return self._loss.reads_logits

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self._loss.values(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "fn": self.fn, **self._options_of_fn}


def by_shapes(value: object) -> bool:
    """Whether `value` is a name of the accuracy or crossentropy that fits the shapes."""
    return isinstance(value, str) and value.lower() in BY_SHAPES


def is_accuracy(word: str) -> bool:
    """Whether a name in BY_SHAPES is the accuracy."""
    return word.lower() in _ACCURACY


def metric(value: Any) -> Metric:
    """Returns the metric for a name, a metric, a function, or a serialised form (keras.metrics.get).

    As in Keras, a string in its own spelling is the metric's name in the logs. Raises ConfigError for unknown names.
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
    """The metric of Keras's {"class_name", "config"}; functions, also in a MeanMetricWrapper, are given by name."""
    kind, config = value.get("class_name"), value.get("config")
    if kind == "function":
        return _of_function(_function_name(value), {})
    if kind != "MeanMetricWrapper" or not isinstance(config, Mapping):
        return resolve("metric", value, METRICS, ALIASES)
    function = config.get("fn")
    name = _function_name(function) if isinstance(function, Mapping) else function
    return _of_function(name, {name: item for name, item in config.items() if name != "fn"})


def _function_name(value: Mapping[str, Any]) -> Any:
    inner = value.get("config")
    return inner.get("name") if isinstance(inner, Mapping) else inner


def _of_function(name: Any, config: Mapping[str, Any]) -> Metric:
    """The mean of a function of keras.metrics or keras.losses."""
    if not isinstance(name, str):
        raise ConfigError(f"metric MeanMetricWrapper: fn is {short_repr(name)}, expected the name of a function")
    # cosine_similarity exists once, in keras.losses, with the sign of the loss.
    if name in losses.ALIASES and (name not in ALIASES or name == "cosine_similarity"):
        return MeanMetricWrapper(name, **config)
    found = metric(name)
    return type(found).from_config({"name": found.name, **config})


def metric_for_shapes(name: str, labels: tuple[int | None, ...], predictions: tuple[int | None, ...]) -> Metric:
    """The metric that a name in BY_SHAPES stands for, by the shapes of a batch of labels and predictions."""
    accuracy = is_accuracy(name)
    if predictions[-1] == 1:
        return BinaryAccuracy(name=name) if accuracy else BinaryCrossentropy(name=name)
    if len(labels) < len(predictions) or labels[-1] == 1:
        return SparseCategoricalAccuracy(name=name) if accuracy else SparseCategoricalCrossentropy(name=name)
    return CategoricalAccuracy(name=name) if accuracy else CategoricalCrossentropy(name=name)


def metric_for_loss(name: str, loss: losses.Loss | None, predictions: tuple[int | None, ...]) -> Metric:
    """The metric that a name in BY_SHAPES stands for, by the loss of the output, up to Keras 2.3 and TensorFlow 2.1."""
    if isinstance(loss, losses.BinaryCrossentropy):
        return metric_for_shapes(name, (1,), (1,))
    classes = isinstance(loss, losses.SparseCategoricalCrossentropy)
    return metric_for_shapes(name, predictions[:-1] if classes else predictions, predictions)
