"""Enabling LoRA in the layers of a model by patterns of their names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch

from layergraph.errors import ConfigError, unknown_name
from layergraph.functional.layer import Layer
from layergraph.layers.lora import LoraLayer
from layergraph.training.freezing import layer_paths, unfreeze_only
from layergraph.training.trainer import Trainer


def adaptable_paths(model: Trainer) -> dict[str, LoraLayer]:
    """The layers into whose kernels LoRA weights can be merged, by path, also inside of others: `attention/query`."""
    found: dict[str, LoraLayer] = {}
    for outer, layer in layer_paths(model).items():
        for path, inner in _walk(outer, layer):
            if isinstance(inner, LoraLayer) and inner.merges_lora and inner not in found.values():
                found[path] = inner
    return found


def _walk(path: str, layer: Layer) -> Iterator[tuple[str, Layer]]:
    yield path, layer
    if layer.inner_model is None:
        for inner in layer.sublayers.values():
            yield from _walk(f"{path}/{inner.name}", inner)


def adapt(model: Trainer, patterns: Sequence[str], rank: int, alpha: float | None = None, seed: int = 0) -> list[str]:
    """Enables LoRA in the layers that the patterns match, and unfreezes these: as in Keras, their biases are trained.

    Patterns are those of `freezing.freeze`. `seed` determines the initial LoRA weights. A layer that has some of this
    rank and alpha keeps them. Returns the paths of the layers.

    Raises ConfigError for a pattern that matches no layer that takes LoRA weights, and as `enable_lora` does; layers
    may be adapted already then.
    """
    layers = adaptable_paths(model)
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in layers):
            raise ConfigError(
                f"lora: pattern '{pattern}' matches no Dense, EinsumDense, Embedding or convolution: "
                + unknown_name("layer", pattern, layers)
            )
    chosen = [path for path in layers if any(fnmatchcase(path, pattern) for pattern in patterns)]
    if model.compiled:
        # The optimizer's state in the file belongs to the weights that have been trainable so far: load it first.
        _ = model.optimizer
    trained = {path: layers[path].trainable and model.trainable for path in chosen}
    unfreeze_only(model, [layers[path] for path in chosen])
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        for path in chosen:
            _adapt(layers[path], rank, alpha, trained=trained[path])
    return chosen


def _adapt(layer: LoraLayer, rank: int, alpha: float | None, *, trained: bool) -> None:
    if (kept := layer.lora) is not None:
        if (kept.rank, kept.alpha) != (rank, rank if alpha is None else alpha):
            has = f"LoRA weights of rank {kept.rank} and alpha {kept.alpha:g}"
            raise ConfigError(f"lora: layer '{layer.name}' has {has} already, expected the same")
        kept.base.trainable = False
    else:
        layer.enable_lora(rank, alpha)
    if (lora := layer.lora) is not None:
        layer.lora = replace(lora, trained=trained)
        for weight in (lora.a, lora.b):
            # Created now, from the seed.
            _ = weight.value
