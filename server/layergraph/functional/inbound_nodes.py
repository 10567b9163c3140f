"""What a layer's calls have recorded, as Keras's attributes and methods: inputs, outputs, shapes and masks by node."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from layergraph.functional.nest import map_structure, single_or_list
from layergraph.functional.node import Node
from layergraph.functional.tensor import Tensor


class InboundNodes:
    """The calls of a layer, in order: each is a node."""

    name: str
    inbound_nodes: list[Node]

    def _node_at(self, node_index: int, wanted: str) -> Node:
        if not self.inbound_nodes:
            raise AttributeError(f"The layer '{self.name}' has never been called and thus has no defined {wanted}")
        if not -len(self.inbound_nodes) <= node_index < len(self.inbound_nodes):
            raise ValueError(
                f"Asked to get {wanted} at node {node_index}, but the layer '{self.name}' has only "
                f"{len(self.inbound_nodes)} inbound nodes"
            )
        return self.inbound_nodes[node_index]

    def _only_node(self, wanted: str) -> Node:
        if len(self.inbound_nodes) > 1:
            raise AttributeError(
                f"The layer '{self.name}' has multiple inbound nodes, hence the notion of \"layer {wanted}\" is "
                f"ill-defined. Use `get_{wanted}_at(node_index)` instead"
            )
        return self._node_at(0, wanted)

    def _only_shape(self, wanted: str, shape_at: Callable[[int], Any]) -> Any:
        self._node_at(0, f"{wanted} shape")
        shapes = [shape_at(i) for i in range(len(self.inbound_nodes))]
        if any(shape != shapes[0] for shape in shapes):
            raise AttributeError(
                f"The layer '{self.name}' has multiple inbound nodes, with different {wanted} shapes. Hence the notion "
                f'of "{wanted} shape" is ill-defined for the layer. Use `get_{wanted}_shape_at(node_index)` instead'
            )
        return shapes[0]

    def get_input_at(self, node_index: int) -> Any:
        """Input tensor (or list of them) of a call. Raises ValueError if there is no such call."""
        node = self._node_at(node_index, "input")
        return single_or_list(node.input_tensors) if node.input_tensors else node.outputs

    def get_output_at(self, node_index: int) -> Any:
        """Output tensor (or nesting of them) of a call. Raises ValueError if there is no such call."""
        return self._node_at(node_index, "output").outputs

    def get_input_shape_at(self, node_index: int) -> Any:
        """Shape (or list of shapes) of the inputs of a call."""
        return map_structure(lambda tensor: tensor.shape, self.get_input_at(node_index))

    def get_output_shape_at(self, node_index: int) -> Any:
        """Shape (or nesting of shapes) of the outputs of a call."""
        return map_structure(lambda tensor: tensor.shape, self.get_output_at(node_index))

    def get_input_mask_at(self, node_index: int) -> Any:
        """Mask (or list of masks) of the inputs of a call: a symbolic boolean tensor, or None."""
        return map_structure(_mask_of, self.get_input_at(node_index))

    def get_output_mask_at(self, node_index: int) -> Any:
        """Mask (or nesting of masks) of the outputs of a call: a symbolic boolean tensor, or None."""
        return map_structure(_mask_of, self.get_output_at(node_index))

    @property
    def input(self) -> Any:
        """Input of the only call. Raises AttributeError if there are several."""
        self._only_node("input")
        return self.get_input_at(0)

    @property
    def output(self) -> Any:
        """Output of the only call. Raises AttributeError if there are several."""
        return self._only_node("output").outputs

    @property
    def input_mask(self) -> Any:
        """Mask of the input of the only call."""
        self._only_node("input_mask")
        return self.get_input_mask_at(0)

    @property
    def output_mask(self) -> Any:
        """Mask of the output of the only call."""
        self._only_node("output_mask")
        return self.get_output_mask_at(0)

    @property
    def input_shape(self) -> Any:
        """Shape of the inputs of all calls. Raises AttributeError if they differ."""
        return self._only_shape("input", self.get_input_shape_at)

    @property
    def output_shape(self) -> Any:
        """Shape of the outputs of all calls. Raises AttributeError if they differ."""
        return self._only_shape("output", self.get_output_shape_at)


def _mask_of(tensor: Tensor) -> Tensor | None:
    if tensor.mask_shape is None:
        return None
    return Tensor(tensor.mask_shape, "bool", tensor.history, name=f"{tensor.name}_mask")
