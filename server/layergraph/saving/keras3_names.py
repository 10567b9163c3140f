"""Names that Keras 3 takes: of layers and models, all but those with a slash, which separates names in its paths."""

from __future__ import annotations

from layergraph.errors import ConfigError
from layergraph.functional.functional import Functional
from layergraph.functional.layer import Layer


def check_names(model: Functional) -> None:
    """Raises ConfigError for names that Keras 3 refuses, so that it would refuse the file."""
    layers = dict.fromkeys([*_inputs(model), *model.walk_layers()])
    found = [layer.name for layer in layers if "/" in layer.name]
    if found:
        listed = ", ".join(f"'{name}'" for name in found[:5]) + (
            f" and {len(found) - 5} more" if len(found) > 5 else ""
        )
        raise ConfigError(
            f"save: Keras 3 takes no names of layers and models with '/' in them: {listed}; "
            "give them others where the model is made, or save it for Keras 2"
        )


def _inputs(model: Functional) -> list[Layer]:
    return [
        layer for one in model.walk_layers() if isinstance(one, Functional) and one.built for layer in one.graph.layers
    ]
