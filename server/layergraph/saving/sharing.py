"""Layers that several models or wrappers share, and how a file marks them as the same.

Keras creates a layer with a `shared_object_id` once. But it numbers a layer's calls across all models that share it, in
the order in which it rebuilds them, while its files number them by model: stock Keras can't load its own files of a
layer that a model and its submodel share. So calls are numbered here as Keras will count them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from layergraph.functional.functional import Functional
from layergraph.functional.input import InputLayer
from layergraph.functional.layer import Layer
from layergraph.saving.mask_nodes import WrittenGraph

#: Layer -> its `shared_object_id`.
SharedIds = Mapping[Layer, int]


class WrittenModel:
    """A model with all nested models, as it is saved.

    graphs   the graph of each model that isn't Sequential
    shared   ids of the layers that are in several places
    """

    def __init__(self, model: Functional) -> None:
        models = [layer for layer in model.walk_layers() if isinstance(layer, Functional)]
        self.graphs = {one: WrittenGraph(one) for one in models if one.built and one.keras_class_name != "Sequential"}
        self.shared: SharedIds = {layer: number for number, layer in enumerate(_shared(model), 1)}
        self._calls: Counter[Layer] = Counter()
        self._first: dict[tuple[Functional, Layer], int] = {}
        self._rebuilt: set[Functional] = set()
        self._rebuild(model)

    def first_call(self, model: Functional, layer: Layer) -> int:
        """The index that Keras will give the first call of `layer` in `model`."""
        return self._first.get((model, layer), 0)

    def layers(self, model: Functional) -> list[Layer]:
        """The layers of a model in the order in which Keras will create them and number their weights."""
        graph = self.graphs.get(model)
        return model.layers if graph is None else [layer for layer in graph.graph.layers if not layer.is_operation]

    def _rebuild(self, model: Functional) -> None:
        """Counts the calls that Keras makes when it rebuilds a model: first nested models, then its own calls."""
        if model in self._rebuilt:
            return
        self._rebuilt.add(model)
        layers = self.layers(model)
        for layer in layers:
            for inner in _models_in(layer):
                self._rebuild(inner)
        self._first.update({(model, layer): self._calls[layer] for layer in layers if self._calls[layer]})
        graph = self.graphs.get(model)
        for place, layer in enumerate(layers):
            # A Sequential is rebuilt after each added layer.
            calls = len(layers) - place if graph is None else len(graph.graph.nodes_of(layer))
            self._calls[layer] += 0 if isinstance(layer, InputLayer) else calls


def _shared(model: Functional) -> list[Layer]:
    """The layers that are in several others. InputLayers are never shared, even if a file marks them so."""
    holders = Counter(
        inner
        for layer in model.walk_layers()
        for inner in layer.sublayers.values()
        if not isinstance(inner, InputLayer)
    )
    return [inner for inner, count in holders.items() if count > 1]


def _models_in(layer: Layer) -> Iterator[Functional]:
    """The models that a layer contains, or the layer itself if it is one."""
    if isinstance(layer, Functional):
        yield layer
        return
    for inner in layer.sublayers.values():
        yield from _models_in(inner)
