"""The nodes of a served model: the calls of its layers, with the shapes of their inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from layerserve.calls.flow import Flow, call
from layerserve.calls.routing import model_metadata
from layerserve.errors import LayerNotFound
from layerserve.v1 import graph_pb2
from layerserve.v1.tensor_pb2 import ModelSpec
from layerserve.values.inputs import unknown_name
from layerserve.values.replies import read
from layerserve.values.tables import Table, Tabular, shape_text
from layerserve.values.tensor_spec import TensorSpec, read_tensor_spec
from layerserve.values.tensors import dtype_name, read_shape

Shape = tuple[int | None, ...]
T = TypeVar("T")

_COLUMNS = ("Layer", "Class", "#Node", "Input", "From", "Output", "#Parameters")


@dataclass(frozen=True, slots=True)
class NodeTensor:
    """A tensor at a node: output `tensor_index` of node `node_index` of `layer`.

    `argument` is the argument as which it is passed ("inputs", "initial_state[0]"); empty for outputs. `masked` is
    whether it has a mask.
    """

    layer: str
    node_index: int
    tensor_index: int
    shape: Shape
    dtype: str
    argument: str
    masked: bool


@dataclass(frozen=True, slots=True)
class LayerNode:
    """A node, one call of a layer, with its input and output tensors."""

    index: int
    inputs: tuple[NodeTensor, ...]
    outputs: tuple[NodeTensor, ...]


@dataclass(frozen=True, slots=True)
class LayerNodes:
    """A layer and its nodes. `path` is its name after the names of the models in which it is nested: "outer/inner".

    `nested_outputs` are the tensors that a nested model returns, at nodes of its own layers.

    As in Keras, methods return a single tensor or shape if the node has one, and a list if it has several.
    """

    path: str
    name: str
    class_name: str
    nodes: tuple[LayerNode, ...]
    parameter_count: int
    trainable: bool
    nested_outputs: tuple[NodeTensor, ...] = ()

    def input_at(self, node_index: int) -> NodeTensor | list[NodeTensor]:
        """Input of the layer at a node (Keras's `get_input_at`). Raises ValueError if there is no such node."""
        return _one_or_list(self._node(node_index, "input").inputs)

    def output_at(self, node_index: int) -> NodeTensor | list[NodeTensor]:
        """Output of the layer at a node (Keras's `get_output_at`). Raises ValueError if there is no such node."""
        return _one_or_list(self._node(node_index, "output").outputs)

    def input_shape_at(self, node_index: int) -> Shape | list[Shape]:
        """Input shape of the layer at a node (Keras's `get_input_shape_at`), with None for axes of any length.

        Raises ValueError if there is no such node.
        """
        return _shapes(self._node(node_index, "input shape").inputs)

    def output_shape_at(self, node_index: int) -> Shape | list[Shape]:
        """Output shape of the layer at a node (Keras's `get_output_shape_at`), with None for axes of any length.

        Raises ValueError if there is no such node.
        """
        return _shapes(self._node(node_index, "output shape").outputs)

    @property
    def input(self) -> NodeTensor | list[NodeTensor]:
        """Input of a layer with one node. Raises AttributeError if it has none or several."""
        return _one_or_list(self._only_node("input").inputs)

    @property
    def output(self) -> NodeTensor | list[NodeTensor]:
        """Output of a layer with one node. Raises AttributeError if it has none or several."""
        return _one_or_list(self._only_node("output").outputs)

    @property
    def input_shape(self) -> Shape | list[Shape]:
        """Input shape of the layer. Raises AttributeError if it has no nodes, or nodes with different shapes."""
        return self._agreed("input", [_shapes(node.inputs) for node in self.nodes])

    @property
    def output_shape(self) -> Shape | list[Shape]:
        """Output shape of the layer. Raises AttributeError if it has no nodes, or nodes with different shapes."""
        return self._agreed("output", [_shapes(node.outputs) for node in self.nodes])

    def _node(self, index: int, what: str) -> LayerNode:
        # Negative indices are refused: node -1 would change with the next call.
        if not 0 <= index < len(self.nodes):
            raise ValueError(
                f"layer {self.path!r}: asked for the {what} at node {index}, expected a number below {len(self.nodes)}"
            )
        return self.nodes[index]

    def _only_node(self, what: str) -> LayerNode:
        self._check_called(what)
        if len(self.nodes) > 1:
            raise AttributeError(
                f"layer {self.path!r} has {len(self.nodes)} inbound nodes, hence the notion of 'layer {what}' is "
                f"ill-defined; use {what}_at(node_index) instead"
            )
        return self.nodes[0]

    def _agreed(self, what: str, shapes: Sequence[Shape | list[Shape]]) -> Shape | list[Shape]:
        self._check_called(f"{what} shape")
        if any(shape != shapes[0] for shape in shapes):
            raise AttributeError(
                f"layer {self.path!r} has {len(self.nodes)} inbound nodes with different {what} shapes, hence the "
                f"notion of '{what} shape' is ill-defined; use {what}_shape_at(node_index) instead"
            )
        return shapes[0]

    def _check_called(self, what: str) -> None:
        if not self.nodes:
            raise AttributeError(f"layer {self.path!r} has never been called and thus has no defined {what}")


class NodeShapes(Mapping[str, LayerNodes], Tabular):
    """Mapping of the layers of a model by path, in Keras's order, with the model's inputs and outputs.

    `output_tensors` are the tensors that the outputs are, in their order.
    `version` is 0 for a model file.
    """

    def __init__(
        self,
        model: str,
        version: int,
        layers: Sequence[LayerNodes],
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        output_tensors: Sequence[NodeTensor] = (),
    ) -> None:
        self.model = model
        self.version = version
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.output_tensors = tuple(output_tensors)
        self._layers = {layer.path: layer for layer in layers}

    def __getitem__(self, path: str) -> LayerNodes:
        try:
            return self._layers[path]
        except KeyError:
            raise LayerNotFound(f"model {self.model!r}: {unknown_name('layer', path, self._layers)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        return f"NodeShapes({self.model!r} version {self.version}: {len(self)} layers)"

    @property
    def title(self) -> str:
        """The model's name and version."""
        return f"{self.model} version {self.version}" if self.version else self.model

    def table(self) -> Table:
        """Returns a table with a row per node."""
        rows = [row for layer in self.values() for row in _rows(layer)]
        return Table(self.title, _COLUMNS, rows)


def _rows(layer: LayerNodes) -> list[tuple[str, ...]]:
    first = (layer.path, layer.class_name)
    parameters = f"{layer.parameter_count:,}"
    if not layer.nodes:
        return [(*first, "", "never called", "", "", parameters)]
    rows: list[tuple[str, ...]] = []
    for node in layer.nodes:
        rows.append((*first, str(node.index), *_node_cells(node), parameters))
        first, parameters = ("", ""), ""
    return rows


def _node_cells(node: LayerNode) -> tuple[str, str, str]:
    inputs = "\n".join(shape_text(tensor.shape) for tensor in node.inputs)
    outputs = "\n".join(shape_text(tensor.shape) + (" masked" if tensor.masked else "") for tensor in node.outputs)
    return inputs, "\n".join(map(_source_text, node.inputs)), outputs


def _source_text(tensor: NodeTensor) -> str:
    return f"{tensor.layer}:{tensor.node_index}:{tensor.tensor_index}"


def node_shapes(spec: ModelSpec, layers: Sequence[str]) -> Flow[NodeShapes]:
    request = graph_pb2.GetNodeShapesRequest(model=spec, layers=layers)
    reply = yield from call(request, graph_pb2.GetNodeShapesResponse, model_metadata(spec.name))
    return read_node_shapes(reply)


def read_node_shapes(reply: graph_pb2.GetNodeShapesResponse) -> NodeShapes:
    return NodeShapes(
        reply.model.name,
        reply.model.version,
        [_read_layer(layer) for layer in reply.layers],
        [read_tensor_spec(spec) for spec in reply.inputs],
        [read_tensor_spec(spec) for spec in reply.outputs],
        [_read_tensor(tensor) for tensor in reply.output_tensors],
    )


def _read_layer(message: graph_pb2.LayerNodes) -> LayerNodes:
    nodes = tuple(
        LayerNode(node.index, tuple(map(_read_tensor, node.inputs)), tuple(map(_read_tensor, node.outputs)))
        for node in message.nodes
    )
    return read(LayerNodes, message, nodes=nodes, nested_outputs=tuple(map(_read_tensor, message.nested_outputs)))


def _read_tensor(message: graph_pb2.NodeTensor) -> NodeTensor:
    dtype = dtype_name(message.dtype, message.layer)
    return read(NodeTensor, message, shape=read_shape(message.shape), dtype=dtype)


def _one_or_list(values: Sequence[T]) -> T | list[T]:
    return values[0] if len(values) == 1 else list(values)


def _shapes(tensors: Sequence[NodeTensor]) -> Shape | list[Shape]:
    return _one_or_list([tensor.shape for tensor in tensors])
