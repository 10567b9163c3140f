"""What is told of the nodes of layers, as plain data, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from layergraph.functional.tensor import Shape


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
