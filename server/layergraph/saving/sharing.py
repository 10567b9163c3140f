"""Layers that lie in several places of a model: how a file says that they are one.

Keras makes a layer with a `shared_object_id` once. But it counts a layer's calls over all models that it lies in, in
the order in which it rebuilds them, and takes a file's numbers of calls for such: stock Keras can't open its own files
of a layer that a model and its submodel share. So the calls are numbered here as Keras will count them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from layergraph.functional.functional import Functional
from layergraph.functional.input import InputLayer
from layergraph.functional.layer import Layer
from layergraph.saving.mask_nodes import WrittenGraph

#: Layer -> the number by which a file says that it is one and the same in several places.
SharedIds = Mapping[Layer, int]


class WrittenModel:
    """A model with all models in it, as a file has them.

    graphs   each model's graph, but for Sequentials
    shared   numbers of the layers that lie in several places
    """

    def __init__(self, model: Functional) -> None:
        models = [layer for layer in model.walk_layers() if isinstance(layer, Functional)]
        self.graphs = {one: WrittenGraph(one) for one in models if one.built and one.keras_class_name == "Functional"}
        self.shared: SharedIds = {layer: number for number, layer in enumerate(_shared(model), 1)}
        self._calls: Counter[Layer] = Counter()
        self._first: dict[tuple[Functional, Layer], int] = {}
        self._rebuilt: set[Functional] = set()
        self._rebuild(model)

    def first_call(self, model: Functional, layer: Layer) -> int:
        """The number that Keras will give the first call of `layer` in `model`."""
        return self._first.get((model, layer), 0)

    def layers(self, model: Functional) -> list[Layer]:
        """The layers of a model in the order in which Keras will have them, and number their weights."""
        graph = self.graphs.get(model)
        return model.layers if graph is None else [layer for layer in graph.graph.layers if not layer.is_operation]

    def _rebuild(self, model: Functional) -> None:
        """Counts the calls that Keras makes, as it rebuilds a model: first the models in it, then its own calls."""
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
            # A Sequential is rebuilt with each layer that is added.
            calls = len(layers) - place if graph is None else len(graph.graph.nodes_of(layer))
            self._calls[layer] += 0 if isinstance(layer, InputLayer) else calls


def _shared(model: Functional) -> list[Layer]:
    """The layers that several layers hold. Each model has inputs of its own, whatever a file says."""
    holders = Counter(
        inner
        for layer in model.walk_layers()
        for inner in layer.sublayers.values()
        if not isinstance(inner, InputLayer)
    )
    return [inner for inner, count in holders.items() if count > 1]


def _models_in(layer: Layer) -> Iterator[Functional]:
    """The models that a layer holds, or is."""
    if isinstance(layer, Functional):
        yield layer
        return
    for inner in layer.sublayers.values():
        yield from _models_in(inner)
