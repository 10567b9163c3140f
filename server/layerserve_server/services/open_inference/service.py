"""Handlers of GRPCInferenceService that describe the server and its models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import Message
from prometheus_client import CollectorRegistry

from layerserve_server.access.caller import Caller
from layerserve_server.access.rights import Right
from layerserve_server.errors import InvalidRequestError, ServerError, UnknownMethodError, safe_text
from layerserve_server.inference.input_decoder import preferred
from layerserve_server.inference.runner import TensorSpec
from layerserve_server.protocols.inference import inference_pb2 as pb
from layerserve_server.repository.entry import Description
from layerserve_server.repository.leases import Choice
from layerserve_server.repository.management import Manager
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.repository.version_states import State
from layerserve_server.services.messages import parse
from layerserve_server.services.open_inference.additions import Additions
from layerserve_server.services.open_inference.datatypes import config_type, datatype
from layerserve_server.services.open_inference.infer_protocol import model_choice
from layerserve_server.services.open_inference.inference import SERVICE
from layerserve_server.services.open_inference.statistics import statistics
from layerserve_server.transport.call import Call, Handler, Routes

#: Name of the platform and of the backend, which clients show.
PLATFORM = "layerserve"
#: Triton's extensions that work here.
EXTENSIONS = (
    *("classification", "model_configuration", "model_repository", "schedule_policy"),
    *("binary_tensor_data", "parameters", "statistics"),
)
#: States as Triton names them. A version that is loaded on its first request is ready for it.
STATES = {
    State.LOADING: "LOADING",
    State.READY: "READY",
    State.AVAILABLE: "READY",
    State.FAILED: "UNAVAILABLE",
    State.UNLOADING: "UNLOADING",
    State.UNLOADED: "UNAVAILABLE",
}
#: Settings of traces and logs as Triton's clients read them: they can't be changed.
TRACE_SETTINGS: Mapping[str, list[str]] = {"trace_level": ["OFF"], "trace_rate": ["1000"], "trace_count": ["-1"]}


class OpenInferenceService:
    """Handlers of all methods but those that run models (see `inference`)."""

    def __init__(
        self,
        repository: Repository,
        manager: Manager,
        registry: CollectorRegistry,
        name: str,
        version: str,
        ready: Callable[[], bool],
        additions: Additions,
    ) -> None:
        """`registry` has the metrics of all processes; `name` and `version` are the server's.

        `ready` returns whether clients should use it.
        """
        self._repository = repository
        self._manager = manager
        self._registry = registry
        self._name = name
        self._version = version
        self._ready = ready
        self._additions = additions

    def routes(self) -> Routes:
        """Returns the handlers."""
        answers: dict[str, tuple[Any, Callable[[Any, Caller], Message]]] = {
            "ServerLive": (pb.ServerLiveRequest, lambda *_: pb.ServerLiveResponse(live=True)),
            "ServerReady": (pb.ServerReadyRequest, lambda *_: pb.ServerReadyResponse(ready=self._ready())),
            "ModelReady": (pb.ModelReadyRequest, self.model_ready),
            "ServerMetadata": (pb.ServerMetadataRequest, self.server_metadata),
            "ModelMetadata": (pb.ModelMetadataRequest, self.model_metadata),
            "ModelConfig": (pb.ModelConfigRequest, self.model_config),
            "ModelStatistics": (pb.ModelStatisticsRequest, self.model_statistics),
            "RepositoryIndex": (pb.RepositoryIndexRequest, self.repository_index),
            "RepositoryModelLoad": (pb.RepositoryModelLoadRequest, self.load),
            "RepositoryModelUnload": (pb.RepositoryModelUnloadRequest, self.unload),
            "CudaSharedMemoryStatus": (
                pb.CudaSharedMemoryStatusRequest,
                lambda *_: pb.CudaSharedMemoryStatusResponse(),
            ),
            "CudaSharedMemoryRegister": (pb.CudaSharedMemoryRegisterRequest, _no_cuda),
            "CudaSharedMemoryUnregister": (
                pb.CudaSharedMemoryUnregisterRequest,
                lambda *_: pb.CudaSharedMemoryUnregisterResponse(),
            ),
            "TraceSetting": (pb.TraceSettingRequest, self.trace_setting),
            "LogSettings": (pb.LogSettingsRequest, self.log_settings),
        }
        return Routes(
            unary={SERVICE + name: _handler(kind, answer) for name, (kind, answer) in answers.items()},
            lists={SERVICE + "ModelStatistics", SERVICE + "RepositoryIndex"},
        )

    def model_ready(self, request: pb.ModelReadyRequest, caller: Caller) -> pb.ModelReadyResponse:
        """Handles ModelReady: False for a model or version that doesn't exist, as in Triton. Raises ForbiddenError."""
        choice = _chosen_by(caller, request)
        try:
            found = self._repository.catalogue.describe_one(*choice)
        except ServerError:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=_state(found) == "READY")

    def check_known(self, request: Any, caller: Caller) -> None:
        """Raises ForbiddenError, and as `Catalogue.describe_one` for a model or version that doesn't exist."""
        self._repository.catalogue.describe_one(*_chosen_by(caller, request))

    def server_metadata(self, _: pb.ServerMetadataRequest, caller: Caller) -> pb.ServerMetadataResponse:
        """Handles ServerMetadata."""
        extensions = (*EXTENSIONS, *self._additions.extensions)
        return pb.ServerMetadataResponse(name=self._name, version=self._version, extensions=extensions)

    def model_metadata(self, request: pb.ModelMetadataRequest, caller: Caller) -> pb.ModelMetadataResponse:
        """Handles ModelMetadata. Loads the version if it isn't; raises as `Leases.lease` does."""
        with self._repository.leases.lease(*_chosen_by(caller, request), kept=True) as version:
            versions = sorted(one.version for one in self._repository.catalogue.describe(version.name))
            return pb.ModelMetadataResponse(
                name=version.name,
                versions=map(str, versions),
                platform=PLATFORM,
                inputs=map(_metadata, map(preferred, version.input_specs)),
                outputs=map(_metadata, version.model.output_specs),
            )

    def model_config(self, request: pb.ModelConfigRequest, caller: Caller) -> pb.ModelConfigResponse:
        """Handles ModelConfig. Raises as `model_metadata` does."""
        with self._repository.leases.lease(*_chosen_by(caller, request), kept=True) as version:
            made = config(version)
            for configure in self._additions.configure:
                configure(version, made)
            return pb.ModelConfigResponse(config=made)

    def model_statistics(self, request: pb.ModelStatisticsRequest, caller: Caller) -> pb.ModelStatisticsResponse:
        """Handles ModelStatistics. Raises as `Catalogue.describe_one` does if the request names a model."""
        if request.name:
            found = [self._repository.catalogue.describe_one(*_chosen_by(caller, request, "read"))]
            if not request.version:
                found = self._repository.catalogue.describe(request.name)
        else:
            found = self._repository.catalogue.describe()
        served = [(one.name, one.version) for one in found if one.answers and caller.may("read", one.name)]
        return pb.ModelStatisticsResponse(model_stats=statistics(self._registry, served))

    def repository_index(self, request: pb.RepositoryIndexRequest, caller: Caller) -> pb.RepositoryIndexResponse:
        """Handles RepositoryIndex: all versions, or those that are ready."""
        _check_repository(request.repository_name)
        entry = pb.RepositoryIndexResponse.ModelIndex
        models = [
            entry(name=one.name, version=str(one.version), state=_state(one), reason=one.reason)
            for one in self._repository.catalogue.describe()
            if caller.may("read", one.name) and (not request.ready or _state(one) == "READY")
        ]
        return pb.RepositoryIndexResponse(models=models)

    def load(self, request: pb.RepositoryModelLoadRequest, caller: Caller) -> pb.RepositoryModelLoadResponse:
        """Handles RepositoryModelLoad. Raises ForbiddenError, and as `Manager.load` does."""
        _check_managed(request, caller)
        if request.parameters:
            got = safe_text(min(request.parameters), 80)
            raise InvalidRequestError(
                f"parameters: got '{got}', expected none: layerserve.v1.ManagementService/UploadModel uploads models"
            )
        self._manager.load(request.model_name, caller.name)
        return pb.RepositoryModelLoadResponse()

    def unload(self, request: pb.RepositoryModelUnloadRequest, caller: Caller) -> pb.RepositoryModelUnloadResponse:
        """Handles RepositoryModelUnload. Raises as `load` does. No model depends on another."""
        _check_managed(request, caller)
        self._manager.unload(request.model_name, caller.name)
        return pb.RepositoryModelUnloadResponse()

    def trace_setting(self, request: pb.TraceSettingRequest, caller: Caller) -> pb.TraceSettingResponse:
        """Handles TraceSetting: replies with the settings. Raises UnknownMethodError if they are to be changed."""
        if any(setting.value for setting in request.settings.values()):
            raise UnknownMethodError("TraceSetting: traces are set by the OTEL_* variables of the server")
        value = pb.TraceSettingResponse.SettingValue
        return pb.TraceSettingResponse(settings={name: value(value=held) for name, held in TRACE_SETTINGS.items()})

    def log_settings(self, request: pb.LogSettingsRequest, caller: Caller) -> pb.LogSettingsResponse:
        """Handles LogSettings: replies with the settings. Raises UnknownMethodError if they are to be changed."""
        if any(setting.WhichOneof("parameter_choice") for setting in request.settings.values()):
            raise UnknownMethodError("LogSettings: logs are set by --log-level and --log-format")
        value = pb.LogSettingsResponse.SettingValue
        return pb.LogSettingsResponse(
            settings={
                "log_info": value(bool_param=True),
                "log_warning": value(bool_param=True),
                "log_error": value(bool_param=True),
                "log_verbose_level": value(uint32_param=0),
            }
        )


