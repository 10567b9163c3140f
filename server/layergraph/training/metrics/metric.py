"""What all metrics do alike: names, state, and means of values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from typing_extensions import Self

from layergraph.config.names import snake_case
from layergraph.config.options import Configurable, anything, option, optional
from layergraph.errors import ConfigError
from layergraph.functional.tensor import Shape
from layergraph.training.loss_functions import same_rank
from layergraph.training.losses import weights_like
from layergraph.training.options import text

Tensor = torch.Tensor

#: What a metric says: a number, or one for each class or threshold.
Result = float | np.ndarray[Any, Any]


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
    #: Attributes that hold what has been taken in: tensors, numbers or None.
    state_names: ClassVar[tuple[str, ...]] = ()
    #: The type that Keras writes for a metric without one.
    default_dtype: ClassVar[str] = "float32"

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

    def result(self) -> Result:
        """The number so far, or several; 0 before the first batch. Waits for the device."""
        raise NotImplementedError

    def check_shapes(self, labels: Shape, predictions: Shape) -> None:
        """Raises DataError where the metric isn't for labels and predictions of these shapes."""

    @property
    def state(self) -> dict[str, Any]:
        """A copy of what has been taken in, for `restore`."""
        return {name: _copied(getattr(self, name)) for name in self.state_names}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from a `state`."""
        for name in self.state_names:
            setattr(self, name, _copied(state[name]))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        return {"name": self.name, "dtype": config.pop("dtype") or self.default_dtype, **config}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        # Keras 2 writes the wrapped function of some classes as well.
        return cls(**{name: value for name, value in config.items() if name != "fn"})


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


class Mean(Metric):
    """Weighted mean (keras.metrics.Mean). As a metric of an output, Keras has it average the labels with predictions as
    weights.
    """

    state_names = ("_total", "_count")

    def reset(self) -> None:
        self._total: Tensor | None = None
        self._count: Tensor | float = 0.0

    def update(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        if sample_weight is not None:
            raise ConfigError(f"metric '{self.name}' takes no sample weights beside labels and predictions")
        self.accumulate(y_true, y_pred)

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


class MeanOfValues(Mean):
    """Weighted mean of what `values` gives for each sample."""

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """A value for each sample, step or element; booleans count as 0 and 1."""
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

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return type(self).function(y_true, y_pred, **self._arguments)


class LossMean(FunctionMean):
    """Mean of a loss function, for which ranks and types of the labels are fitted first."""

    direction = "down"
    #: Whether labels (N,) meet predictions (N, 1) row by row. Keras's functions of the others leave that to the loss
    #: around them, so as metrics they broadcast both to (N, N): each prediction with all labels of the batch.
    fits_ranks: ClassVar[bool] = True

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        if self.fits_ranks or not _broadcast(y_true, y_pred):
            y_true, y_pred = same_rank(y_true, y_pred)
        return super().values(y_true.to(y_pred.dtype), y_pred)


def _broadcast(one: Tensor, other: Tensor) -> bool:
    return all(a == b or 1 in (a, b) for a, b in zip(reversed(one.shape), reversed(other.shape), strict=False))
