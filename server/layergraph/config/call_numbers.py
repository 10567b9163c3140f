"""Node indices in references to tensors: converts each release's numbering to that of Keras 3.15, from 0."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from layergraph.config.keras_versions import FIRST_CALL, OWN_KEY
from layergraph.config.spec import CallSpec, LayerSpec, Structure, TensorRef, references


def counted_as_keras3(
    layers: list[LayerSpec], outputs: Structure, items: Mapping[str, Any], *, early: bool
) -> tuple[list[LayerSpec], Structure]:
    """Renumbers layers and outputs of a model in a file of Keras 3. `items` are the layers' objects by name.

    `early` means that the file may be of a release before 3.3.
    """
    # In a model's outputs only, Keras 3 numbers the calls of a Functional from 1.
    functional = {layer.name: 1 for layer in layers if layer.graph is not None and not layer.graph.sequential}
    outputs = _renumbered(outputs, _from_first(functional))
    firsts = _first_calls(items)
    if firsts:
        layers, outputs = _all_renumbered(layers, outputs, _from_first(firsts))
    return (_counted_in_file(layers, outputs) if early else layers), outputs


def counted_as_keras2(layers: list[LayerSpec], outputs: Structure) -> tuple[list[LayerSpec], Structure]:
    """Renumbers layers and outputs: Keras 2 counts the building of a model as its node 0, so its first call in the
    graph is node 1. Exceptions are recognized by the references.
    """
    models = {layer.name: len(layer.calls) for layer in layers if layer.graph is not None}
    if not models:
        return layers, outputs
    used = _numbers_used(layers, outputs)
    shifted = {name: 1 for name, count in models.items() if 0 not in used[name] or count in used[name]}
    layers = [replace(layer, first_call=1) if layer.name in shifted else layer for layer in layers]
    return _all_renumbered(layers, outputs, _from_first(shifted))


def _counted_in_file(layers: list[LayerSpec], outputs: Structure) -> list[LayerSpec]:
    """Renumbers calls of releases before 3.3, which also count calls outside of the model, but not in its outputs.

    All calls in a file are needed, so the numbers in references, sorted, are those of the calls.
    """
    used, shown = _numbers_used(layers, None), _numbers_used([], outputs)
    ranks: dict[str, dict[int, int]] = {}
    for layer in layers:
        count, seen = len(layer.calls), used[layer.name]
        if not seen or seen | shown[layer.name] == set(range(count)):
            continue
        needed = [i for i in range(count) if len(seen) == count or i not in shown[layer.name]]
        if len(needed) == len(seen):
            ranks[layer.name] = dict(zip(sorted(seen), needed, strict=True))
    if not ranks:
        return layers
    return _all_renumbered(layers, None, lambda ref: ranks.get(ref.layer, {}).get(ref.node, ref.node))[0]


def _first_calls(items: Mapping[str, Any]) -> dict[str, int]:
    """Returns the first node index of each layer for which a file of ours has one other than 0."""
    own = {name: item.get(OWN_KEY) for name, item in items.items()}
    firsts = {name: mine.get(FIRST_CALL) for name, mine in own.items() if isinstance(mine, dict)}
    return {name: first for name, first in firsts.items() if type(first) is int and first > 0}


def _from_first(firsts: Mapping[str, int]) -> Callable[[TensorRef], int]:
    """Returns a function that renumbers the calls of some layers from 0 instead of from their first index."""

    def number(ref: TensorRef) -> int:
        first = firsts.get(ref.layer, 0)
        return ref.node - first if ref.node >= first else ref.node

    return number


def _all_renumbered(
    layers: list[LayerSpec], outputs: Structure, number: Callable[[TensorRef], int]
) -> tuple[list[LayerSpec], Structure]:
    calls = [
        tuple(CallSpec(*(_renumbered(part, number) for part in (c.args, c.kwargs, c.stored))) for c in one.calls)
        for one in layers
    ]
    renumbered = [replace(one, calls=made) for one, made in zip(layers, calls, strict=True)]
    return renumbered, _renumbered(outputs, number)


def _renumbered(structure: Structure, number: Callable[[TensorRef], int]) -> Structure:
    if isinstance(structure, TensorRef):
        node = number(structure)
        return structure if node == structure.node else replace(structure, node=node)
    if isinstance(structure, (list, tuple)):
        return type(structure)(_renumbered(item, number) for item in structure)
    if isinstance(structure, Mapping):
        return {key: _renumbered(item, number) for key, item in structure.items()}
    return structure


def _numbers_used(layers: list[LayerSpec], outputs: Structure) -> dict[str, set[int]]:
    """Returns the node indices in references, by layer."""
    used: dict[str, set[int]] = defaultdict(set)
    for reference in references([[call.args, call.kwargs] for layer in layers for call in layer.calls] + [outputs]):
        used[reference.layer].add(reference.node)
    return used
