"""Where in the making of layers a weight is made: its path, by Keras's name scopes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layergraph.functional.layer import Layer

#: The layers that are being built, from the outside in.
_BUILDING: ContextVar[tuple[Layer, ...]] = ContextVar("building", default=())


@contextmanager
def building(layer: Layer) -> Iterator[None]:
    """What is built inside has `layer` in its path. Layers of functional models were built before, on their own."""
    outer = _BUILDING.get()
    token = _BUILDING.set(outer if layer in outer[-1:] else (*outer, layer))
    try:
        yield
    finally:
        _BUILDING.reset(token)


def path(layer: Layer, inner: str | None) -> str:
    """`bidirectional/forward_lstm/lstm_cell`: the layers around `layer`, itself, and the one inside that Keras has."""
    outer = _BUILDING.get()
    around = outer if layer in outer[-1:] else (*outer, layer)
    return "/".join([*(each.name for each in around), *([] if inner is None else [inner])])
