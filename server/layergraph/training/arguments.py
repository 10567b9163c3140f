"""Arguments of fit and evaluate: what they may be, and what they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from layergraph.config.options import short_repr
from layergraph.errors import ConfigError, DataError
from layergraph.training import data
from layergraph.training.callbacks.callback import Callback
from layergraph.training.callbacks.recording import BackupAndRestore
from layergraph.training.callbacks.table import callback
from layergraph.training.checkpoint import Checkpoints
from layergraph.training.data import Data
from layergraph.training.streams import Source, Stream, source

#: Default batch size.
BATCH_SIZE = 32


def created_callbacks(callbacks: Any) -> list[Callback]:
    """The callbacks, of which names and serialised ones are created. Raises ConfigError."""
    if callbacks is None:
        return []
    several = (
        callbacks if isinstance(callbacks, Iterable) and not isinstance(callbacks, (str, Mapping)) else [callbacks]
    )
    return [callback(one) if isinstance(one, (str, Mapping)) else one for one in several]


def chosen_rows(what: str, held: Data | Stream, rows: Any) -> Data | Stream:
    """The rows with these indices; all if they are None. Raises ConfigError for batches, which have no indices."""
    if rows is None:
        return held
    if isinstance(held, Stream):
        raise ConfigError(f"{what}: got batches, expected arrays, whose rows can be chosen")
    return held.chosen(what, rows)


def check_alone(batches: Source, **given: Any) -> None:
    """Raises DataError for arguments that batches contain already, or that can't be used with batches."""
    for name, value in given.items():
        if value is not None:
            raise DataError(f"{name}: expected None with {batches.kind}, whose batches are (x, y) or (x, y, weights)")


def count_batches(rows: Data | Stream, size: int) -> int | None:
    """The number of batches of this size; None if a stream doesn't know it."""
    return rows.source.count if isinstance(rows, Stream) else data.steps_of(rows.rows, size)


def unpacked_validation(validation: Any) -> tuple[Any, Any, Any]:
    """x, y and sample_weight of `validation_data`. Raises DataError."""
    if source(validation) is not None:
        return validation, None, None
    if not isinstance(validation, (list, tuple)) or len(validation) not in (2, 3):
        raise DataError(
            f"validation_data: got {type(validation).__name__}, expected (x, y), (x, y, sample_weight), or batches"
        )
    x, y, *weight = validation
    return x, y, weight[0] if weight else None


def checked_batch_size(given: int | None) -> int:
    """`batch_size`, or Keras's default. Raises ConfigError."""
    if given is None:
        return BATCH_SIZE
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or given < 1:
        raise ConfigError(f"batch_size is {short_repr(given)}, expected a positive integer")
    return int(given)


def checked_steps(name: str, given: int | None) -> int | None:
    """The argument of that name, a number of batches. Raises ConfigError."""
    if given is not None and (isinstance(given, bool) or not isinstance(given, (int, np.integer)) or given < 1):
        raise ConfigError(f"{name} is {short_repr(given)}, expected a positive integer")
    return None if given is None else int(given)


def backup_checkpoints(callbacks: Iterable[Callback]) -> Checkpoints | None:
    """The checkpoints of the first BackupAndRestore among the callbacks."""
    for one in callbacks:
        if isinstance(one, BackupAndRestore):
            return one.checkpoints
    return None
