"""All nodes of all layers of a graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from layergraph.functional.graph import Graph
from layergraph.functional.layer_nodes import LayerNode, LayerNodes, NodeTensor
from layergraph.functional.node import Node
from layergraph.functional.tensor import Tensor

if TYPE_CHECKING:
    from layergraph.functional.functional import Functional


def node_table(model: Functional, prefix: str = "") -> tuple[LayerNodes, ...]:
    """Returns the layers of a model in Keras's order, a nested model's layers right after it."""
    return tuple(_rows(model, prefix))


def output_nodes(model: Functional, prefix: str = "") -> tuple[NodeTensor, ...]:
    """Returns the tensors that a model's outputs are, in flat order."""
    return tuple(_tensor(model.graph, tensor, prefix, "") for tensor in model.outputs)


def _rows(model: Functional, prefix: str) -> Iterator[LayerNodes]:
    graph = model.graph
    for layer in graph.layers:
        inner = layer.inner_model
        yield LayerNodes(
            path=prefix + layer.name,
            name=layer.name,
            class_name=layer.keras_class_name,
            nodes=tuple(_node(graph, node, prefix) for node in graph.nodes_of(layer)),
            parameter_count=layer.count_params(),
            trainable=layer.trainable,
            nested_outputs=() if inner is None else output_nodes(inner, f"{prefix}{layer.name}/"),
        )
        if inner is not None:
            yield from _rows(inner, f"{prefix}{layer.name}/")


def _node(graph: Graph, node: Node, prefix: str) -> LayerNode:
    return LayerNode(
        index=graph.numbers[node],
        inputs=tuple(_tensor(graph, tensor, prefix, argument) for argument, tensor in node.named_inputs()),
        outputs=tuple(_tensor(graph, tensor, prefix, "") for tensor in node.output_tensors),
    )


def _tensor(graph: Graph, tensor: Tensor, prefix: str, argument: str) -> NodeTensor:
    layer, node_index, tensor_index = tensor.history
    return NodeTensor(
        layer=prefix + layer.name,
        node_index=graph.numbers[layer.inbound_nodes[node_index]],
        tensor_index=tensor_index,
        shape=tensor.shape,
        dtype=tensor.dtype,
        argument=argument,
        masked=tensor.mask_shape is not None,
    )
