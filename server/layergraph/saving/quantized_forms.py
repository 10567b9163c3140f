"""Checks for quantised layers that can't be saved such that Keras loads them."""

from __future__ import annotations

from layergraph.errors import ConfigError
from layergraph.functional.functional import Functional
from layergraph.layers.attention.multi_head import ProjectedAttention
from layergraph.layers.quantized.kernels import QuantizedKernel


def check_quantized(model: Functional, suffix: str) -> None:
    """Raises ConfigError for the first layer that can't be saved in a file with this suffix."""
    inside = {
        inner for layer in model.walk_layers() if isinstance(layer, ProjectedAttention) for inner in layer.walk_layers()
    }
    for layer in model.walk_layers():
        if not isinstance(layer, QuantizedKernel):
            continue
        label = f"save: layer '{layer.name}' ({layer.keras_class_name})"
        if layer.packed_by_rows:
            raise ConfigError(f"{label} is packed as by Keras 3.11 to 3.13, which later releases can't read")
        if layer in inside and not layer.goes_by_policy:
            raise ConfigError(f"{label}: no file can store how inputs of attention projections are quantised")
        # Keras saves these arrays in another order than it loads them.
        if suffix == ".h5" and layer.quantization.mode == "float8":
            raise ConfigError(f"{label} computes in float8, which Keras can't load from an .h5; use .keras")
