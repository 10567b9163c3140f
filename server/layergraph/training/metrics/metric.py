"""Base classes of metrics: names, state, and means of values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import Self

from layergraph.config.names import snake_case
from layergraph.config.options import Configurable, anything, option, optional
from layergraph.config.training_rules import TrainingRules
from layergraph.errors import ConfigError
from layergraph.functional.tensor import Shape
from layergraph.training.keras2_functions import function_for, reads_logits
from layergraph.training.loss_functions import same_rank
from layergraph.training.losses import weights_like
from layergraph.training.options import text

Tensor = torch.Tensor

#: Result of a metric: a number, or one per class or threshold.
Result = float | np.ndarray[Any, Any]


class Metric(Configurable):
    """A value over all batches since the last `reset` (keras.metrics.Metric)."""

    name: str = option(optional(text), default=None, kw_only=True)
    dtype: Any = option(anything, default=None, kw_only=True)

    #: Default name, if it isn't the class's name in snake case.
    default_name: ClassVar[str | None] = None
    #: Whether the metric improves by going "up" or "down"; None if unknown.
    direction: ClassVar[str | None] = None
    #: Whether masked predictions are left out: in Keras 3 only by means of functions.
    masked: ClassVar[bool] = False
    #: Names of the attributes that are the state: tensors, numbers or None.
    state_names: ClassVar[tuple[str, ...]] = ()
    #: The dtype that Keras saves for a metric without one.
    default_dtype: ClassVar[str] = "float32"

    def setup(self) -> None:
        if self.name is None:
            self.name = self.default_name or snake_case(type(self).__name__)
        self.reset()

    def follow(self, rules: TrainingRules) -> None:
        """Computes as a release of Keras does."""

    @property
    def reads_logits(self) -> bool:
        """Whether the metric is computed from what a sigmoid or softmax was applied to."""
        return False

    def reset(self) -> None:
        """Resets the state."""
        raise NotImplementedError

    def update(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        """Adds a batch to the state, without synchronising with the device."""
        raise NotImplementedError

    def result(self) -> Result:
        """The value so far, or several; 0 before the first batch. Synchronises with the device."""
        raise NotImplementedError

    def check_shapes(self, labels: Shape, predictions: Shape) -> None:
        """Raises DataError if the metric doesn't support labels and predictions of these shapes."""

    @property
    def state(self) -> dict[str, Any]:
        """A copy of the state, for `restore`."""
        return {name: _copied(getattr(self, name)) for name in self.state_names}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores a `state`."""
        for name in self.state_names:
            setattr(self, name, _copied(state[name]))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {"name": self.name, "dtype": config.pop("dtype") or self.default_dtype, **config}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        # For some classes, Keras 2 also writes the wrapped function.
        return cls(**{name: value for name, value in config.items() if name != "fn"})


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


class Mean(Metric):
    """Weighted mean (keras.metrics.Mean).

    As a metric of an output, as in Keras, the mean of the labels weighted by the predictions.
    """

    state_names = ("_total", "_count")
    _averages_batches = False

    def reset(self) -> None:
        self._total: Tensor | None = None
        self._count: Tensor | float = 0.0

    def follow(self, rules: TrainingRules) -> None:
        self._averages_batches = rules.averages_batches

    def update(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        if sample_weight is not None:
            raise ConfigError(f"metric '{self.name}' doesn't support sample weights")
        self.accumulate(y_true, y_pred)

    def accumulate(self, values: Tensor, weights: Tensor | None = None) -> None:
        """Adds values as Keras's Mean does: all axes but the first are averaged, for weights as well as values."""
        if self._total is None:
            # float32 sums over many batches would lose digits.
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
        if self._averages_batches:
            rows = values.shape[0]
            self._total.add_((values * weights).sum() / weights.count_nonzero(), alpha=rows)
            self._count = self._count + rows
            return
        self._total.add_((values * weights).sum(), alpha=_per_row(values))
        self._count = self._count + weights.sum(dtype=torch.float64) * _per_row(weights)

    def result(self) -> float:
        count = float(self._count)
        return 0.0 if self._total is None or count == 0 else float(self._total) / count


def _per_row(values: Tensor) -> float:
    """1 / the number of elements per row."""
    return 1.0 / max(1, math.prod(values.shape[1:]))


class MeanOfValues(Mean):
    """Weighted mean of `values`."""

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The values by sample, timestep or element; booleans count as 0 and 1."""
        raise NotImplementedError

    def update(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        self.accumulate(self.values(y_true, y_pred), sample_weight)


class FunctionMean(MeanOfValues):
    """Mean of a function of labels and predictions (keras.metrics.MeanMetricWrapper)."""

    masked = True
    function: ClassVar[Callable[..., Tensor]]

    def setup(self) -> None:
        super().setup()
        self._arguments = {name: getattr(self, name) for name in self._options if name not in ("name", "dtype")}
        self._computed = type(self).function

    def follow(self, rules: TrainingRules) -> None:
        super().follow(rules)
        self._computed = function_for(type(self).function, rules)

    @property
    def reads_logits(self) -> bool:
        return reads_logits(self._computed)

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self._computed(y_true, y_pred, **self._arguments)


class LossMean(FunctionMean):
    """Mean of a loss function, whose labels are first adapted in rank and dtype."""

    direction = "down"
    #: Whether labels (N,) are paired with predictions (N, 1) by row. Some functions in Keras leave that to their loss
    #: class, so as metrics they broadcast both to (N, N): each prediction with all labels of the batch.
    fits_ranks: ClassVar[bool] = True

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if self.fits_ranks or not _broadcast(y_true, y_pred):
            y_true, y_pred = same_rank(y_true, y_pred)
        return super().values(y_true.to(y_pred.dtype), y_pred)


def _broadcast(one: Tensor, other: Tensor) -> bool:
    return all(a == b or 1 in (a, b) for a, b in zip(reversed(one.shape), reversed(other.shape), strict=False))
