"""The graph of a model: the nodes between its inputs and outputs, in topological order.

Nodes are sorted, not layers: a shared layer's nodes can be at different depths, as in A(B(A(B(x)))). Layers are listed
in Keras's order (by depth, then by traversal from the outputs), because weight files number them in that order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from layergraph.errors import GraphError
from layergraph.functional.layer import Layer
from layergraph.functional.nest import Structure, flatten, map_structure
from layergraph.functional.node import Node
from layergraph.functional.tensor import Tensor


@dataclass(frozen=True, slots=True)
class Graph:
    """The nodes and layers between `inputs` and `outputs`.

    nodes     in topological order
    executed  in the order in which Keras executes them
    layers    each layer once, in Keras's order
    numbers   node -> its index among the layer's nodes in this graph
    ends      tensors besides the outputs whose nodes belong to the graph, such as losses
    """

    inputs: Structure
    outputs: Structure
    nodes: tuple[Node, ...]
    executed: tuple[Node, ...]
    layers: tuple[Layer, ...]
    numbers: dict[Node, int]
    ends: tuple[Tensor, ...] = ()

    def nodes_of(self, layer: Layer) -> list[Node]:
        """Returns the nodes of `layer` in this graph, by index."""
        return [node for node in layer.inbound_nodes if node in self.numbers]


#: Returns the tensors that a node depends on, in flat order.
NeedsOf = Callable[[Node], list[Tensor]]


def map_graph(
    inputs: Structure, outputs: Structure, needs_of: NeedsOf | None = None, ends: tuple[Tensor, ...] = ()
) -> Graph:
    """Finds the nodes between inputs and outputs (Keras's `map_graph`, in linear time and without recursion).

    `ends` are further tensors whose nodes belong to the graph.

    `needs_of` may add dependencies to a node's arguments, such as masks that a file names.

    Raises GraphError if an output can't be computed from the inputs, or two layers have the same name.
    """
    needs_of = needs_of or _arguments
    flat_inputs = flatten(inputs)
    nodes, first_seen = _walk(flat_inputs, [*flatten(outputs), *ends], needs_of)
    given = {id(tensor) for tensor in flat_inputs}
    known = set(given)
    for node in nodes:
        for tensor in needs_of(node):
            if id(tensor) not in known:
                raise GraphError(
                    f"graph disconnected: {tensor!r}, an input of layer '{node.layer.name}', can't be computed from "
                    f"the inputs {[t.name for t in flat_inputs]}"
                )
        known.update(id(tensor) for tensor in node.output_tensors)
        if node.is_input and given.isdisjoint(id(tensor) for tensor in node.output_tensors):
            raise GraphError(
                f"graph disconnected: input '{node.layer.name}' is needed but isn't among the inputs "
                f"{[t.name for t in flat_inputs]}"
            )
    depths, node_depths = _depths(nodes, needs_of)
    executed = sorted(node_depths, key=lambda node: -node_depths[node])
    layers = sorted(depths, key=lambda layer: (-depths[layer], first_seen[layer]))
    listed = set(layers)
    # Inputs that no output depends on belong to the model, too; Keras lists them first among the layers of depth 0.
    unused = [t.history.layer for t in flat_inputs if t.history.layer not in listed]
    unused_nodes = [
        t.history.layer.inbound_nodes[t.history.node_index] for t in flat_inputs if t.history.layer not in listed
    ]
    at = next((i for i, layer in enumerate(layers) if depths[layer] == 0), len(layers))
    layers[at:at] = dict.fromkeys(unused)
    repeated = [name for name, count in Counter(layer.name for layer in layers).items() if count > 1]
    if repeated:
        raise GraphError(f"several layers are named {repeated[0]!r}; names must be unique within a model")
    everything = (*dict.fromkeys(unused_nodes), *nodes)
    members = set(everything)
    numbers = {
        node: i for layer in layers for i, node in enumerate(node for node in layer.inbound_nodes if node in members)
    }
    return Graph(inputs, outputs, everything, tuple(executed), tuple(layers), numbers, ends)


def _arguments(node: Node) -> list[Tensor]:
    return node.input_tensors


def _walk(inputs: list[Tensor], outputs: list[Tensor], needs_of: NeedsOf) -> tuple[list[Node], dict[Layer, int]]:
    """Depth-first traversal from the outputs: nodes in topological order, and the order layers were first seen in."""
    borders = {id(tensor) for tensor in inputs}
    finished: set[Node] = set()
    in_progress: set[Node] = set()
    order: list[Node] = []
    first_seen: dict[Layer, int] = {}

    def enter(tensor: Tensor) -> tuple[Node, Iterator[Tensor]] | None:
        node = tensor.history.layer.inbound_nodes[tensor.history.node_index]
        if node in finished:
            return None
        if id(tensor) in borders and not node.is_input:
            return None
        if node in in_progress:
            raise GraphError(f"{tensor!r} from layer '{node.layer.name}' is part of a cycle")
        first_seen.setdefault(node.layer, len(first_seen))
        in_progress.add(node)
        return node, iter(needs_of(node))

    for output in outputs:
        entered = enter(output)
        stack = [entered] if entered else []
        while stack:
            node, remaining = stack[-1]
            for tensor in remaining:
                below = enter(tensor)
                if below:
                    stack.append(below)
                    break
            else:
                stack.pop()
                in_progress.discard(node)
                finished.add(node)
                order.append(node)
    return order, first_seen


def _depths(nodes: list[Node], needs_of: NeedsOf) -> tuple[dict[Layer, int], dict[Node, int]]:
    """Keras's depths of layers and nodes: maximum number of nodes between them and the outputs.

    Nodes come in the order in which Keras executes those of one depth.
    """
    members = set(nodes)
    node_depths: dict[Node, int] = {}
    layer_depths: dict[Layer, int] = {}
    for node in reversed(nodes):
        depth = max(node_depths.get(node, 0), layer_depths.get(node.layer, 0))
        layer_depths[node.layer] = depth
        node_depths[node] = depth
        for tensor in needs_of(node):
            parent = tensor.history.layer.inbound_nodes[tensor.history.node_index]
            if parent in members:
                node_depths[parent] = max(depth + 1, node_depths.get(parent, 0))
    return layer_depths, node_depths


class Replaced:
    """Tensors that take the place of others where calls are repeated."""

    def __init__(self, tensors: Iterable[Tensor], others: Iterable[Tensor]) -> None:
        self._others = {id(tensor): other for tensor, other in zip(tensors, others, strict=True)}

    def within(self, structure: Structure) -> Structure:
        """Returns the structure with the other tensors."""
        return map_structure(lambda leaf: self._others.get(id(leaf), leaf), structure)

    def call_again(self, node: Node, layer: Layer) -> None:
        """Repeats a call, with `layer` in place of its own. Its outputs are replaced from here on."""
        extra = {} if node.training is None else {"training": node.training}
        outputs = layer(*self.within(list(node.args)), **self.within(node.kwargs), **extra)
        self.add_outputs(node, flatten(outputs))

    def add_outputs(self, node: Node, others: Iterable[Tensor]) -> None:
        """Replaces the outputs of a node."""
        self._others.update({id(own): other for own, other in zip(node.output_tensors, others, strict=True)})


def clone_between(inputs: Structure, outputs: Structure, make_input: Any) -> tuple[Structure, Structure]:
    """Returns inputs and outputs of the same calls repeated on new inputs, for submodels of other models (as in Keras).

    `make_input(tensor)` returns the new input that replaces a tensor.
    """
    flat = flatten(inputs)
    new = [t if t.history.layer.inbound_nodes[t.history.node_index].is_input else make_input(t) for t in flat]
    replaced = Replaced(flat, new)
    for node in _walk(flat, flatten(outputs), _arguments)[0]:
        if not node.is_input:
            replaced.call_again(node, node.layer)
            node.layer.inbound_nodes[-1].stored = replaced.within(node.stored)
    return replaced.within(inputs), replaced.within(outputs)
