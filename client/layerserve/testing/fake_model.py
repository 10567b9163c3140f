"""Models of the fake server: Python functions with a signature."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layerserve.errors import LayerNotFound, MissingInput, ModelNotReady, UnknownInput, UnknownOutput
from layerserve.models.info import VersionState
from layerserve.models.node_shapes import LayerNode, LayerNodes, NodeTensor
from layerserve.v1 import graph_pb2, models_pb2, prediction_pb2, tensor_pb2
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import Array, decode, dtype_enum, encode, wire_shape

Function = Callable[[dict[str, Array]], Mapping[str, Any]]


@dataclass
class FakeModel:
    """A version of a model. `function` maps arrays by input name to arrays by output name."""

    name: str
    function: Function
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    version: int = 1
    labels: tuple[str, ...] = ()
    layers: Sequence[LayerNodes] | None = None
    file: bytes = b""
    state: VersionState = "ready"
    reason: str = ""
    training_run: str = ""
    compiled: bool = True
    choosing_engine: bool = False
    pinned: bool = False
    independent_rows: bool = True
    answered: int = 0
    failed: int = 0

    def reference(self) -> tensor_pb2.ModelSpec:
        return tensor_pb2.ModelSpec(name=self.name, version=self.version)

    def check_ready(self) -> None:
        if self.state == "unloaded":
            raise ModelNotReady(f"model {self.name!r} version {self.version} isn't served: the model isn't loaded")
        if self.state == "failed":
            raise ModelNotReady(f"model {self.name!r} version {self.version} failed to load: {self.reason}")

    def predict(self, request: prediction_pb2.PredictRequest) -> prediction_pb2.PredictResponse:
        """Returns the outputs, and counts the request. Raises errors of the client."""
        self.failed += 1
        response = self._predict(request)
        self.failed, self.answered = self.failed - 1, self.answered + 1
        return response

    def statistics(self) -> models_pb2.ModelStatistics:
        """Returns the counts of requests. Other numbers are 0."""
        return models_pb2.ModelStatistics(name=self.name, answered=self.answered, failed=self.failed)

    def _predict(self, request: prediction_pb2.PredictRequest) -> prediction_pb2.PredictResponse:
        self.check_ready()
        known = [spec.name for spec in self.inputs]
        arrays: dict[str, Array] = {}
        for tensor in request.inputs:
            name = tensor.name or known[0]
            if name not in known:
                raise UnknownInput(f"model {self.name!r}: unknown input {name!r}; it has {', '.join(known)}")
            arrays[name] = decode(tensor)
        missing = [name for name in known if name not in arrays]
        if missing:
            raise MissingInput(f"model {self.name!r}: missing input {missing[0]!r}")
        results = self.function(arrays)
        response = prediction_pb2.PredictResponse(model=self.reference(), id=request.id)
        for name in request.outputs or [spec.name for spec in self.outputs]:
            if name not in results:
                raise UnknownOutput(f"model {self.name!r}: unknown output {name!r}; it has {', '.join(results)}")
            response.outputs.append(self._encode(name, results[name]))
        return response

    def _encode(self, name: str, array: Array) -> tensor_pb2.Tensor:
        dtype = next((spec.dtype for spec in self.outputs if spec.name == name), None)
        return encode(array, name, "bfloat16" if dtype == "bfloat16" else None)

    def describe(self, by_default: bool, canary_share: float = 0.0) -> models_pb2.ModelVersion:
        loaded = self.state in ("ready", "unloading")
        return models_pb2.ModelVersion(
            name=self.name,
            version=self.version,
            state=models_pb2.VersionState.Value(f"VERSION_STATE_{self.state.upper()}"),
            reason=self.reason,
            labels=self.labels,
            inputs=_specs(self.inputs) if loaded else [],
            outputs=_specs(self.outputs) if loaded else [],
            file="model.keras",
            file_size_bytes=len(self.file),
            training_run=self.training_run,
            compiled=self.compiled,
            served_by_default=by_default,
            choosing_engine=self.choosing_engine,
            pinned=self.pinned,
            digest=hashlib.sha256(self.file).hexdigest() if loaded else "",
            canary_share=canary_share,
            independent_rows=self.independent_rows and self.state != "failed",
        )

    def node_shapes(self, paths: Sequence[str]) -> graph_pb2.GetNodeShapesResponse:
        """Returns the nodes of `layers`, or by default of an input layer per input."""
        self.check_ready()
        layers = {layer.path: layer for layer in self.layers or map(_input_layer, self.inputs)}
        for path in paths:
            if path not in layers:
                raise LayerNotFound(f"model {self.name!r}: unknown layer {path!r}; it has {', '.join(layers)}")
        return graph_pb2.GetNodeShapesResponse(
            model=self.reference(),
            layers=[_layer(layers[path]) for path in paths or layers],
            inputs=_specs(self.inputs),
            outputs=_specs(self.outputs),
        )


def _specs(specs: Iterable[TensorSpec]) -> list[tensor_pb2.TensorSpec]:
    return [
        tensor_pb2.TensorSpec(
            name=spec.name, dtype=dtype_enum(spec.dtype), shape=wire_shape(spec.shape), encoding=spec.encoding
        )
        for spec in specs
    ]


def _input_layer(spec: TensorSpec) -> LayerNodes:
    output = NodeTensor(spec.name, 0, 0, spec.shape, spec.dtype, "", masked=False)
    return LayerNodes(spec.name, spec.name, "InputLayer", (LayerNode(0, (), (output,)),), 0, trainable=True)


def _layer(layer: LayerNodes) -> graph_pb2.LayerNodes:
    nodes = [
        graph_pb2.LayerNode(index=node.index, inputs=map(_tensor, node.inputs), outputs=map(_tensor, node.outputs))
        for node in layer.nodes
    ]
    return graph_pb2.LayerNodes(
        path=layer.path,
        name=layer.name,
        class_name=layer.class_name,
        nodes=nodes,
        parameter_count=layer.parameter_count,
        trainable=layer.trainable,
        nested_outputs=map(_tensor, layer.nested_outputs),
    )


def _tensor(tensor: NodeTensor) -> graph_pb2.NodeTensor:
    return graph_pb2.NodeTensor(
        layer=tensor.layer,
        node_index=tensor.node_index,
        tensor_index=tensor.tensor_index,
        shape=wire_shape(tensor.shape),
        dtype=dtype_enum(tensor.dtype),
        argument=tensor.argument,
        masked=tensor.masked,
    )
