"""Metrics of segmentation: the overlap of predicted and true areas of classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from layergraph.config.options import boolean, integer, nonnegative_int, option, optional
from layergraph.errors import ConfigError
from layergraph.training.loss_functions import EPSILON
from layergraph.training.metrics.metric import Metric
from layergraph.training.options import MOST_CLASSES, count, list_of, number

Tensor = torch.Tensor


class _Overlap(Metric):
    """Base of metrics on a confusion matrix of classes.

    ignore_class    label class that is left out
    sparse_y_true   labels are class indices, not one-hot
    sparse_y_pred   predictions are class indices, not scores
    axis            class axis of one-hot labels and of scores

    Pairs with a class out of range are left out. Sample weights may be fractions; Keras 3 truncates them to integers
    unless `dtype` is a float type.
    """

    direction = "up"
    state_names = ("_pairs",)
    default_dtype = "int32"

    num_classes: int
    ignore_class: int | None = None
    sparse_y_true: bool = True
    sparse_y_pred: bool = True
    axis: int = -1

    def targets(self) -> Sequence[int]:
        """Classes over which the result is averaged."""
        return range(self.num_classes)

    def setup(self) -> None:
        super().setup()
        targets = self.targets()
        if not targets or max(targets) >= self.num_classes:
            raise ConfigError(
                f"{type(self).__name__}: option 'target_class_ids' is {list(targets)}, expected classes from 0 to "
                f"{self.num_classes - 1}"
            )

    def reset(self) -> None:
        self._pairs: Tensor | None = None

    def update(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        true = (y_true if self.sparse_y_true else y_true.argmax(self.axis)).long().reshape(-1)
        predicted = (y_pred if self.sparse_y_pred else y_pred.argmax(self.axis)).long().reshape(-1)
        classes = self.num_classes
        counts = (true >= 0) & (true < classes) & (predicted >= 0) & (predicted < classes)
        if self.ignore_class is not None:
            counts &= true != self.ignore_class
        amounts = counts.to(torch.float64)
        if sample_weight is not None:
            amounts = amounts * _for_each(sample_weight, len(true))
        pairs = amounts.new_zeros(classes * classes)
        pairs.scatter_add_(0, torch.where(counts, true * classes + predicted, 0), amounts)
        self._pairs = pairs if self._pairs is None else self._pairs + pairs

    def result(self) -> float:
        if self._pairs is None:
            return 0.0
        pairs = self._pairs.reshape(self.num_classes, self.num_classes)
        both = pairs.diagonal()
        either = pairs.sum(0) + pairs.sum(1) - both
        chosen = torch.as_tensor(list(self.targets()), device=pairs.device)
        both, either = both[chosen], either[chosen]
        # Classes that occur neither as label nor as prediction are left out.
        present = either > 1e-9
        share = torch.where(present, both / (either + EPSILON), 0.0)
        return float(share.sum() / (present.sum() + EPSILON))


def _for_each(weights: Tensor, count: int) -> Tensor:
    """A weight for each of `count` pairs; weights of rows apply to all pixels of the row."""
    flat = weights.reshape(-1)
    return flat if len(flat) == count else flat.repeat_interleave(count // len(flat))


_classes = list_of(nonnegative_int)


class IoU(_Overlap):
    """Mean intersection over union of some classes (keras.metrics.IoU)."""

    default_name = "io_u"
    num_classes: int = option(count(MOST_CLASSES))
    target_class_ids: tuple[int, ...] = option(_classes)
    ignore_class: int | None = option(optional(integer), default=None, kw_only=True)
    sparse_y_true: bool = option(boolean, default=True, kw_only=True)
    sparse_y_pred: bool = option(boolean, default=True, kw_only=True)
    axis: int = option(integer, default=-1, kw_only=True)

    def targets(self) -> Sequence[int]:
        return self.target_class_ids


class BinaryIoU(_Overlap):
    """Mean IoU of the classes 0 and 1; predictions of at least `threshold` are 1 (keras.metrics.BinaryIoU)."""

    default_name = "binary_io_u"
    target_class_ids: tuple[int, ...] = option(_classes, default=(0, 1))
    threshold: float = option(number, default=0.5)

    def setup(self) -> None:
        self.num_classes = 2
        super().setup()

    def targets(self) -> Sequence[int]:
        return self.target_class_ids

    def update(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        super().update(y_true, (y_pred >= self.threshold).long(), sample_weight)


class MeanIoU(_Overlap):
    """Mean IoU of all classes (keras.metrics.MeanIoU)."""

    default_name = "mean_io_u"
    num_classes: int = option(count(MOST_CLASSES))
    ignore_class: int | None = option(optional(integer), default=None, kw_only=True)
    sparse_y_true: bool = option(boolean, default=True, kw_only=True)
    sparse_y_pred: bool = option(boolean, default=True, kw_only=True)
    axis: int = option(integer, default=-1, kw_only=True)


class OneHotIoU(_Overlap):
    """Mean IoU of some classes, for one-hot labels (keras.metrics.OneHotIoU)."""

    default_name = "one_hot_io_u"
    num_classes: int = option(count(MOST_CLASSES))
    target_class_ids: tuple[int, ...] = option(_classes)  # type: ignore[misc]
    ignore_class: int | None = option(optional(integer), default=None, kw_only=True)
    sparse_y_pred: bool = option(boolean, default=False, kw_only=True)
    axis: int = option(integer, default=-1, kw_only=True)

    def setup(self) -> None:
        self.sparse_y_true = False
        super().setup()

    def targets(self) -> Sequence[int]:
        return self.target_class_ids


class OneHotMeanIoU(_Overlap):
    """Mean IoU of all classes, for one-hot labels (keras.metrics.OneHotMeanIoU)."""

    default_name = "one_hot_mean_io_u"
    num_classes: int = option(count(MOST_CLASSES))
    ignore_class: int | None = option(optional(integer), default=None, kw_only=True)
    sparse_y_pred: bool = option(boolean, default=False, kw_only=True)
    axis: int = option(integer, default=-1, kw_only=True)

    def setup(self) -> None:
        self.sparse_y_true = False
        super().setup()


#: The metrics of this module.
METRICS = (
    IoU,
    BinaryIoU,
    MeanIoU,
    OneHotIoU,
    OneHotMeanIoU,
)
