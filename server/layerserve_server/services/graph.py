"""Handlers of layerserve.v1.GraphService, which describes the nodes of a model's layers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from layergraph.errors import unknown_name
from layerserve.v1 import graph_pb2
from layerserve.values import tensors

from layerserve_server.errors import UnknownLayerError
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.messages import chosen_by, model_spec, parse, tensor_specs
from layerserve_server.services.waiting import with_version
from layerserve_server.transport.call import Call, Routes

SERVICE = "/layerserve.v1.GraphService/"
#: Maximum size of a reply that is kept with its version, in bytes.
KEPT_BYTES = 8 << 20


class GraphService:
    """Handlers of the graph service."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def routes(self) -> Routes:
        """Returns the handlers."""
        return Routes(unary={SERVICE + "GetNodeShapes": self.get_node_shapes}, lists={SERVICE + "GetNodeShapes"})

    def get_node_shapes(self, call: Call) -> None:
        """Handles GetNodeShapes: replies with all nodes of the requested layers.

        Raises UnknownLayerError, and as `chosen_by` and `with_version` do.
        """
        request = parse(graph_pb2.GetNodeShapesRequest, call.request)
        chosen = chosen_by(call.caller, "read", request.model)

        def answer(version: LoadedVersion) -> None:
            call.set_metric_labels(version.name, version.version)
            encoded = _encoded(version)
            reply = _selected(encoded, request.layers, version.name) if request.layers else encoded
            call.answer(reply)

        with_version(self._repository, call, chosen, answer, kept=True)


def _encoded(version: LoadedVersion) -> bytes:
    """Returns the reply with all layers. It is kept: for thousands of layers, making it takes a second."""
    if version.node_shapes is not None:
        return version.node_shapes
    response = graph_pb2.GetNodeShapesResponse(
        model=model_spec(version.name, version.version),
        layers=[_layer(layer) for layer in version.model.node_table()],
        inputs=tensor_specs(version.input_specs),
        outputs=tensor_specs(version.model.output_specs),
        output_tensors=map(_tensor, version.model.output_nodes()),
    )
    encoded: bytes = response.SerializeToString()
    if len(encoded) <= KEPT_BYTES:
        version.node_shapes = encoded
    return encoded


def _selected(encoded: bytes, paths: Iterable[str], model: str) -> bytes:
    """Returns a reply without the layers that aren't requested. Raises UnknownLayerError."""
    response = graph_pb2.GetNodeShapesResponse.FromString(encoded)
    chosen = _chosen(response.layers, paths, model)
    del response.layers[:]
    response.layers.extend(chosen)
    return bytes(response.SerializeToString())


def _chosen(table: Sequence[Any], paths: Iterable[str], model: str) -> Sequence[Any]:
    requested = set(paths)
    if not requested:
        return table
    known = {layer.path for layer in table}
    for path in sorted(requested - known):
        raise UnknownLayerError(f"model '{model}': {unknown_name('layer', path, known)}")
    return [layer for layer in table if layer.path in requested]


def _layer(layer: Any) -> graph_pb2.LayerNodes:
    return graph_pb2.LayerNodes(
        path=layer.path,
        name=layer.name,
        class_name=layer.class_name,
        nodes=[
            graph_pb2.LayerNode(
                index=node.index,
                inputs=[_tensor(tensor) for tensor in node.inputs],
                outputs=[_tensor(tensor) for tensor in node.outputs],
            )
            for node in layer.nodes
        ],
        parameter_count=layer.parameter_count,
        trainable=layer.trainable,
        nested_outputs=map(_tensor, layer.nested_outputs),
    )


def _tensor(tensor: Any) -> graph_pb2.NodeTensor:
    return graph_pb2.NodeTensor(
        layer=tensor.layer,
        node_index=tensor.node_index,
        tensor_index=tensor.tensor_index,
        shape=tensors.wire_shape(tensor.shape),
        dtype=tensors.dtype_enum(tensor.dtype),
        argument=tensor.argument,
        masked=tensor.masked,
    )
