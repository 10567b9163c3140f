"""Losses with their options, weights, masks and reductions, by Keras's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from typing_extensions import Self

from layergraph.config.names import snake_case
from layergraph.config.options import (
    Configurable,
    Expected,
    anything,
    as_list,
    boolean,
    fraction,
    integer,
    one_of,
    option,
    optional,
    resolve,
)
from layergraph.config.training_rules import KERAS3_RULES, TrainingRules
from layergraph.errors import ConfigError, unknown_name
from layergraph.functional.logits import with_logits_of
from layergraph.training import loss_functions as functions
from layergraph.training.keras2_functions import function_for, mean_sparse_crossentropy, reads_logits
from layergraph.training.loss_functions import same_rank
from layergraph.training.options import list_of, number, one_or_list_of, text

Tensor = torch.Tensor


def reduction(value: Any) -> str | None:
    """Validator: the reduction of a batch's values. Keras 2's 'auto' is the mean over the values."""
    if value == "auto":
        return "sum_over_batch_size"
    accepted = one_of("sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none")
    return None if value is None else accepted(value)


def weights_like(values: Tensor, weights: Tensor) -> Tensor:
    """Weights with axes appended so that they broadcast over `values`; a last axis of length 1 too many is dropped."""
    if weights.ndim == values.ndim + 1 and weights.shape[-1] == 1:
        return weights[..., 0]
    while weights.ndim < values.ndim:
        weights = weights[..., None]
    return weights


def reduced(
    values: Tensor, weights: Tensor | None, mask: Tensor | None, how: str | None, *, counts_masked: bool = False
) -> Tensor:
    """Reduces the values of a batch to one number (Keras's reduce_weighted_values); `how` is a reduction.

    The mean's divisor is the number of values, not the sum of weights; masked values don't count. As Keras does, the
    weights of valid values are scaled by total / valid for that, so that broadcast masks give the same mean. With
    `counts_masked` they are values of 0 instead.
    """
    if mask is not None:
        valid = mask.to(values.dtype)
        if how in ("sum_over_batch_size", "mean") and not counts_masked:
            # Without any valid value, the result is 0 rather than NaN.
            count = valid.sum()
            valid = valid * torch.where(count > 0, valid.numel() / count.clamp_min(1.0), 0.0)
        if weights is None:
            weights = valid
        else:
            weights = weights_like(valid, weights) * valid if weights.ndim <= valid.ndim else weights * valid[..., None]
    if weights is not None:
        weights = weights_like(values, weights)
        values = values * weights
    if how is None or how == "none" or values.ndim == 0 or values.numel() == 0:
        return values
    if how == "sum":
        return values.sum()
    if how == "mean_with_sample_weight" and weights is not None:
        total = weights.sum()
        return torch.where(total != 0, values.sum() / torch.where(total != 0, total, 1.0), 0.0)
    return values.mean()


class Loss(Configurable):
    """A loss of one output (keras.losses.Loss): (labels, predictions) -> scalar.

    reduction   'sum_over_batch_size' or 'mean': mean over all values; 'mean_with_sample_weight'; 'sum'; None or 'none'
    """

    reduction: str | None = option(reduction, default="sum_over_batch_size", kw_only=True)
    name: str | None = option(optional(text), default=None, kw_only=True)
    dtype: Any = option(anything, default=None, kw_only=True)

    #: Values by sample: (labels, predictions, **options) -> tensor.
    function: ClassVar[Callable[..., Tensor]]
    #: Whether labels are class indices rather than values of the predictions' shape.
    labels_are_classes: ClassVar[bool] = False

    def setup(self) -> None:
        shared = ("reduction", "name", "dtype")
        self._arguments = {name: getattr(self, name) for name in self._options if name not in shared}
        self.follow(KERAS3_RULES)

    def follow(self, rules: TrainingRules) -> None:
        """Computes as a release of Keras does."""
        #: The function that computes the values.
        self._computed = function_for(type(self).function, rules)
        self._counts_masked = rules.counts_masked

    @property
    def reads_logits(self) -> bool:
        """Whether the loss is computed from what a sigmoid or softmax was applied to."""
        return reads_logits(self._computed)

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """The values by sample (or timestep, pixel): the predictions' shape without the reduced axis."""
        y_true, y_pred = same_rank(y_true, y_pred)
        if not self.labels_are_classes and y_true.dtype != y_pred.dtype:
            y_true = y_true.to(y_pred.dtype)
        return self._computed(y_true, y_pred, **self._arguments)

    def own_mask(self, y_true: Tensor, values: Tensor) -> Tensor | None:
        """The mask of values that count, for a loss that ignores some; else None."""
        return None

    def quick_mean(self, y_true: Tensor, y_pred: Tensor) -> Tensor | None:
        """The mean over all values, if it can be computed without the values themselves; else None."""
        return None

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Computes the loss of a batch in float32. `mask` is the predictions' mask: booleans (N, timesteps)."""
        if y_pred.dtype not in (torch.float32, torch.float64):
            y_pred = with_logits_of(y_pred, y_pred.float())
        plain = sample_weight is None and mask is None and self.reduction == "sum_over_batch_size"
        quick = self.quick_mean(y_true, y_pred) if plain else None
        if quick is not None:
            return quick
        values = self.values(y_true, y_pred)
        own = self.own_mask(y_true, values)
        if own is not None:
            mask = own if mask is None else mask & own
        elif plain:
            return values.mean()
        return reduced(values, sample_weight, mask, self.reduction, counts_masked=self._counts_masked)

    def by_row(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """The loss of each row in float32: the mean of its values, times their weights, without those that are masked.

        It doesn't depend on the reduction; a row that is masked as a whole has the loss 0. Raises ConfigError if values
        depend on several rows.
        """
        if y_pred.dtype not in (torch.float32, torch.float64):
            y_pred = with_logits_of(y_pred, y_pred.float())
        if self.mixes_rows(y_true, y_pred):
            name = type(self).__name__
            raise ConfigError(f"loss '{name}' has no losses by row: with its options, a value depends on several rows")
        values = self.values(y_true, y_pred)
        own = self.own_mask(y_true, values)
        if own is not None:
            mask = own if mask is None else mask & own
        rows = len(values)
        totals = reduced(values, sample_weight, mask, "none").reshape(rows, -1)
        if mask is None:
            return totals.mean(1)
        valid = weights_like(values, mask.to(values.dtype)).expand_as(values).reshape(rows, -1)
        return totals.sum(1) / valid.sum(1).clamp_min(1.0)

    def mixes_rows(self, y_true: Tensor, y_pred: Tensor) -> bool:
        """Whether a value depends on several rows of such labels and predictions: `axis` has the rows, or is None."""
        axis = getattr(self, "axis", -1)
        if axis is None:
            return True
        return any(one % y_pred.ndim == 0 for one in (axis if isinstance(axis, tuple) else (axis,)))

    def get_config(self) -> dict[str, Any]:
        """Keras 3's config. (Keras omits the options of some losses when it saves them, but loads all of them.)"""
        config = super().get_config()
        del config["dtype"]
        config["name"] = self.name or default_name(type(self))
        return config

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        # Keras 2 also writes the wrapped function.
        return cls(**{name: value for name, value in config.items() if name != "fn"})


def default_name(loss: type[Loss]) -> str:
    """Keras's default name of a loss."""
    names = {"KLDivergence": "kl_divergence", "Huber": "huber_loss", "CTC": "ctc"}
    return names.get(loss.__name__) or snake_case(loss.__name__)


class MeanSquaredError(Loss):
    """mean (y - p)^2 (keras.losses.MeanSquaredError)."""

    function = functions.mean_squared_error


class MeanAbsoluteError(Loss):
    """mean |y - p| (keras.losses.MeanAbsoluteError)."""

    function = functions.mean_absolute_error


class MeanAbsolutePercentageError(Loss):
    """100 x mean |(y - p) / y| (keras.losses.MeanAbsolutePercentageError)."""

    function = functions.mean_absolute_percentage_error


class MeanSquaredLogarithmicError(Loss):
    """mean (log(1 + y) - log(1 + p))^2 (keras.losses.MeanSquaredLogarithmicError)."""

    function = functions.mean_squared_logarithmic_error


class CosineSimilarity(Loss):
    """-cos of the angle between labels and predictions (keras.losses.CosineSimilarity)."""

    function = functions.cosine_similarity
    axis: int = option(integer, default=-1)


class Huber(Loss):
    """Squared small errors, absolute large ones (keras.losses.Huber)."""

    function = functions.huber
    delta: float = option(number, default=1.0)


class LogCosh(Loss):
    """mean log(cosh(p - y)) (keras.losses.LogCosh)."""

    function = functions.log_cosh


class Hinge(Loss):
    """mean max(1 - y p, 0) (keras.losses.Hinge)."""

    function = functions.hinge


class SquaredHinge(Loss):
    """mean max(1 - y p, 0)^2 (keras.losses.SquaredHinge)."""

    function = functions.squared_hinge


class CategoricalHinge(Loss):
    """max(largest wrong score - right score + 1, 0) (keras.losses.CategoricalHinge)."""

    function = functions.categorical_hinge


class KLDivergence(Loss):
    """sum y log(y / p) (keras.losses.KLDivergence)."""

    function = functions.kl_divergence


class Poisson(Loss):
    """mean p - y log p (keras.losses.Poisson)."""

    function = functions.poisson


class BinaryCrossentropy(Loss):
    """Crossentropy of independent binary labels (keras.losses.BinaryCrossentropy)."""

    function = functions.binary_crossentropy
    from_logits: bool = option(boolean, default=False)
    label_smoothing: float = option(fraction, default=0.0)
    axis: int = option(integer, default=-1)


class BinaryFocalCrossentropy(Loss):
    """Binary crossentropy with lower weights for easy examples (keras.losses.BinaryFocalCrossentropy)."""

    function = functions.binary_focal_crossentropy
    apply_class_balancing: bool = option(boolean, default=False)
    alpha: float = option(number, default=0.25)
    gamma: float = option(number, default=2.0)
    from_logits: bool = option(boolean, default=False)
    label_smoothing: float = option(fraction, default=0.0)
    axis: int = option(integer, default=-1)


class CategoricalCrossentropy(Loss):
    """Crossentropy of one-hot labels (keras.losses.CategoricalCrossentropy)."""

    function = functions.categorical_crossentropy
    from_logits: bool = option(boolean, default=False)
    label_smoothing: float = option(fraction, default=0.0)
    axis: int = option(integer, default=-1)


class CategoricalFocalCrossentropy(Loss):
    """Categorical crossentropy with lower weights for easy examples (keras.losses.CategoricalFocalCrossentropy)."""

    function = functions.categorical_focal_crossentropy
    alpha: float | tuple[float, ...] = option(one_or_list_of(number), default=0.25)
    gamma: float = option(number, default=2.0)
    from_logits: bool = option(boolean, default=False)
    label_smoothing: float = option(fraction, default=0.0)
    axis: int = option(integer, default=-1)


class SparseCategoricalCrossentropy(Loss):
    """Crossentropy of class indices (keras.losses.SparseCategoricalCrossentropy)."""

    function = functions.sparse_categorical_crossentropy
    labels_are_classes = True
    from_logits: bool = option(boolean, default=False)
    ignore_class: int | None = option(optional(integer), default=None)
    axis: int = option(integer, default=-1)

    def quick_mean(self, y_true: Tensor, y_pred: Tensor) -> Tensor | None:
        if self.ignore_class is not None:
            return None
        if self.reads_logits:
            return mean_sparse_crossentropy(*same_rank(y_true, y_pred), self.from_logits, self.axis)
        if self.from_logits:
            return None
        return functions.mean_sparse_categorical_crossentropy(*same_rank(y_true, y_pred), self.axis)

    def own_mask(self, y_true: Tensor, values: Tensor) -> Tensor | None:
        return None if self.ignore_class is None else (y_true != self.ignore_class).reshape(values.shape)


class CategoricalGeneralizedCrossEntropy(Loss):
    """(1 - p^q) / q of class indices (keras.losses.CategoricalGeneralizedCrossEntropy)."""

    function = functions.categorical_generalized_cross_entropy
    labels_are_classes = True
    q: float = option(number, default=0.5)

    def setup(self) -> None:
        super().setup()
        if not 0 < self.q < 1:
            raise ConfigError(f"CategoricalGeneralizedCrossEntropy: option 'q' is {self.q}, expected between 0 and 1")

    def __call__(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        if sample_weight is not None and sample_weight.ndim == 1 and self.mixes_rows(y_true, y_pred):
            # For labels (N, 1), Keras computes values (N, N), over whose columns weights (N,) broadcast.
            sample_weight = sample_weight[None]
        return super().__call__(y_true, y_pred, sample_weight, mask)

    def mixes_rows(self, y_true: Tensor, y_pred: Tensor) -> bool:
        return y_true.ndim == y_pred.ndim


class CTC(Loss):
    """Connectionist temporal classification (keras.losses.CTC)."""

    function = functions.ctc
    labels_are_classes = True


def _axes(value: Any) -> tuple[int, ...] | None:
    try:
        value = as_list(value)
        return None if value is None else list_of(integer)(value if isinstance(value, (list, tuple)) else (value,))
    except Expected:
        raise Expected("an integer, a list of integers, or None") from None


class Dice(Loss):
    """1 - 2 |A and B| / (|A| + |B|) (keras.losses.Dice)."""

    function = functions.dice
    axis: tuple[int, ...] | None = option(_axes, default=None)


class Tversky(Loss):
    """Dice with weights for false positives and false negatives (keras.losses.Tversky)."""

    function = functions.tversky
    alpha: float = option(number, default=0.5)
    beta: float = option(number, default=0.5)
    axis: tuple[int, ...] | None = option(_axes, default=None)


class Circle(Loss):
    """Circle loss of embeddings, averaged over rows with a positive loss (keras.losses.Circle)."""

    function = functions.circle
    labels_are_classes = True
    gamma: float = option(number, default=80.0)
    margin: float = option(number, default=0.4)
    remove_diagonal: bool = option(boolean, default=True)

    def mixes_rows(self, y_true: Tensor, y_pred: Tensor) -> bool:
        return True

    def own_mask(self, y_true: Tensor, values: Tensor) -> Tensor | None:
        return values.detach() > 0


LOSSES: Mapping[str, type[Loss]] = {
    known.__name__: known
    for known in (
        MeanSquaredError,
        MeanAbsoluteError,
        MeanAbsolutePercentageError,
        MeanSquaredLogarithmicError,
        CosineSimilarity,
        Huber,
        LogCosh,
        Hinge,
        SquaredHinge,
        CategoricalHinge,
        KLDivergence,
        Poisson,
        BinaryCrossentropy,
        BinaryFocalCrossentropy,
        CategoricalCrossentropy,
        CategoricalFocalCrossentropy,
        SparseCategoricalCrossentropy,
        CategoricalGeneralizedCrossEntropy,
        CTC,
        Dice,
        Tversky,
        Circle,
    )
}

#: Function names, short names and Keras 2's names -> class names. A function has the defaults of its class.
ALIASES: Mapping[str, str] = {
    **{known.function.__name__: name for name, known in LOSSES.items()},
    "bce": "BinaryCrossentropy",
    "BCE": "BinaryCrossentropy",
    "kld": "KLDivergence",
    "KLD": "KLDivergence",
    "kullback_leibler_divergence": "KLDivergence",
    "mae": "MeanAbsoluteError",
    "MAE": "MeanAbsoluteError",
    "mse": "MeanSquaredError",
    "MSE": "MeanSquaredError",
    "mape": "MeanAbsolutePercentageError",
    "MAPE": "MeanAbsolutePercentageError",
    "msle": "MeanSquaredLogarithmicError",
    "MSLE": "MeanSquaredLogarithmicError",
    "logcosh": "LogCosh",
    "cosine_proximity": "CosineSimilarity",
    "cosine": "CosineSimilarity",
    "huber_loss": "Huber",
}

#: Names of losses that are resolved by the shapes of labels and predictions.
BY_SHAPES = ("crossentropy", "ce")


class FunctionLoss(Loss):
    """A loss given as a Python function (labels, predictions) -> values. It can't be serialised."""

    def __init__(self, given: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(name=getattr(given, "__name__", "loss"))
        self.given = given

    def follow(self, rules: TrainingRules) -> None:
        # The function is the caller's.
        self._counts_masked = rules.counts_masked

    @property
    def reads_logits(self) -> bool:
        return False

    def values(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self.given(*same_rank(y_true, y_pred))

    def get_config(self) -> dict[str, Any]:
        raise ConfigError(f"loss '{self.name}' is a Python function and can't be saved; compile with a built-in loss")


def loss(value: Any) -> Loss:
    """Returns the loss for a name, a loss, a function, or a serialised form (keras.losses.get).

    Raises ConfigError for unknown names.
    """
    if isinstance(value, FunctionLoss):
        return value
    if isinstance(value, Mapping) and value.get("class_name") == "function":
        value = value.get("config")
        value = value.get("name") if isinstance(value, Mapping) else value
    if callable(value) and not isinstance(value, (type, Loss)):
        by_name = ALIASES.get(getattr(value, "__name__", ""))
        if by_name is not None and LOSSES[by_name].function is value:
            return LOSSES[by_name]()
        return FunctionLoss(value)
    if isinstance(value, str) and value not in LOSSES and value not in ALIASES:
        raise ConfigError(unknown_name("loss", value, [*LOSSES, *ALIASES, *BY_SHAPES]))
    return resolve("loss", value, LOSSES, ALIASES)


def loss_for_shapes(labels: tuple[int | None, ...], predictions: tuple[int | None, ...]) -> Loss:
    """The loss that "crossentropy" stands for, by the shapes of a batch of labels and predictions."""
    if predictions[-1] == 1:
        return BinaryCrossentropy()
    sparse = len(labels) < len(predictions) or labels[-1] == 1
    return SparseCategoricalCrossentropy() if sparse else CategoricalCrossentropy()
