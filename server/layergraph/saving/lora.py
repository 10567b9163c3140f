"""LoRA weights in files, and files of models without those of the model: kernels merged with them.

The formula is that of Keras 3 (`Dense.kernel`): kernel + alpha / rank * a @ b. An `.h5` of Keras 3 holds the kernel and
both weights. A `.keras` has the merged kernel in its place; Keras starts with zeros then, from which nothing can be
trained. So both weights are there under their names, too, which only layergraph reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from layergraph.archive import StoredArray
from layergraph.errors import ConfigError
from layergraph.functional.binding import count_change
from layergraph.functional.functional import Functional
from layergraph.functional.layer import Layer
from layergraph.functional.weight import Weight
from layergraph.layers.quantized.kernels import QuantizedLayer
from layergraph.saving.old_layouts import Derived
from layergraph.training.trainer import Trainer

#: Layers that Keras reads from a config with the rank as alpha, whatever alpha is.
_WITHOUT_ALPHA = ("Dense", "Embedding")
_PART = re.compile(r"lora_(\w+)_([ab])")


def merged_lora(layer: Layer, arrays: Sequence[StoredArray]) -> list[StoredArray]:
    """Returns the arrays of a layer, of which kernels with LoRA weights are merged with them, and so are trainable.

    Unchanged if there are no such arrays, or any of them don't fit, or if the layer keeps them.
    """
    groups = _grouped(arrays)
    merged = {group: _merged(layer, group, named) for group, named in groups.items()}
    result: list[StoredArray] = []
    for array in arrays:
        group, name = _split(array.name)
        found = merged[group]
        if found is None:
            result.append(array)
            continue
        base, kernel = found
        if array is next(iter(groups[group].values())):
            # A frozen kernel is stored behind all trainable arrays, here it is the first of its layer's.
            result.append(kernel)
        if name != base and not _PART.fullmatch(name):
            result.append(array)
    return result


def _grouped(arrays: Sequence[StoredArray]) -> dict[str, dict[str, StoredArray]]:
    groups: dict[str, dict[str, StoredArray]] = {}
    for array in arrays:
        group, name = _split(array.name)
        groups.setdefault(group, {})[name] = array
    return groups


def _split(name: str) -> tuple[str, str]:
    group, _, name = name.partition(":")[0].rpartition("/")
    return group, name


def _merged(layer: Layer, group: str, named: Mapping[str, StoredArray]) -> tuple[str, Derived] | None:
    """Returns the name of a group's kernel and its merged array; None if it has no LoRA weights."""
    parts = {match[2]: (match[1], array) for name, array in named.items() if (match := _PART.fullmatch(name))}
    if parts.keys() != {"a", "b"}:
        return None
    (base, a), (_, b) = parts["a"], parts["b"]
    kernel = named.get(base)
    inner = _named(layer, group.rpartition("/")[2])
    if inner.lora is not None:
        return None
    if kernel is None or not a.shape or (*a.shape[:-1], *b.shape[1:]) != kernel.shape or a.shape[-1:] != b.shape[:1]:
        return None
    rank = a.shape[-1]
    scale = (rank if inner.lora_alpha is None else inner.lora_alpha) / max(1, rank)

    def compute(kernel: np.ndarray[Any, Any], a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> Any:
        return kernel + (scale * np.tensordot(a, b, 1)).astype(kernel.dtype)

    return base, Derived((kernel, a, b), kernel.shape, compute)


def _named(layer: Layer, name: str) -> Layer:
    """Returns the layer with that name in a layer, or else that layer."""
    return next((one for one in layer.walk_layers() if one.name == name), layer)


def unmerged(layer: Layer, weight: Weight, array: StoredArray, a: StoredArray, b: StoredArray) -> StoredArray:
    """Returns the array of one of a layer's weights; that of the kernel without the LoRA weights merged into it."""
    lora = layer.lora
    if lora is None or weight is not lora.base or (*a.shape[:-1], *b.shape[1:]) != array.shape:
        return array

    def compute(kernel: np.ndarray[Any, Any], a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> Any:
        return kernel - (lora.scale * np.tensordot(a, b, 1)).astype(kernel.dtype)

    return Derived((array, a, b), array.shape, compute)


def check_lora(model: Functional, suffix: str, generation: int) -> None:
    """Raises ConfigError if a file of this suffix and generation can't hold the LoRA weights of a model."""
    models = [one for one in model.walk_layers() if isinstance(one, Functional)]
    described = {layer for one in models if one.class_form is None for layer in one.layers}
    for layer in model.walk_layers():
        lora = layer.lora
        if lora is None:
            continue
        label = f"layer '{layer.name}' ({layer.keras_class_name})"
        if generation == 2:
            raise ConfigError(f"save: {label} has LoRA weights, which Keras 2 doesn't have; merge them")
        if layer not in described:
            raise ConfigError(f"save: {label} has LoRA weights, but no config of its own in a file; merge them")
        if suffix == ".keras" and isinstance(layer, QuantizedLayer):
            raise ConfigError(
                f"save: {label} has LoRA weights beside a quantized kernel, which Keras would round anew; use .h5"
            )
        if suffix == ".h5" and lora.alpha != lora.rank and layer.keras_class_name in _WITHOUT_ALPHA:
            raise ConfigError(
                f"save: {label} has LoRA weights of rank {lora.rank} and alpha {lora.alpha:g}, but from an .h5 Keras "
                "reads them as if alpha were the rank; merge them, or use .keras"
            )


@contextmanager
def merged_weights(model: Trainer) -> Iterator[None]:
    """Makes a model, meanwhile, one whose kernels are merged with their LoRA weights, and trainable as before them.

    It can be saved then, not trained. The optimizer's state for kernels is new in such a file.
    """
    layers = (layer for layer in model.walk_layers() if not isinstance(layer, QuantizedLayer))
    adapted = [(layer, layer.lora) for layer in layers if layer.lora is not None]
    if not adapted:
        yield
        return
    compiled = model.saved_compilation
    optimizer = None if compiled is None else compiled.optimizer
    if optimizer is not None:
        optimizer.build(model.trainable_weights)
    state = None if optimizer is None else optimizer.state()
    flags = [(layer, layer.trainable, [(w, w.trainable) for w in layer.weights]) for layer, _ in adapted]
    before = [(layer.own_weights, lora.base.exchange(lora.merged())) for layer, lora in adapted]
    try:
        for layer, lora in adapted:
            layer.own_weights = [weight for weight in layer.own_weights if weight not in (lora.a, lora.b)]
            layer.lora = None
            layer.trainable = lora.trained
        count_change()
        yield
    finally:
        for (layer, lora), (weights, base) in zip(adapted, before, strict=True):
            layer.own_weights, layer.lora = weights, lora
            lora.base.exchange(base)
        for layer, trainable, of_weights in flags:
            layer.trainable = trainable
            for weight, trained in of_weights:
                weight.trainable = trained
        count_change()
        if optimizer is not None and state is not None:
            optimizer.build(model.trainable_weights)
            optimizer.restore(state)
