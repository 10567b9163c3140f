"""What a file said of a layer, kept so that a file of the same generation can say it again.

Options and calls of a loaded model are those of Keras 3. How an earlier Keras writes them can't always be told from
that: its releases have options that mean nothing here, and functions of TensorFlow become operations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from layergraph.config.options import serialized
from layergraph.functional.nest import flatten

if TYPE_CHECKING:
    from layergraph.functional.layer import Layer

#: What may change without a change of the form: it is written over.
_WRITTEN_OVER = frozenset({"name", "trainable"})


@dataclass(slots=True)
class StoredForm:
    """A layer, or a model, as its file has it.

    content      the layer's object, without its calls, and without the layers of a model
    first_call   the number that the file gives to the layer's first call
    layers       the layers of a model, in the order of the file
    options      what the content meant when it was read
    name         what the layer was called then: the content of an operation may have another name
    trainable    whether the layer was trainable then, which the layer around it may say
    """

    content: Mapping[str, Any]
    first_call: int = 0
    layers: tuple[Layer, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    trainable: bool = True

    def remember(self, layer: Layer) -> None:
        """Takes note of what the options are as the file has them."""
        self.options, self.name, self.trainable = _options(layer), layer.name, layer.trainable

    def holds(self, layer: Layer) -> bool:
        """Whether the layer's options are still those of the file."""
        now = _options(layer)
        return now.keys() == self.options.keys() and all(_same(now[key], value) for key, value in self.options.items())


def _options(layer: Layer) -> dict[str, Any]:
    """The layer's options, but for the layers in them that have a form of their own."""
    if layer.inner_model is layer:
        return {}
    values = {name: layer.option_value(name) for name in layer._options if name not in _WRITTEN_OVER}
    values["dtype"] = layer.dtype_policy.serialized()
    return {
        name: serialized(value)
        for name, value in values.items()
        if not any(getattr(leaf, "stored_form", None) is not None for leaf in flatten(value))
    }


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() - _WRITTEN_OVER == other.keys() - _WRITTEN_OVER and all(
            _same(one[key], other[key]) for key in one.keys() - _WRITTEN_OVER
        )
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other)
