"""Handlers of the methods that Triton adds to GRPCInferenceService, but for shared memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import Message
from prometheus_client import CollectorRegistry

from layerserve_server.access.caller import Caller
from layerserve_server.errors import InvalidRequestError, UnknownMethodError, safe_text
from layerserve_server.extensions.triton.model_config import model_config
from layerserve_server.extensions.triton.statistics import statistics
from layerserve_server.protocols.inference import inference_pb2 as pb
from layerserve_server.repository.entry import Description
from layerserve_server.repository.management import Manager
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version_states import State
from layerserve_server.services.open_inference.additions import Additions
from layerserve_server.services.open_inference.inference import SERVICE
from layerserve_server.services.open_inference.service import chosen_by, handler
from layerserve_server.transport.call import Routes

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


class TritonService:
    """Handlers of the methods for operators."""

    def __init__(
        self, repository: Repository, manager: Manager, registry: CollectorRegistry, additions: Additions
    ) -> None:
        """`registry` has the metrics of all processes."""
        self._repository = repository
        self._manager = manager
        self._registry = registry
        self._additions = additions

    def routes(self) -> Routes:
        """Returns the handlers."""
        answers: dict[str, tuple[Any, Callable[[Any, Caller], Message]]] = {
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
            unary={SERVICE + name: handler(kind, answer) for name, (kind, answer) in answers.items()},
            lists={SERVICE + "ModelStatistics", SERVICE + "RepositoryIndex"},
        )

    def model_config(self, request: pb.ModelConfigRequest, caller: Caller) -> pb.ModelConfigResponse:
        """Handles ModelConfig. Raises as `model_metadata` does."""
        with self._repository.leases.lease(*chosen_by(caller, request), kept=True) as version:
            made = model_config(version)
            for configure in self._additions.configure:
                configure(version, made)
            return pb.ModelConfigResponse(config=made)

    def model_statistics(self, request: pb.ModelStatisticsRequest, caller: Caller) -> pb.ModelStatisticsResponse:
        """Handles ModelStatistics. Raises as `Catalogue.describe_one` does if the request names a model."""
        if request.name:
            found = [self._repository.catalogue.describe_one(*chosen_by(caller, request, "read"))]
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
