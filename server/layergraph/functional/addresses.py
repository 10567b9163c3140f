"""Addresses of tensors in a graph: `layer`, `layer:node`, `layer:node:tensor`; `outer/inner` for nested models."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from layergraph.config.options import short_repr
from layergraph.errors import UnknownTensorError, unknown_name
from layergraph.functional.node import Node
from layergraph.functional.tensor import Tensor

if TYPE_CHECKING:
    from layergraph.functional.functional import Functional
    from layergraph.functional.layer import Layer

_INDICES = re.compile(r"(?::(\d{1,9}))?(?::(\d{1,9}))?(?=/|$)")


def find_tensor(model: Functional, address: str) -> tuple[tuple[Node, ...], Tensor]:
    """Returns the tensor at an address, with the nodes of the nested models that contain it. Raises UnknownTensorError.

    Layer names may contain slashes and colons, so addresses are matched against the graph's names, longest first.
    """
    layers = sorted(model.graph.layers, key=lambda layer: -len(layer.name))
    failure: UnknownTensorError | None = None
    for layer in layers:
        if not address.startswith(layer.name):
            continue
        rest = address[len(layer.name) :]
        indices = _INDICES.match(rest)
        if indices is None or (rest and rest[0] not in ":/"):
            continue
        rest = rest[indices.end() :]
        try:
            node = _node(model, layer, indices.group(1), address)
            if not rest:
                return (), _tensor(node, indices.group(2), address)
            if layer.inner_model is not None and len(rest) > 1 and indices.group(2) is None:
                calls, tensor = find_tensor(layer.inner_model, rest[1:])
                return (node, *calls), tensor
        except UnknownTensorError as wrong:
            failure = failure or wrong
    raise failure or UnknownTensorError(
        unknown_name("tensor", address, [*model.output_names, *(layer.name for layer in model.graph.layers)])
    )


def _node(model: Functional, layer: Layer, index: str | None, address: str) -> Node:
    nodes = model.graph.nodes_of(layer)
    if index is None and len(nodes) > 1:
        choices = [f"{layer.name}:{i}" for i in range(min(len(nodes), 20))]
        raise UnknownTensorError(
            f"tensor {short_repr(address)}: layer '{layer.name}' has {len(nodes)} nodes; expected one of {choices}"
        )
    number = int(index or 0)
    if number >= len(nodes):
        raise UnknownTensorError(
            f"tensor {short_repr(address)}: layer '{layer.name}' has no node {number}, "
            f"expected a number below {len(nodes)}"
        )
    return nodes[number]


def _tensor(node: Node, index: str | None, address: str) -> Tensor:
    tensors = node.output_tensors
    if index is None and len(tensors) > 1:
        raise UnknownTensorError(
            f"tensor {short_repr(address)}: the node has {len(tensors)} outputs; expected 'layer:node:tensor' with "
            f"tensor from 0 to {len(tensors) - 1}"
        )
    number = int(index or 0)
    if number >= len(tensors):
        raise UnknownTensorError(
            f"tensor {short_repr(address)}: the node has no output {number}, expected a number below {len(tensors)}"
        )
    found: Tensor = tensors[number]
    return found
