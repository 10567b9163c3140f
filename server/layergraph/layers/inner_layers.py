"""Layers within layers: options whose value is a layer, and what holds such layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layergraph.config.options import Expected
from layergraph.functional.layer import Layer
from layergraph.plugins import custom_layers

#: Keras class name -> class. `table` fills it: it is above all families, and some of them hold layers of any other.
CLASSES: dict[str, type[Layer]] = {}


def any_layer(value: Any) -> Layer:
    """Validator: a layer or model, or Keras's serialised form of a layer."""
    if isinstance(value, Layer):
        return value
    if isinstance(value, Mapping) and isinstance(value.get("config"), Mapping):
        custom, name = custom_layers(), value.get("class_name", "")
        known = custom.get(value.get("registered_name", "")) or CLASSES.get(name) or custom.get(name)
        if known is not None:
            return known.from_config(value["config"])
    raise Expected("a layer")


def layer_list(value: Any) -> tuple[Layer, ...]:
    """Validator: layers, or Keras's serialised forms of layers."""
    if not isinstance(value, (list, tuple)):
        raise Expected("a list of layers")
    try:
        return tuple(map(any_layer, value))
    except Expected:
        raise Expected("a list of layers") from None


class Holder(Layer):
    """A layer that holds others, which are frozen if it is."""

    supports_masking = True

    def hold(self, **layers: Layer) -> None:
        """Registers sublayers by the names of their groups in files; they are frozen if this layer is."""
        self.sublayers.update(layers)
        if not self.trainable:
            self.trainable = False
