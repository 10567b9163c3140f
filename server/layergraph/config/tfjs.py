"""Configs that TensorFlow.js writes itself: Keras 2's, with nothing where an option was not given."""

from __future__ import annotations

from typing import Any

from layergraph.config import keras2

_RNN = {"name", "trainable", "dtype", "cell", "return_sequences", "return_state", "go_backwards", "stateful", "unroll"}


def adapt(kind: str, config: dict[str, Any]) -> None:
    """Brings a layer's config, whose keys are renamed already, to Keras 3's values."""
    keras2.adapt(kind, config)
    # Here null stands for the default, which only matters where training starts.
    if config.get("unit_forget_bias", True) is None:
        del config["unit_forget_bias"]
    # An RNN repeats its cell's options.
    if kind == "RNN":
        for key in config.keys() - _RNN:
            del config[key]
