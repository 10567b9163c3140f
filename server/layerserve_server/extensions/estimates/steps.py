"""Rows and steps of a run, by its request alone."""

from __future__ import annotations

from dataclasses import dataclass

from layerserve.training.options.contract import View

from layerserve_server.training.data_split import bounds
from layerserve_server.training.request import RunRequest


@dataclass(frozen=True, slots=True)
class Steps:
    """Rows and steps of a run.

    `rows` are those of an epoch's data, `validation_rows` those of a validation. `per_epoch` and `validation` are steps
    of an epoch and of its validation, `total` the steps of all epochs, and `short` those of them that have fewer rows.
    """

    rows: int
    validation_rows: int
    per_epoch: int
    validation: int
    total: int
    short: int


def steps_of(request: RunRequest) -> Steps:
    """Returns the steps of a run, as `fit` and `evaluate` make them."""
    rows, validation_rows = rows_of(request)
    size = request.batch_size
    batches = -(-rows // size)
    epochs = request.epochs if request.trains else 1
    per_epoch = min(request.steps_per_epoch or batches, batches)
    # An epoch ends with its steps or with the data; the next one goes on behind it, or from the beginning.
    epochs_of_data = -(-batches // per_epoch)
    passes, more = divmod(epochs, epochs_of_data)
    total = passes * batches + more * per_epoch
    short = passes if rows % size else 0
    validation = -(-validation_rows // size)
    return Steps(rows, validation_rows, per_epoch, validation, total, short)


def _rows_in(view: View, rows: int, split: str | None) -> int:
    """Returns the number of rows of a split, or of all splits."""
    if split is None:
        return rows
    start, stop = bounds(view, rows, split)
    return stop - start


def rows_of(request: RunRequest) -> tuple[int, int]:
    """Returns the numbers of rows to train with, or to evaluate, and to validate with."""
    rows = next(array.rows for array in request.data if not array.role.validation)
    view = request.view
    if view.split or view.validate_on:
        if not request.trains:
            return _rows_in(view, rows, view.validate_on or view.split), 0
        return _rows_in(view, rows, view.split), _rows_in(view, rows, view.validate_on) if view.validate_on else 0
    if request.validation_split:
        # As Keras splits them.
        trained = int(rows * (1 - request.validation_split))
        return trained, rows - trained
    return rows, next((array.rows for array in request.data if array.role.validation), 0)
