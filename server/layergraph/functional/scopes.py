"""Paths of weights, from Keras's name scopes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layergraph.functional.layer import Layer
    from layergraph.functional.layer_weights import LayerWeights

#: The layers being built, outermost first.
_BUILDING: ContextVar[tuple[Layer, ...]] = ContextVar("building", default=())


@contextmanager
def building(layer: Layer) -> Iterator[None]:
    """Adds `layer` to the path of weights built inside. Layers of functional models are built earlier, on their own."""
    outer = _BUILDING.get()
    token = _BUILDING.set(outer if layer in outer[-1:] else (*outer, layer))
    try:
        yield
    finally:
        _BUILDING.reset(token)


def path(layer: LayerWeights, inner: str | None) -> str:
    """Returns a path such as `bidirectional/forward_lstm/lstm_cell`: the enclosing layers, `layer`, and `inner`, the
    name of a layer that only Keras has there.
    """
    outer = _BUILDING.get()
    around = outer if layer in outer[-1:] else (*outer, layer)
    return "/".join([*(each.name for each in around), *([] if inner is None else [inner])])
