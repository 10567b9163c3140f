"""The config of a layer as read from a file, kept so that it can be written in the same Keras generation.

Options and calls of a loaded model are those of Keras 3. The form that an earlier Keras writes can't always be derived
from them: its releases have options without an equivalent here, and TensorFlow functions become operations.
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

#: Keys that may change without making the stored form outdated: they are overwritten on saving.
_WRITTEN_OVER = frozenset({"name", "trainable"})


@dataclass(slots=True)
class StoredForm:
    """A layer, or a model, as stored in its file.

    content      the layer's object, without its calls, and without the layers of a model
    first_call   node index that the file gives to the layer's first call
    layers       the layers of a model, in file order
    options      the layer's options when the content was read
    name         the layer's name at that time: an operation's content may have another name
    trainable    whether the layer was trainable at that time, which may be set by an enclosing layer
    """

    content: Mapping[str, Any]
    first_call: int = 0
    layers: tuple[Layer, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    trainable: bool = True

    def remember(self, layer: Layer) -> None:
        """Records the layer's current options as those of the file."""
        self.options, self.name, self.trainable = _options(layer), layer.name, layer.trainable

    def holds(self, layer: Layer) -> bool:
        """Whether the layer's options still equal those of the file."""
        now = _options(layer)
        return now.keys() == self.options.keys() and all(_same(now[key], value) for key, value in self.options.items())


def _options(layer: Layer) -> dict[str, Any]:
    """The layer's options, except layers among them that have a stored form of their own."""
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
