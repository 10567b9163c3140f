"""All nodes of all layers of a graph, as plain data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from layergraph.functional.graph import Graph
from layergraph.functional.node import Node
from layergraph.functional.tensor import Shape, Tensor

if TYPE_CHECKING:
    from layergraph.functional.functional import Functional


@dataclass(frozen=True, slots=True)
class NodeTensor:
    """A tensor at a node: its history, shape and dtype, and the name of its argument (empty for outputs)."""

    layer: str
    node_index: int
    tensor_index: int
    shape: Shape
    dtype: str
    argument: str
    masked: bool


@dataclass(frozen=True, slots=True)
class LayerNode:
    """One call of a layer."""

    index: int
    inputs: tuple[NodeTensor, ...]
    outputs: tuple[NodeTensor, ...]


@dataclass(frozen=True, slots=True)
class LayerNodes:
    """A layer and its nodes in the model. `path` is its name, prefixed with those of the models that contain it."""

    path: str
    name: str
    class_name: str
    nodes: tuple[LayerNode, ...]
    parameter_count: int
    trainable: bool
    #: Of a nested model: the tensors that it returns, at nodes of its own layers.
    nested_outputs: tuple[NodeTensor, ...] = ()


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
