"""The inputs and outputs of models, kept so that a prediction takes one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from layerserve.calls.flow import Flow, call
from layerserve.calls.routing import model_metadata
from layerserve.errors import InvalidArgument, ModelNotReady
from layerserve.models.info import ModelInfo, get_model, model_spec
from layerserve.v1.graph_pb2 import GetNodeShapesRequest, GetNodeShapesResponse
from layerserve.v1.tensor_pb2 import ModelSpec
from layerserve.values.tensor_spec import TensorSpec, read_tensor_spec

R = TypeVar("R")


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of the version to which a reference to a model resolved."""

    version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    #: Whether each row of the outputs depends on its row of the inputs only; None if that isn't known.
    independent: bool | None = None


@dataclass
class Signatures:
    """Cache of signatures, so that a prediction takes one call. A new version makes an entry stale."""

    known: dict[tuple[str, int | None, str | None], Signature] = field(default_factory=dict)

    def get(self, spec: ModelSpec) -> Signature | None:
        return self.known.get(_key(spec))

    def keep(self, spec: ModelSpec, signature: Signature) -> None:
        self.known[_key(spec)] = signature

    def answered(self, spec: ModelSpec, version: int) -> None:
        """Drops the signature of a reference if another version than its own has replied."""
        signature = self.known.get(_key(spec))
        if signature is not None and signature.version != version:
            self.known.pop(_key(spec), None)


def _key(spec: ModelSpec) -> tuple[str, int | None, str | None]:
    version = spec.version if spec.HasField("version") else None
    return spec.name, version, spec.label if spec.HasField("label") else None


def loaded_model(spec: ModelSpec) -> Flow[ModelInfo]:
    """Flow of a version with its inputs and outputs: one that isn't loaded yet is loaded.

    Raises ModelNotReady with the reason if it failed to load.
    """
    info = yield from get_model(spec)
    if info.state == "failed":
        raise ModelNotReady(f"model {info.name!r} version {info.version} failed to load: {info.reason}")
    if info.inputs:
        return info
    # One version for both calls: another one may become the default meanwhile. This one loads it.
    version = model_spec(info.name, info.version)
    graph = yield from call(GetNodeShapesRequest(model=version), GetNodeShapesResponse, model_metadata(info.name))
    info = yield from get_model(version)
    # It may have been unloaded again.
    inputs, outputs = (tuple(map(read_tensor_spec, specs)) for specs in (graph.inputs, graph.outputs))
    return replace(info, inputs=info.inputs or inputs, outputs=info.outputs or outputs)


def fetch_signature(signatures: Signatures, spec: ModelSpec) -> Flow[Signature]:
    """Flow that fetches a model's inputs and outputs. Raises ModelNotReady with the reason if it failed to load."""
    info = yield from loaded_model(spec)
    signature = Signature(info.version, info.inputs, info.outputs, info.independent_rows)
    signatures.keep(spec, signature)
    return signature


def with_signature(signatures: Signatures, spec: ModelSpec, ask: Callable[[Signature], Flow[R]]) -> Flow[R]:
    """Flow that asks with a model's signature. A cached one may be stale: if asking fails, it is fetched again."""
    cached = signatures.get(spec)
    if cached is not None:
        try:
            return (yield from ask(cached))
        except InvalidArgument:
            fresh = yield from fetch_signature(signatures, spec)
            if fresh.inputs == cached.inputs:
                raise
    else:
        fresh = yield from fetch_signature(signatures, spec)
    return (yield from ask(fresh))
