"""Quantised layers that no file can say such that Keras opens it: they are refused before one is written."""

from __future__ import annotations

from layergraph.errors import ConfigError
from layergraph.functional.functional import Functional
from layergraph.layers.attention.multi_head import ProjectedAttention
from layergraph.layers.quantized.kernels import QuantizedKernel


def check_quantized(model: Functional, suffix: str) -> None:
    """Raises ConfigError for the first layer that a file of this suffix can't say."""
    inside = {
        inner for layer in model.walk_layers() if isinstance(layer, ProjectedAttention) for inner in layer.walk_layers()
    }
    for layer in model.walk_layers():
        if not isinstance(layer, QuantizedKernel):
            continue
        label = f"save: layer '{layer.name}' ({layer.keras_class_name})"
        if layer.packed_by_rows:
            raise ConfigError(f"{label} is packed as by Keras 3.11 to 3.13, which later ones can't read")
        if layer in inside and not layer.goes_by_policy:
            raise ConfigError(f"{label}: Keras can't be told how the inputs of an attention's projection are quantised")
        # Which Keras orders otherwise in writing than in reading.
        if suffix == ".h5" and layer.quantization.mode == "float8":
            raise ConfigError(f"{label} computes in float8, of which Keras reads no .h5; use .keras")
