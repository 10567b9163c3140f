"""Configs written by TensorFlow.js: those of Keras 2, with null for options that weren't given."""

from __future__ import annotations

from typing import Any

from layergraph.config import keras2

_RNN = {"name", "trainable", "dtype", "cell", "return_sequences", "return_state", "go_backwards", "stateful", "unroll"}


def adapt(kind: str, config: dict[str, Any]) -> None:
    """Converts a layer's config, with keys already renamed, to Keras 3's values."""
    keras2.adapt(kind, config)
    # Here null means the default, which only matters for new weights.
    if config.get("unit_forget_bias", True) is None:
        del config["unit_forget_bias"]
    # An RNN repeats its cell's options.
    if kind == "RNN":
        for key in config.keys() - _RNN:
            del config[key]
