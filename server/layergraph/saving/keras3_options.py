"""Checks options that only Keras 2 has: Keras 3 can't open a file with them."""

from __future__ import annotations

from collections.abc import Iterator

from layergraph.constraints import RadialConstraint
from layergraph.errors import ConfigError
from layergraph.functional.functional import Functional
from layergraph.functional.layer import Layer
from layergraph.layers.normalization.batch import BatchNormalization


def check_options(model: Functional) -> None:
    """Raises ConfigError for layers that Keras 3 can't open, all of them in one text."""
    found = [f"layer '{layer.name}': {what}" for layer in model.walk_layers() for what in _beyond_keras3(layer)]
    if found:
        listed = "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
        raise ConfigError(f"save: Keras 3 lacks {listed}; save it for Keras 2")


def _beyond_keras3(layer: Layer) -> Iterator[str]:
    if isinstance(layer, BatchNormalization):
        if layer.renorm:
            yield "BatchNormalization with renorm"
        if not layer.has_one_axis:
            yield "BatchNormalization over several axes"
    for name in layer._options:
        if name.endswith("_constraint") and isinstance(getattr(layer, name), RadialConstraint):
            yield f"RadialConstraint as {name}"
