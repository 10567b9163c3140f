"""Handlers of GRPCInferenceService that describe the server and its models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message

from layerserve_server.access.caller import Caller
from layerserve_server.access.rights import Right
from layerserve_server.errors import ServerError
from layerserve_server.inference.input_decoder import preferred
from layerserve_server.inference.runner import TensorSpec
from layerserve_server.protocols.inference import inference_pb2 as pb
from layerserve_server.repository.leases import Choice
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version_states import State
from layerserve_server.services.messages import parse
from layerserve_server.services.open_inference.additions import Additions
from layerserve_server.services.open_inference.datatypes import datatype
from layerserve_server.services.open_inference.infer_protocol import model_choice
from layerserve_server.services.open_inference.inference import SERVICE
from layerserve_server.transport.call import Call, Handler, Routes

#: Name of the platform and of the backend, which clients show.
PLATFORM = "layerserve"
#: Extensions of the protocol that work here.
EXTENSIONS = ("classification", "schedule_policy", "binary_tensor_data", "parameters")


class OpenInferenceService:
    """Handlers of the protocol's methods but those that run models (see `inference`)."""

    def __init__(
        self,
        repository: Repository,
        name: str,
        version: str,
        ready: Callable[[], bool],
        additions: Additions,
    ) -> None:
        """`name` and `version` are the server's; `ready` returns whether clients should use it."""
        self._repository = repository
        self._name = name
        self._version = version
        self._ready = ready
        self._additions = additions

    def routes(self) -> Routes:
        """Returns the handlers."""
        return Routes(
            unary={
                SERVICE + "ServerLive": handler(pb.ServerLiveRequest, lambda *_: pb.ServerLiveResponse(live=True)),
                SERVICE + "ServerReady": handler(
                    pb.ServerReadyRequest, lambda *_: pb.ServerReadyResponse(ready=self._ready())
                ),
                SERVICE + "ModelReady": handler(pb.ModelReadyRequest, self.model_ready),
                SERVICE + "ServerMetadata": handler(pb.ServerMetadataRequest, self.server_metadata),
                SERVICE + "ModelMetadata": handler(pb.ModelMetadataRequest, self.model_metadata),
            }
        )

    def model_ready(self, request: pb.ModelReadyRequest, caller: Caller) -> pb.ModelReadyResponse:
        """Handles ModelReady: False for a model or version that doesn't exist, as in Triton. Raises ForbiddenError."""
        choice = chosen_by(caller, request)
        try:
            found = self._repository.catalogue.describe_one(*choice)
        except ServerError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=found.answers or found.state in (State.READY, State.AVAILABLE))

    def check_known(self, request: Any, caller: Caller) -> None:
        """Raises ForbiddenError, and as `Catalogue.describe_one` for a model or version that doesn't exist."""
        self._repository.catalogue.describe_one(*chosen_by(caller, request))

    def server_metadata(self, _: pb.ServerMetadataRequest, caller: Caller) -> pb.ServerMetadataResponse:
        """Handles ServerMetadata."""
        extensions = (*EXTENSIONS, *self._additions.extensions)
        return pb.ServerMetadataResponse(name=self._name, version=self._version, extensions=extensions)

    def model_metadata(self, request: pb.ModelMetadataRequest, caller: Caller) -> pb.ModelMetadataResponse:
        """Handles ModelMetadata. Loads the version if it isn't; raises as `Leases.lease` does."""
        with self._repository.leases.lease(*chosen_by(caller, request), kept=True) as version:
            versions = sorted(one.version for one in self._repository.catalogue.describe(version.name))
            return pb.ModelMetadataResponse(
                name=version.name,
                versions=map(str, versions),
                platform=PLATFORM,
                inputs=map(_metadata, map(preferred, version.input_specs)),
                outputs=map(_metadata, version.model.output_specs),
            )


def handler(kind: Any, answer: Callable[[Any, Caller], Message]) -> Handler:
    """Returns the handler of a method whose requests are messages of a kind."""

    def handle(call: Call) -> None:
        message = answer(parse(kind, call.request), call.caller)
        call.answer(message.SerializeToString())

    return handle


def chosen_by(caller: Caller, request: Any, right: Right = "any") -> Choice:
    """Returns the version that a request names. Raises ForbiddenError before the model is looked up."""
    choice = model_choice(request.name, request.version)
    caller.check_model(right, choice[0])
    return choice


def _metadata(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=datatype(spec.dtype, spec.name), shape=wire_shape(spec)
    )


def wire_shape(spec: TensorSpec) -> list[int]:
    """Returns a shape with -1 for axes of any length."""
    return [-1 if length is None else length for length in spec.shape]
