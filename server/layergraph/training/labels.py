"""Checks labels against a loss before a run starts, instead of failing in its middle."""

from __future__ import annotations

from typing import Any

import numpy as np

from layergraph.errors import DataError, ShapeError
from layergraph.functional.tensor import Shape
from layergraph.training.losses import CTC, Circle, FunctionLoss, Loss, SparseCategoricalCrossentropy

Array = np.ndarray[Any, Any]

#: Number of values checked at a time, so that a mapped file is never loaded as a whole.
CHUNK = 1 << 20


def check_labels(output: str, labels: Array, predictions: Shape, loss: Loss) -> None:
    """Raises DataError if labels don't fit the shape of the predictions, or have class indices out of range."""
    if isinstance(loss, (FunctionLoss, Circle)):
        return
    shape = tuple(labels.shape)
    if isinstance(loss, CTC):
        if len(shape) != 2:
            raise ShapeError(f"labels of output '{output}'", shape, "(rows, length) for CTC")
        return
    if not loss.labels_are_classes:
        if not _same_shape(shape, predictions):
            hint = _sparse_hint(shape, predictions) if "Categorical" in type(loss).__name__ else ""
            raise ShapeError(f"labels of output '{output}'", shape, f"{predictions}{hint}")
        return
    axis = (loss.axis if isinstance(loss, SparseCategoricalCrossentropy) else -1) % len(predictions)
    without = predictions[:axis] + predictions[axis + 1 :]
    kept = (*predictions[:axis], 1, *predictions[axis + 1 :])
    if not _fits(shape, without) and not _fits(shape, kept):
        hint = " (one-hot labels need categorical_crossentropy)" if _fits(shape, predictions) else ""
        raise ShapeError(f"labels of output '{output}'", shape, f"class indices of shape {without}{hint}")
    classes = predictions[axis]
    if classes is not None:
        ignored = loss.ignore_class if isinstance(loss, SparseCategoricalCrossentropy) else None
        _check_range(output, labels, classes, ignored)


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


def _check_range(output: str, labels: Array, classes: int, ignored: int | None) -> None:
    rows = max(1, CHUNK // max(1, int(np.prod(labels.shape[1:], dtype=np.int64))))
    for start in range(0, len(labels), rows):
        chunk = np.asarray(labels[start : start + rows])
        wrong = ~((chunk >= 0) & (chunk < classes))
        if ignored is not None:
            wrong &= chunk != ignored
        if wrong.any():
            row = start + int(np.argwhere(wrong)[0][0])
            raise DataError(
                f"labels of output '{output}': row {row} has class {chunk[wrong].flat[0]}, expected 0 to {classes - 1}"
            )
