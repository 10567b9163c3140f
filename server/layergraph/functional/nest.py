"""Nested structures: lists, tuples and dicts, flattened and mapped in Keras's order (dicts by sorted key)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

#: Any nesting of list, tuple and dict.
Structure: TypeAlias = Any


def flatten(structure: Structure) -> list[Any]:
    """Returns the leaves, left to right."""
    leaves: list[Any] = []
    _add_leaves(structure, leaves)
    return leaves


def _add_leaves(structure: Structure, leaves: list[Any]) -> None:
    if isinstance(structure, dict):
        for key in sorted(structure):
            _add_leaves(structure[key], leaves)
    elif isinstance(structure, (list, tuple)):
        for item in structure:
            _add_leaves(item, leaves)
    else:
        leaves.append(structure)


def walk(structure: Structure, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yields each leaf with its path of keys and indices."""
    if isinstance(structure, dict):
        for key in sorted(structure):
            yield from walk(structure[key], (*path, key))
    elif isinstance(structure, (list, tuple)):
        for index, item in enumerate(structure):
            yield from walk(item, (*path, index))
    else:
        yield path, structure


def map_structure(change: Callable[[Any], Any], structure: Structure) -> Structure:
    """Returns the same structure with `change` applied to every leaf."""
    if isinstance(structure, dict):
        return {key: map_structure(change, structure[key]) for key in sorted(structure)}
    if isinstance(structure, (list, tuple)):
        return type(structure)(map_structure(change, item) for item in structure)
    return change(structure)


def pack(structure: Structure, leaves: list[Any]) -> Structure:
    """Returns the structure with its leaves replaced by `leaves`, in flat order."""
    remaining = iter(leaves)
    return map_structure(lambda _: next(remaining), structure)


def single_or_list(items: list[Any]) -> Any:
    """Returns the item itself if there is one, otherwise the list, as Keras returns inputs and outputs."""
    return items[0] if len(items) == 1 else items
