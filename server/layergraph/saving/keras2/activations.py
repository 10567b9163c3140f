"""Activations that a name doesn't describe in Keras 3: those that it computes differently from Keras 2, as layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layergraph.config.keras_versions import ACTIVATION, OWN_KEY


def _layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    options = {"name": name, "trainable": True, "dtype": "float32", **config}
    return {"module": "keras.layers", "class_name": kind, "config": options, "registered_name": None}


def _stack(name: str, *layers: Mapping[str, Any]) -> dict[str, Any]:
    """A stack of layers, used as an activation; layergraph reads the name beside them."""
    config = {"name": name, "trainable": True, "layers": list(layers)}
    stack = {"module": "keras", "class_name": "Sequential", "config": config, "registered_name": None}
    return {**stack, OWN_KEY: {ACTIVATION: name}}


#: Our name of an activation -> its serialised form for Keras 3.
IN_KERAS3: Mapping[str, Mapping[str, Any]] = {
    # clip(0.2 x + 0.5, 0, 1); Keras 3's hard_sigmoid has a slope of 1/6.
    "keras2_hard_sigmoid": _stack(
        "keras2_hard_sigmoid",
        _layer("Rescaling", "slope", scale=0.2, offset=0.5),
        _layer("ReLU", "clip", max_value=1.0, negative_slope=0.0, threshold=0.0),
    ),
    # Keras looks functions up by their registered names in this form only.
    "keras_hub>gelu_approximate": {
        "module": "builtins",
        "class_name": "function",
        "config": "keras_hub>gelu_approximate",
        "registered_name": "function",
    },
}
