"""Utilities by Keras's names (keras.utils)."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from layergraph.errors import ConfigError, DataError
from layergraph.functional.naming import clear_session
from layergraph.models.drawing import model_to_dot, plot_model
from layergraph.plugins import custom_object_scope, register_keras_serializable

__all__ = [
    "clear_session",
    "custom_object_scope",
    "model_to_dot",
    "normalize",
    "plot_model",
    "register_keras_serializable",
    "set_random_seed",
    "split_dataset",
    "to_categorical",
]

Array = np.ndarray[Any, Any]


def set_random_seed(seed: int) -> None:
    """Seeds the random generators of Python, NumPy and torch (keras.utils.set_random_seed).

    Training runs with equal seeds are equal. Raises ConfigError unless `seed` is an integer from 0 to 2**32 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
        raise ConfigError(f"set_random_seed: got seed {seed!r}, expected an integer from 0 to 4294967295")
    random.seed(int(seed))
    np.random.seed(int(seed))
    torch.manual_seed(int(seed))


def to_categorical(x: Any, num_classes: int | None = None) -> Array:
    """Converts class indices of shape (...) or (..., 1) to one-hot vectors (..., num_classes) of float64.

    `num_classes` is the largest index plus 1 by default. Raises DataError for an index out of range. Source:
    keras.utils.to_categorical.
    """
    numbers = np.asarray(x, dtype="int64")
    shape = numbers.shape[:-1] if numbers.ndim > 1 and numbers.shape[-1] == 1 else numbers.shape
    flat = numbers.reshape(-1)
    count = int(flat.max()) + 1 if num_classes is None else num_classes
    if flat.size and not -count <= flat.min() <= flat.max() < count:
        raise DataError(f"to_categorical: got classes from {flat.min()} to {flat.max()}, expected 0 to {count - 1}")
    one_hot: Array = np.eye(count)[flat].reshape(*shape, count)
    return one_hot


def normalize(x: Any, axis: int = -1, order: int = 2) -> Array:
    """`x` divided by its norms of that order along `axis`; zero vectors are unchanged (keras.utils.normalize)."""
    values = np.asarray(x)
    norms = np.atleast_1d(np.linalg.norm(values, order, axis))
    norms[norms == 0] = 1
    divided: Array = values / np.expand_dims(norms, axis)
    return divided


def split_dataset(
    dataset: Any,
    left_size: float | None = None,
    right_size: float | None = None,
    shuffle: bool = False,
    seed: int | None = None,
) -> tuple[Any, Any]:
    """Splits the rows of an array, or of a tuple, list or dict of arrays with the same number of rows, into two parts.

    left_size, right_size   number of rows (int) or fraction of them (float); one of the two may be omitted
    shuffle, seed           whether to shuffle the rows first, and the seed

    Returns arrays nested like the given ones, where Keras returns a `tf.data.Dataset`. Raises ConfigError for missing
    or too large sizes, DataError for different numbers of rows. Source: keras.utils.split_dataset.
    """
    names, arrays = _parts(dataset)
    counts = {len(array) for array in arrays}
    if len(counts) != 1:
        raise DataError(f"split_dataset: got arrays of {sorted(counts)} rows, expected the same number in each")
    (rows,) = counts
    left, right = (_rows(size, rows) for size in (left_size, right_size))
    if left is None and right is None:
        raise ConfigError("split_dataset: got neither left_size nor right_size, expected at least one")
    left = rows - (right or 0) if left is None else left
    right = rows - left if right is None else right
    if left + right > rows or min(left, right) < 0:
        raise ConfigError(f"split_dataset: got sizes of {left} and {right} rows, expected at most {rows} together")
    order = np.random.default_rng(seed).permutation(rows) if shuffle else np.arange(rows)
    halves = [order[:left], order[left : left + right]]
    first, second = ([array[half] for array in arrays] for half in halves)
    return _nested(dataset, names, first), _nested(dataset, names, second)


def _parts(dataset: Any) -> tuple[list[Any], list[Array]]:
    if isinstance(dataset, dict):
        return list(dataset), [np.asarray(value) for value in dataset.values()]
    if isinstance(dataset, (tuple, list)):
        return [], [np.asarray(value) for value in dataset]
    return [], [np.asarray(dataset)]


def _nested(like: Any, names: list[Any], arrays: list[Array]) -> Any:
    if isinstance(like, dict):
        return dict(zip(names, arrays, strict=True))
    return type(like)(arrays) if isinstance(like, (tuple, list)) else arrays[0]


def _rows(size: float | None, rows: int) -> int | None:
    if size is None or isinstance(size, int):
        return size
    if not 0 < size < 1:
        raise ConfigError(f"split_dataset: got a fraction of {size}, expected one between 0 and 1")
    return round(size * rows)
