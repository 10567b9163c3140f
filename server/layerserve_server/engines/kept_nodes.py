"""The nodes of a model's layers in a file, so that they are told without the model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from layergraph.functional.layer_nodes import LayerNode, LayerNodes, NodeTensor

from layerserve_server.disk import json_object

if TYPE_CHECKING:
    from layergraph import Model


@dataclass(frozen=True, slots=True)
class KeptNodes:
    """The layers of a model with their nodes, and the tensors that its outputs are (see Functional)."""

    layers: Sequence[LayerNodes]
    outputs: Sequence[NodeTensor]

    @classmethod
    def of(cls, model: Model) -> KeptNodes:
        """Returns those of a model."""
        return cls(model.node_table(), model.output_nodes())

    @classmethod
    def read(cls, content: bytes) -> KeptNodes:
        """Returns what was written. Raises ValueError, KeyError or TypeError if it is something else."""
        found = json_object(content)
        return cls([_layer(one) for one in found["layers"]], _tensors(found["outputs"]))

    def write(self) -> str:
        """Returns them as JSON."""
        return json.dumps(asdict(self))


def _layer(found: Mapping[str, Any]) -> LayerNodes:
    nodes = tuple(
        LayerNode(node["index"], _tensors(node["inputs"]), _tensors(node["outputs"])) for node in found["nodes"]
    )
    return LayerNodes(**{**found, "nodes": nodes, "nested_outputs": _tensors(found["nested_outputs"])})


def _tensors(found: Sequence[Mapping[str, Any]]) -> tuple[NodeTensor, ...]:
    return tuple(NodeTensor(**{**one, "shape": tuple(one["shape"])}) for one in found)
