"""Nested arguments: lists, tuples and dicts of tensors, flattened and mapped in Keras's order (dicts by sorted key)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

#: Any nesting of list, tuple and dict.
Structure: TypeAlias = Any


def flatten(structure: Structure) -> list[Any]:
    """The leaves, left to right."""
    return [leaf for _, leaf in walk(structure)]


def walk(structure: Structure, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """The leaves with the keys and indices that lead to them."""
    if isinstance(structure, dict):
        for key in sorted(structure):
            yield from walk(structure[key], (*path, key))
    elif isinstance(structure, (list, tuple)):
        for index, item in enumerate(structure):
            yield from walk(item, (*path, index))
    else:
        yield path, structure


def map_structure(change: Callable[[Any], Any], structure: Structure) -> Structure:
    """The same nesting with every leaf changed."""
    if isinstance(structure, dict):
        return {key: map_structure(change, structure[key]) for key in sorted(structure)}
    if isinstance(structure, (list, tuple)):
        return type(structure)(map_structure(change, item) for item in structure)
    return change(structure)


def pack(structure: Structure, leaves: list[Any]) -> Structure:
    """The nesting of `structure` with other leaves, given in flat order."""
    remaining = iter(leaves)
    return map_structure(lambda _: next(remaining), structure)


def single_or_list(items: list[Any]) -> Any:
    """The one item, or the list: how Keras gives back what is mostly one tensor."""
    return items[0] if len(items) == 1 else items
