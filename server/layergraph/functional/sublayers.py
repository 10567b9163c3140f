"""Layers among the attributes of a custom layer: its sublayers, by their paths and in the order of Keras's files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from layergraph.functional.nest import flatten

if TYPE_CHECKING:
    from layergraph.functional.layer import Layer

#: Attributes of every layer that hold layers or weights, but aren't set by a subclass.
OWN_ATTRIBUTES = frozenset({"own_weights", "sublayers", "inbound_nodes", "stored_form", "call_argument_names"})


def holds_layers(name: str, value: Any) -> bool:
    """Whether an attribute with this name and value holds sublayers."""
    return name not in OWN_ATTRIBUTES and any(_layers_in(name, value))


def find_sublayers(layer: Layer, *, appended: bool = True) -> None:
    """Lists the layers among the attributes as sublayers, by their paths in Keras's files.

    With `appended`, those that are new were added to lists since, most likely in the order in which they were made.
    """
    # A layer held by several attributes is saved by Keras under the alphabetically first.
    paths = _paths(layer, min)
    # Sublayers that a class of this package lists itself, under names that aren't attributes.
    kept = {path: inner for path, inner in layer.sublayers.items() if path.partition("/")[0] not in vars(layer)}
    # Keras 3, also in an `.h5`, lists layers in the order in which it gets them: those found earlier come first.
    known = dict.fromkeys(inner for inner in layer.sublayers.values() if inner in paths)
    found = [inner for inner in paths if inner not in known]
    if appended:
        found.sort(key=lambda inner: inner.number)
    layer.sublayers.clear()
    layer.sublayers.update({**kept, **{paths[inner]: inner for inner in [*known, *found]}})


def _paths(layer: Layer, choose: Callable[[str, str], str]) -> dict[Layer, str]:
    """Maps the layers among the attributes to their paths; `choose` takes one of two."""
    paths: dict[Layer, str] = {}
    for name, value in vars(layer).items():
        if name not in OWN_ATTRIBUTES:
            for path, inner in _layers_in(name, value):
                paths[inner] = choose(path, paths.get(inner, path))
    return paths


def last_paths(layer: Layer) -> dict[str, Layer]:
    """The sublayers by the alphabetically last of their paths, as Keras 2.15 saves them."""
    paths = _paths(layer, max) if layer.computes_by_call else {}
    return {paths.get(inner, path): inner for path, inner in layer.sublayers.items()}


def list_as_in_keras2(layer: Layer) -> None:
    """Lists the sublayers of a class with `call` by its attributes, in the order in which those were last set.

    Weights in an `.h5` and optimizer states have this order: tf.keras notes a list when it is set, with what it will
    hold, and takes a dict's layers by their keys.
    """
    attributes = {name: value for name, value in vars(layer).items() if name not in OWN_ATTRIBUTES}
    listed = dict.fromkeys(leaf for leaf in flatten(list(attributes.values())) if is_layer(leaf))
    paths = {inner: path for path, inner in layer.sublayers.items()}
    layer.sublayers.clear()
    layer.sublayers.update({paths[inner]: inner for inner in dict.fromkeys([*listed, *paths]) if inner in paths})


def _layers_in(path: str, value: Any) -> Iterator[tuple[str, Layer]]:
    """Yields the layers in an attribute with their paths: `blocks/dense_1` is a list's second Dense (saving_lib)."""
    if is_layer(value):
        yield path, value
        return
    if not isinstance(value, (list, tuple, dict)):
        return
    used: Counter[str] = Counter()
    for item in value.values() if isinstance(value, dict) else value:
        nested = isinstance(item, (list, tuple, dict))
        if not nested and not is_layer(item):
            continue
        name = "container" if nested else item.group_name
        yield from _layers_in(f"{path}/{name}" + (f"_{used[name]}" if used[name] else ""), item)
        used[name] += 1


def is_layer(value: Any) -> bool:
    """Whether a value is a layer that isn't an operation."""
    # `Layer` can't be imported here, as its module imports this one.
    return hasattr(type(value), "inner_model") and not value.is_operation
