"""Freezing and unfreezing layers of a model by patterns of their names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from layergraph.errors import ConfigError, unknown_name
from layergraph.functional.functional import Functional
from layergraph.functional.layer import Layer
from layergraph.training.trainer import Trainer


def layer_paths(model: Functional) -> dict[str, Layer]:
    """All layers by path: `layer`, or `outer/inner` inside of a nested model; outer layers first."""
    return dict(_paths(model, ""))


def _paths(model: Functional, prefix: str) -> Iterator[tuple[str, Layer]]:
    for layer in model.layers:
        path = prefix + layer.name
        yield path, layer
        if layer.inner_model is not None:
            yield from _paths(layer.inner_model, path + "/")


def freeze(model: Trainer, patterns: Sequence[str]) -> list[str]:
    """Freezes layers and all layers inside of them, as `layer.trainable = False` does in Keras.

    Patterns are paths with the wildcards `*`, `?` and `[...]`, which also match slashes (fnmatch). Returns the paths of
    the matching layers. The optimizer keeps its state for the weights that are still trained.

    Raises ConfigError for a pattern that matches no layer; nothing is changed then.
    """
    return _set_trainable(model, patterns, trainable=False)


def unfreeze(model: Trainer, patterns: Sequence[str]) -> list[str]:
    """Makes layers, and all layers inside of them, trainable; see `freeze`.

    Layers inside of a frozen model are trained, too. If the whole model is frozen, only the matching ones are trained.
    """
    return _set_trainable(model, patterns, trainable=True)


def _set_trainable(model: Trainer, patterns: Sequence[str], *, trainable: bool) -> list[str]:
    layers = layer_paths(model)
    chosen = [path for path in layers if any(fnmatchcase(path, pattern) for pattern in patterns)]
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in layers):
            raise ConfigError(f"pattern '{pattern}' matches no layer: " + unknown_name("layer", pattern, layers))
    if not chosen:
        return []
    if model.compiled:
        # The optimizer's state in the file belongs to the weights that have been trainable so far: load it first.
        _ = model.optimizer
    if trainable:
        unfreeze_only(model, [layers[path] for path in chosen])
    else:
        for path in chosen:
            layers[path].trainable = False
    return chosen


def unfreeze_only(model: Trainer, layers: Sequence[Layer]) -> None:
    """Makes layers trainable, of a frozen model no others."""
    if not model.trainable:
        model.trainable = True
        for layer in layer_paths(model).values():
            layer.trainable = False
    for layer in layers:
        layer.trainable = True
