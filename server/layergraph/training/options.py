"""Validators of training settings: those of `config.options` with limits, since callers of a server name them too.

A setting is checked as a number before anything is made of that size.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from layergraph.config import options
from layergraph.config.options import Expected, Validator

T = TypeVar("T")

#: Largest number that float32 holds, in which optimizers, losses and metrics compute.
LARGEST = float(np.finfo(np.float32).max)
#: Most items of a list.
MOST_ITEMS = 100_000
#: Most thresholds that a metric counts at: spread evenly, or given, where each is compared with each prediction.
MOST_THRESHOLDS = 100_000
MOST_GIVEN_THRESHOLDS = 10_000
#: Most classes of a metric that counts pairs of classes.
MOST_CLASSES = 4096
#: Most patterns of weights or layers.
MOST_PATTERNS = 1000
#: Most characters of a name, a path or a pattern.
MOST_CHARACTERS = 1000


def number(value: Any) -> float:
    """A finite number of float32."""
    result = options.number(value)
    if abs(result) > LARGEST:
        raise Expected(f"a number of float32, from {-LARGEST:.3g} to {LARGEST:.3g}")
    return result


def nonnegative(value: Any) -> float:
    """A finite number of float32, zero or more."""
    return options.nonnegative(number(value))


def text(value: Any) -> str:
    """A text of some length."""
    result = options.text(value)
    if len(result) > MOST_CHARACTERS:
        raise Expected(f"at most {MOST_CHARACTERS} characters")
    return result


def count(most: int, least: int = 1) -> Validator[int]:
    """An integer from `least` to `most`."""

    def validate(value: Any) -> int:
        result = options.nonnegative_int(value)
        if not least <= result <= most:
            raise Expected(f"an integer from {least} to {most}")
        return result

    return validate


def list_of(validate: Validator[T], most: int = MOST_ITEMS) -> Validator[tuple[T, ...]]:
    """A list or tuple of up to `most` items."""
    accept = options.list_of(validate)

    def accept_some(value: Any) -> tuple[T, ...]:
        if isinstance(value, (list, tuple)) and len(value) > most:
            raise Expected(f"at most {most} items")
        return accept(value)

    return accept_some


def one_or_list_of(validate: Validator[T], most: int = MOST_ITEMS) -> Validator[T | tuple[T, ...]]:
    """One value, or a list of up to `most` of them."""
    several = list_of(validate, most)

    def accept(value: Any) -> T | tuple[T, ...]:
        return several(value) if isinstance(value, (list, tuple)) else validate(value)

    return accept
