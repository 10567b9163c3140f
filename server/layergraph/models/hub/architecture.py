"""Base of KerasHub's model classes: hyperparameters, and the graph that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

from layergraph.config.options import (
    Configurable,
    Expected,
    boolean,
    nonnegative_int,
    option,
    optional,
    positive_int,
    text,
)
from layergraph.config.spec import MAX_LAYERS
from layergraph.errors import ConfigError
from layergraph.functional.dtypes import DTypePolicy, dtype_policy
from layergraph.functional.nest import Structure

#: Structures of symbolic tensors: the inputs and the outputs.
Ends: TypeAlias = "tuple[Structure, Structure]"


class Architecture(Configurable):
    """A class of KerasHub's models. Files hold its hyperparameters; `graph` calls its layers as KerasHub does, in the
    same order and with the same names, since weights are numbered by them.
    """

    name: str | None = option(optional(text), default=None, kw_only=True)
    trainable: bool = option(boolean, default=True, kw_only=True)
    dtype: DTypePolicy = option(dtype_policy, default=None, kw_only=True)

    #: As for layers: the options of the class are those of its configs.
    computes_by_call: ClassVar[bool] = False

    def graph(self) -> Ends:
        """Creates the layers and calls them. Raises GraphError or ConfigError for values that don't fit together."""
        raise NotImplementedError(f"{type(self).__name__} has no graph")

    def option_value(self, name: str) -> Any:
        """Returns the policy's serialised form, as for layers."""
        return self.dtype.serialized() if name == "dtype" else super().option_value(name)


def layer_count(value: Any) -> int:
    """Validator: a number of layers."""
    number = nonnegative_int(value)
    if number > MAX_LAYERS:
        raise Expected(f"an integer from 0 to {MAX_LAYERS}")
    return number


def per_stack(value: Any) -> tuple[int, ...]:
    """Validator: positive integers, one for each stack of layers."""
    if not isinstance(value, (list, tuple)) or not 0 < len(value) <= MAX_LAYERS:
        raise Expected(f"a list of 1 to {MAX_LAYERS} integers")
    return tuple(positive_int(item) for item in value)


def layers_per_stack(value: Any) -> tuple[int, ...]:
    """Validator: the number of layers of each stack."""
    counts = per_stack(value)
    if sum(counts) > MAX_LAYERS:
        raise Expected(f"integers with a sum of at most {MAX_LAYERS}")
    return counts


def same_length(owner: Architecture, names: Sequence[str]) -> None:
    """Raises ConfigError unless the options are lists of the same length."""
    lengths = [len(getattr(owner, name)) for name in names]
    if len(set(lengths)) > 1:
        raise ConfigError(f"{type(owner).__name__}: options {list(names)} have {lengths} items, expected equal numbers")
