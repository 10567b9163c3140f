"""The inputs and outputs of models, kept so that a prediction takes one call."""

from __future__ import annotations

from dataclasses import dataclass, field

from layerserve.calls.flow import Flow, call
from layerserve.calls.routing import model_metadata
from layerserve.errors import ModelNotReady
from layerserve.models.info import get_model
from layerserve.v1.graph_pb2 import GetNodeShapesRequest, GetNodeShapesResponse
from layerserve.v1.tensor_pb2 import ModelSpec
from layerserve.values.tensor_spec import TensorSpec, read_tensor_spec


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


def fetch_signature(signatures: Signatures, spec: ModelSpec) -> Flow[Signature]:
    """Flow that fetches a model's inputs and outputs. Raises ModelNotReady with the reason if it failed to load."""
    info = yield from get_model(spec)
    if info.state == "failed":
        raise ModelNotReady(f"model {info.name!r} version {info.version} failed to load: {info.reason}")
    signature = Signature(info.version, info.inputs, info.outputs, info.independent_rows)
    if not info.inputs:
        # The inputs of a version that isn't loaded are known only after a request that loads it.
        reply = yield from call(GetNodeShapesRequest(model=spec), GetNodeShapesResponse, model_metadata(spec.name))
        signature = Signature(
            reply.model.version or info.version,
            tuple(map(read_tensor_spec, reply.inputs)),
            tuple(map(read_tensor_spec, reply.outputs)),
        )
    signatures.keep(spec, signature)
    return signature
