"""Lengths that a file leaves open although the statistics of a Normalization have them.

Up to TensorFlow 2.15, a Normalization that is adapted before the model is built takes data of unknown lengths, and
makes the model's input so. TensorFlow itself opens such a model as a SavedModel only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from layergraph.archive import ArrayList, ModelArchive, StateTree, StoredArray
from layergraph.archive.weights import Group
from layergraph.config.names import snake_case
from layergraph.config.spec import GraphSpec, LayerSpec, TensorRef
from layergraph.functional.tensor import Shape

#: What Keras 2.13 to 2.15 call the groups of a model's layers.
_LAYERS = ("layers", "_layer_checkpoint_dependencies")
_STATISTIC = "mean"


def with_adapted_lengths(spec: GraphSpec, archive: ModelArchive) -> GraphSpec:
    """Returns the graph, with the lengths of its statistics in the shapes of inputs that are normalized first."""
    if not _normalizations(spec):
        return spec
    weights = archive.weights
    if isinstance(weights, ArrayList):
        return spec
    if isinstance(weights, StateTree):
        return _completed(spec, dict(_in_tree(spec, weights.root, "")))
    layers = weights.layers()
    found: dict[str, Shape] = {}
    for layer in spec.layers:
        inside = [layer.name] if layer.graph is None else _normalizations(layer.graph, layer.name)
        if layer.class_name == "Normalization" or layer.graph is not None:
            means = [array for array in layers.get(layer.name, ()) if _is_statistic(array)]
            found.update((name, mean.shape) for name, mean in zip(inside, means, strict=False))
    return _completed(spec, found)


def _normalizations(spec: GraphSpec, path: str = "") -> list[str]:
    """Paths of the layers that have statistics among their weights, nested ones as `outer/inner`."""
    found: list[str] = []
    for layer in spec.layers:
        name = f"{path}/{layer.name}".lstrip("/")
        if layer.graph is not None:
            found += _normalizations(layer.graph, name)
        elif layer.class_name == "Normalization" and layer.config.get("mean") is None:
            found.append(name)
    return found


def _is_statistic(array: StoredArray) -> bool:
    return array.name.rpartition("/")[2].partition(":")[0] == _STATISTIC


def _in_tree(spec: GraphSpec, root: Group, path: str) -> Iterator[tuple[str, Shape]]:
    """Shapes of the means below a group in Keras 3's layout, which numbers the layers of a class in their order."""
    layers = next((group for name in _LAYERS if (group := root.group(name)) is not None), None)
    if layers is None:
        return
    kinds = {"Normalization", *(layer.class_name for layer in spec.layers if layer.graph is not None)}
    for kind in sorted(kinds):
        groups = _numbered(layers, snake_case(kind))
        # Statistics that the config has are no weights.
        stored = [one for one in spec.layers if one.class_name == kind and one.config.get("mean") is None]
        for layer, group in zip(stored, groups, strict=False):
            name = f"{path}/{layer.name}".lstrip("/")
            if layer.graph is not None:
                yield from _in_tree(layer.graph, group, name)
            elif (mean := group.array("vars/0") or group.array(f"vars/{_STATISTIC}")) is not None:
                yield name, mean.shape


def _numbered(layers: Group, name: str) -> list[Group]:
    """The groups of a class that have members, in order of their numbers: `normalization`, `normalization_1`."""
    pattern = re.compile(rf"{re.escape(name)}(?:_([0-9]{{1,9}}))?")
    matches = [match for member in layers.member_names() if (match := pattern.fullmatch(member)) is not None]
    matches.sort(key=lambda match: int(match[1] or 0))
    return [group for match in matches if (group := layers.group(match[0])) is not None and len(group)]


def _completed(spec: GraphSpec, means: dict[str, Shape], path: str = "") -> GraphSpec:
    """Returns the graph with the shapes of its InputLayers completed, nested models first."""
    layers = [
        layer
        if layer.graph is None
        else replace(layer, graph=_completed(layer.graph, means, f"{path}/{layer.name}".lstrip("/")))
        for layer in spec.layers
    ]
    for place, source, layer in _fed(spec.sequential, layers):
        shape = _wanted(layer, means.get(f"{path}/{layer.name}".lstrip("/")), source.config.get("batch_shape"))
        if shape is not None:
            layers[place] = replace(source, config={**source.config, "batch_shape": shape})
    return replace(spec, layers=tuple(layers))


def _fed(sequential: bool, layers: Sequence[LayerSpec]) -> Iterator[tuple[int, LayerSpec, LayerSpec]]:
    """Yields InputLayers, with their places, and each layer that is called on their outputs alone."""
    if sequential:
        if len(layers) > 1 and layers[0].class_name == "InputLayer":
            yield 0, layers[0], layers[1]
        return
    places = {layer.name: place for place, layer in enumerate(layers) if layer.class_name == "InputLayer"}
    for layer in layers:
        for call in layer.calls:
            given = call.args[0] if len(call.args) == 1 else None
            if isinstance(given, TensorRef) and given.layer in places:
                yield places[given.layer], layers[places[given.layer]], layer


def _wanted(layer: LayerSpec, mean: Shape | None, shape: object) -> list[int | None] | None:
    """The shape of an input that the layer is called on, if it is better known than `shape`."""
    if not isinstance(shape, (list, tuple)):
        return None
    lengths = list(shape)
    if layer.graph is not None:
        inner = layer.graph.layers[0] if layer.graph.layers else layer
        known = inner.config.get("batch_shape") if inner.class_name == "InputLayer" else None
        if not isinstance(known, (list, tuple)) or len(known) != len(lengths):
            return None
        lengths = [n if n is not None or place == 0 else known[place] for place, n in enumerate(lengths)]
    elif mean:
        axes = layer.config.get("axis", -1)
        axes = axes if isinstance(axes, (list, tuple)) else [axes]
        if not all(isinstance(axis, int) and -len(lengths) <= axis < len(lengths) for axis in axes):
            return None
        kept = sorted(axis % len(lengths) for axis in axes)
        if len(kept) != len(mean):
            return None
        for axis, length in zip(kept, mean, strict=True):
            lengths[axis] = length if lengths[axis] is None else lengths[axis]
    return lengths if lengths != list(shape) else None
