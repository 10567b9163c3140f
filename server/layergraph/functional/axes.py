"""Checks options that name axes: on torch's `meta` device, many functions accept axes that don't exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from layergraph.errors import GraphError
from layergraph.functional.nest import flatten
from layergraph.functional.tensor import Shape

if TYPE_CHECKING:
    from layergraph.functional.layer import Layer

#: Options with one axis or several.
_NAMES = ("axis", "axis1", "axis2")


def check_axes(layer: Layer, shapes: Sequence[Shape]) -> None:
    """Raises GraphError if an option names an axis that neither an input nor the result has."""
    names = [name for name in _NAMES if name in layer._options]
    if not names or not shapes:
        return
    largest = max(shapes, key=len)
    # A scalar has the axes 0 and -1, as in torch.
    for name in names:
        given = getattr(layer, name)
        rank = max(1, len(largest) + (len(flatten(given)) if layer.inserts_axis else 0))
        for axis in flatten(given):
            if isinstance(axis, int) and not -rank <= axis < rank:
                raise GraphError(
                    f"layer '{layer.name}' ({type(layer).__name__}): option '{name}' is {given}, expected axes from "
                    f"{-rank} to {rank - 1} for shape {largest}"
                )
