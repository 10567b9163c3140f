"""LoRA weights of `.h5` files, which hold them beside their kernel: they are merged into it, as a `.keras` has them.

The formula is that of Keras 3 (`Dense.kernel`): kernel + alpha / rank * a @ b.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layergraph.archive import StoredArray
from layergraph.functional.layer import Layer
from layergraph.saving.old_layouts import Derived

_PART = re.compile(r"lora_(\w+)_([ab])")


def merged_lora(layer: Layer, arrays: Sequence[StoredArray]) -> list[StoredArray]:
    """Returns the arrays of a layer, of which kernels with LoRA weights are merged with them, and so are trainable.

    Unchanged if there are no such arrays, or any of them don't fit.
    """
    groups: dict[str, dict[str, StoredArray]] = {}
    for array in arrays:
        group, name = _split(array.name)
        groups.setdefault(group, {})[name] = array
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
    if kernel is None or not a.shape or (*a.shape[:-1], *b.shape[1:]) != kernel.shape or a.shape[-1:] != b.shape[:1]:
        return None
    scale = _alpha(layer, group.rpartition("/")[2], a.shape[-1]) / max(1, a.shape[-1])

    def compute(kernel: np.ndarray[Any, Any], a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> Any:
        return kernel + (scale * np.tensordot(a, b, 1)).astype(kernel.dtype)

    return base, Derived((kernel, a, b), kernel.shape, compute)


def _alpha(layer: Layer, name: str, rank: int) -> float:
    """Returns `lora_alpha` of a layer, or of the one with that name in it; by default the rank."""
    inner = next((one for one in layer.walk_layers() if one.name == name), layer)
    return rank if inner.lora_alpha is None else inner.lora_alpha
