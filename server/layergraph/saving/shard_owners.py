"""Finds the layers of the arrays of a TensorFlow.js model by the arrays' names.

The converter writes layers in alphabetical order (`dense_10` before `dense_2`), TensorFlow.js itself in the model's
order, and it loads them by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from layergraph.archive import StoredArray
from layergraph.functional.functional import Functional
from layergraph.functional.layer import Layer
from layergraph.saving.layouts import FileOrder, depth_first, layers_of, state_groups

#: Maximum number of parts of a name, of which all combinations are tried. Keras uses a handful.
_MOST_PARTS = 32


def arrays_by_layer(
    model: Functional, order: FileOrder, arrays: Sequence[StoredArray]
) -> dict[str, Sequence[StoredArray]] | None:
    """The arrays of each of the model's own layers, in the file's order; None if a name matches no unique layer."""
    owners = _owners(model, order)
    found: dict[str, list[StoredArray]] = {}
    for array in arrays:
        owner = next((owners[scope] for scope in _scopes(array.name) if scope in owners), None)
        if owner is None:
            return None
        found.setdefault(owner.name, []).append(array)
    return dict(found)


def _owners(model: Functional, order: FileOrder) -> dict[str, Layer | None]:
    """Names of all layers -> the layer of the model itself that contains them; None if several do."""
    owners: dict[str, Layer | None] = {}
    for layer in layers_of(model, order):
        if not depth_first(layer, order):
            continue
        for name in {inner.name for _, inner in state_groups(layer, order)}:
            owners[name] = None if owners.get(name, layer) is not layer else layer
    return owners


def _scopes(name: str) -> Iterator[str]:
    """Candidates for a layer's name in `model/block/conv/kernel`: outermost first, then longest first."""
    parts = name.split("/", _MOST_PARTS + 1)[:-1]
    if len(parts) > _MOST_PARTS:
        return
    for start in range(len(parts)):
        for end in range(len(parts), start, -1):
            yield "/".join(parts[start:end])
