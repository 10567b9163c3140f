"""Copies of layers, with their weights, for calls in another graph: the model's own layers get no further nodes."""

from __future__ import annotations

from typing import Any

from layergraph.functional.layer import Layer


def copy_of(layer: Layer, name: str, **options: Any) -> Any:
    """Returns a layer of the same class, options, weights and sublayers, with another name and no calls.

    `options` replaces some of the options.
    """
    made: Any = object.__new__(type(layer))
    vars(made).update(vars(layer))
    vars(made).update({"inbound_nodes": [], "stored_form": None})
    made.name = name
    for option, value in options.items():
        setattr(made, option, value)
    return made


class Names:
    """Names that are unique within a graph. Slashes, which Keras's names can't have, become underscores."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def free(self, wanted: str) -> str:
        """Returns the name, with a number if it is taken."""
        name = wanted = wanted.replace("/", "_")
        number = 0
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name
