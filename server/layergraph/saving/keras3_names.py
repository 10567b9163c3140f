"""Checks names for Keras 3, which refuses '/' in names of layers and models since it separates names in paths."""

from __future__ import annotations

from layergraph.errors import ConfigError
from layergraph.functional.functional import Functional
from layergraph.functional.layer import Layer


def check_names(model: Functional) -> None:
    """Raises ConfigError for names that Keras 3 refuses."""
    layers = dict.fromkeys([*_inputs(model), *model.walk_layers()])
    found = [layer.name for layer in layers if "/" in layer.name]
    if found:
        listed = ", ".join(f"'{name}'" for name in found[:5]) + (
            f" and {len(found) - 5} more" if len(found) > 5 else ""
        )
        raise ConfigError(
            f"save: Keras 3 doesn't allow '/' in names of layers and models: {listed}; "
            "rename them where the model is created, or save it for Keras 2"
        )


def _inputs(model: Functional) -> list[Layer]:
    return [
        layer for one in model.walk_layers() if isinstance(one, Functional) and one.built for layer in one.graph.layers
    ]
