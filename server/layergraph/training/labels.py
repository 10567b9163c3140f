"""Checks labels against a loss before a run starts, instead of failing in its middle."""

from __future__ import annotations

from typing import Any

import numpy as np

from layergraph.errors import DataError, ShapeError
from layergraph.functional.tensor import Shape
from layergraph.training.losses import CTC, Circle, FunctionLoss, Loss, SparseCategoricalCrossentropy
from layergraph.training.row_groups import GroupedArray

Array = np.ndarray[Any, Any]

#: Number of values checked at a time, so that a mapped file is never loaded as a whole.
CHUNK = 1 << 20


def checked_labels(output: str, labels: Array | GroupedArray, predictions: Shape, loss: Loss) -> Array | GroupedArray:
    """Returns labels. Raises DataError if they don't fit the predictions' shape, or have class indices out of range.

    Class indices in row groups are checked when they are read.
    """
    classes = _checked_shape(output, labels, predictions, loss)
    if classes is None:
        return labels
    ignored = loss.ignore_class if isinstance(loss, SparseCategoricalCrossentropy) else None
    if isinstance(labels, GroupedArray):

        def checked(part: Array, rows: Array) -> Array:
            _check_range(output, part, rows, classes, ignored)
            return part

        return labels.changed(checked, labels.shape, labels.dtype)
    rows = max(1, CHUNK // max(1, int(np.prod(labels.shape[1:], dtype=np.int64))))
    for start in range(0, len(labels), rows):
        chunk = np.asarray(labels[start : start + rows])
        _check_range(output, chunk, np.arange(start, start + len(chunk)), classes, ignored)
    return labels


def _checked_shape(output: str, labels: Array | GroupedArray, predictions: Shape, loss: Loss) -> int | None:
    """Returns the number of classes; None if labels aren't class indices. Raises DataError for other shapes."""
    if isinstance(loss, (FunctionLoss, Circle)):
        return None
    shape = tuple(labels.shape)
    if isinstance(loss, CTC):
        if len(shape) != 2:
            raise ShapeError(f"labels of output '{output}'", shape, "(rows, length) for CTC")
        return None
    if not loss.labels_are_classes:
        if not _same_shape(shape, predictions):
            hint = _sparse_hint(shape, predictions) if "Categorical" in type(loss).__name__ else ""
            raise ShapeError(f"labels of output '{output}'", shape, f"{predictions}{hint}")
        return None
    axis = (loss.axis if isinstance(loss, SparseCategoricalCrossentropy) else -1) % len(predictions)
    without = predictions[:axis] + predictions[axis + 1 :]
    kept = (*predictions[:axis], 1, *predictions[axis + 1 :])
    if not _fits(shape, without) and not _fits(shape, kept):
        hint = " (one-hot labels need categorical_crossentropy)" if _fits(shape, predictions) else ""
        raise ShapeError(f"labels of output '{output}'", shape, f"class indices of shape {without}{hint}")
    return predictions[axis]


def _fits(got: tuple[int, ...], expected: Shape) -> bool:
    return len(got) == len(expected) and all(e in (None, g) for g, e in zip(got, expected, strict=True))


def _same_shape(got: tuple[int, ...], expected: Shape) -> bool:
    """Whether shapes are equal, except for a last axis of length 1 that one of them lacks."""
    return (
        _fits(got, expected)
        or (len(expected) == len(got) + 1 and expected[-1] == 1 and _fits(got, expected[:-1]))
        or (len(got) == len(expected) + 1 and got[-1] == 1 and _fits(got[:-1], expected))
    )


def _sparse_hint(got: tuple[int, ...], expected: Shape) -> str:
    sparse = _fits(got, expected[:-1]) or _fits(got, (*expected[:-1], 1))
    return " (class indices need sparse_categorical_crossentropy)" if sparse else ""


def _check_range(output: str, labels: Array, rows: Array, classes: int, ignored: int | None) -> None:
    """Raises DataError for class indices out of range; `rows` are the indices of the labels' rows."""
    wrong = ~((labels >= 0) & (labels < classes))
    if ignored is not None:
        wrong &= labels != ignored
    if wrong.any():
        row = rows[np.argwhere(wrong)[0][0]] + 1
        raise DataError(
            f"labels of output '{output}': row {row} has class {labels[wrong].flat[0]}, expected 0 to {classes - 1}"
        )
