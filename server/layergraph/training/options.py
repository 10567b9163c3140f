"""Validators of training settings: those of `config.options` with limits, since clients of a server may set them.

A setting is validated before anything of its size is allocated.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from layergraph.config import options
from layergraph.config.options import Expected, Validator

T = TypeVar("T")

#: Largest float32, the dtype of optimizers, losses and metrics.
LARGEST = float(np.finfo(np.float32).max)
#: Maximum number of items in a list.
MOST_ITEMS = 100_000
#: Maximum number of evenly spaced thresholds of a metric, and of given ones, each compared with each prediction.
MOST_THRESHOLDS = 100_000
MOST_GIVEN_THRESHOLDS = 10_000
#: Maximum number of classes of a metric with a confusion matrix.
MOST_CLASSES = 4096
#: Maximum number of patterns of weights or layers.
MOST_PATTERNS = 1000
#: Maximum number of characters of a name, a path or a pattern.
MOST_CHARACTERS = 1000


def number(value: Any) -> float:
    """Validator: a finite number in the range of float32."""
    result = options.number(value)
    if abs(result) > LARGEST:
        raise Expected(f"a number in the range of float32, from {-LARGEST:.3g} to {LARGEST:.3g}")
    return result


def nonnegative(value: Any) -> float:
    """Validator: a finite number in the range of float32, 0 or more."""
    return options.nonnegative(number(value))


def text(value: Any) -> str:
    """Validator: a string of at most MOST_CHARACTERS characters."""
    result = options.text(value)
    if len(result) > MOST_CHARACTERS:
        raise Expected(f"at most {MOST_CHARACTERS} characters")
    return result


def count(most: int, least: int = 1) -> Validator[int]:
    """Validator: an integer from `least` to `most`."""

    def validate(value: Any) -> int:
        result = options.nonnegative_int(value)
        if not least <= result <= most:
            raise Expected(f"an integer from {least} to {most}")
        return result

    return validate


def list_of(validate: Validator[T], most: int = MOST_ITEMS) -> Validator[tuple[T, ...]]:
    """Validator: a list, tuple or array of at most `most` items."""
    return options.list_of(validate, most)


def one_or_list_of(validate: Validator[T], most: int = MOST_ITEMS) -> Validator[T | tuple[T, ...]]:
    """Validator: one value, or a list of at most `most` values."""
    return options.one_or_list_of(validate, most)
