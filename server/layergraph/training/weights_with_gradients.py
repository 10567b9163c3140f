"""Which weights get gradients: those that a loss or a regularizer depends on."""

from __future__ import annotations

from layergraph.functional.functional import Functional
from layergraph.functional.layer import Layer
from layergraph.functional.nest import flatten
from layergraph.functional.weight import Weight
from layergraph.training.compile import Compiled


def weights_with_gradients(model: Functional, compiled: Compiled) -> list[Weight]:
    """The trainable weights, in the model's order, without those that only outputs without a loss depend on."""
    graph = model.graph
    outputs = flatten(graph.outputs)
    ends = [tensor for index, tensor in enumerate(outputs) if compiled.has_loss(index)]
    regularized = {layer for layer in model.walk_layers() if layer.activity_regularizer is not None}
    for layer in graph.layers:
        if not regularized.isdisjoint(layer.walk_layers()):
            ends += [tensor for node in graph.nodes_of(layer) for tensor in node.output_tensors]
    layers: set[Layer] = set()
    seen: set[int] = set()
    while ends:
        layer, index, _ = ends.pop().history
        node = layer.inbound_nodes[index]
        if id(node) not in seen:
            seen.add(id(node))
            layers.add(layer)
            ends += node.input_tensors
    reached = {weight for layer in layers for weight in layer.trainable_weights}
    return [weight for weight in model.trainable_weights if weight in reached or weight.regularizer is not None]