def config(version: LoadedVersion) -> pb.ModelConfig:
    """Returns the settings of a version in Triton's terms. Raises InvalidTensorError if the protocol lacks a dtype."""
    batched = version.model.plan().batched
    axes = slice(1, None) if batched else slice(None)
    made = pb.ModelConfig(
        name=version.name,
        platform=PLATFORM,
        backend=PLATFORM,
        max_batch_size=version.queue.max_batch_rows if batched else 0,
        version_policy=pb.ModelVersionPolicy(latest=pb.ModelVersionPolicy.Latest(num_versions=1)),
        input=[
            pb.ModelInput(name=spec.name, data_type=config_type(spec.dtype, spec.name), dims=_wire_shape(spec)[axes])
            for spec in map(preferred, version.input_specs)
        ],
        output=[
            pb.ModelOutput(
                name=spec.name,
                data_type=config_type(spec.dtype, spec.name),
                dims=_wire_shape(spec)[axes],
                label_filename=version.settings.class_labels.get(spec.name, ""),
            )
            for spec in version.model.output_specs
        ],
        default_model_filename=safe_text(version.found.path.name),
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=False),
        response_cache=pb.ModelResponseCache(enable=False),
    )
    if batched:
        made.dynamic_batching.SetInParent()
    return made


def _handler(kind: Any, answer: Callable[[Any, Caller], Message]) -> Handler:
    def handle(call: Call) -> None:
        message = answer(parse(kind, call.request), call.caller)
        call.answer(message.SerializeToString())

    return handle


def _chosen_by(caller: Caller, request: Any, right: Right = "any") -> Choice:
    """Returns the version that a request names. Raises ForbiddenError before the model is looked up."""
    choice = model_choice(request.name, request.version)
    caller.check_model(right, choice[0])
    return choice


def _state(one: Description) -> str:
    """Returns the state of a version. One that is loaded for a request, or was unloaded to make room, is ready."""
    return "READY" if one.answers else STATES[one.state]


def _no_cuda(*_: object) -> Message:
    raise UnknownMethodError("shared memory of CUDA isn't supported; send the elements in the message")


def _check_managed(request: Any, caller: Caller) -> None:
    _check_repository(request.repository_name)
    if not request.model_name:
        raise InvalidRequestError("model_name: got none, expected the name of a model")
    caller.check_model("manage", request.model_name)


def _check_repository(name: str) -> None:
    if name:
        raise InvalidRequestError(
            f"repository_name: got '{safe_text(name, 80)}', expected none: there is one repository"
        )


def _metadata(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=datatype(spec.dtype, spec.name), shape=_wire_shape(spec)
    )


def _wire_shape(spec: TensorSpec) -> list[int]:
    return [-1 if length is None else length for length in spec.shape]
