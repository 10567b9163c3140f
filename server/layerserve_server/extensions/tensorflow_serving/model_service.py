"""Handlers of tensorflow.serving.ModelService."""

from __future__ import annotations

from layerserve_server.errors import UnknownModelError, UnknownVersionError, safe_text
from layerserve_server.extensions.tensorflow_serving.configuration import Configuration
from layerserve_server.extensions.tensorflow_serving.model_spec import chosen_by
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow import error_codes_pb2
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow_serving.model_service_pb2 import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelVersionStatus,
    ReloadConfigRequest,
    ReloadConfigResponse,
    StatusProto,
)
from layerserve_server.repository.entry import Description
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version_states import State
from layerserve_server.services.messages import parse
from layerserve_server.transport.call import Call, Routes

SERVICE = "/tensorflow.serving.ModelService/"

STATES: dict[State, ModelVersionStatus.State.ValueType] = {
    State.AVAILABLE: ModelVersionStatus.START,
    State.LOADING: ModelVersionStatus.LOADING,
    State.READY: ModelVersionStatus.AVAILABLE,
    State.UNLOADING: ModelVersionStatus.UNLOADING,
    State.FAILED: ModelVersionStatus.END,
    State.UNLOADED: ModelVersionStatus.END,
}


class TensorFlowModelService:
    """Handlers of TensorFlow Serving's model service."""

    def __init__(self, repository: Repository, configuration: Configuration) -> None:
        self._repository = repository
        self._configuration = configuration

    def routes(self) -> Routes:
        """Returns the handlers."""
        return Routes(
            unary={
                SERVICE + "GetModelStatus": self.get_model_status,
                SERVICE + "HandleReloadConfigRequest": self.handle_reload_config_request,
            }
        )

    def get_model_status(self, call: Call) -> None:
        """Handles GetModelStatus: replies with the states of all versions of a model, or of one.

        Raises UnknownModelError, UnknownVersionError, and as `chosen_by` and `Catalogue.describe` do.
        """
        request = parse(GetModelStatusRequest, call.request)
        name, version, label = chosen_by(call.caller, "any", request.model_spec)
        if label is not None:
            found = [self._repository.catalogue.describe_one(name, None, label)]
        else:
            found = self._repository.catalogue.describe(name)
        if not found:
            raise UnknownModelError(f"Could not find any versions of model {name}")
        if version is not None:
            found = [one for one in found if one.version == version]
        if not found:
            raise UnknownVersionError(f"Could not find version {version} of model {name}")
        call.answer(GetModelStatusResponse(model_version_status=map(_status, found)).SerializeToString())

    def handle_reload_config_request(self, call: Call) -> None:
        """Handles HandleReloadConfigRequest: changes what is served. Raises as `Configuration.apply` does."""
        lagging = self._configuration.apply(parse(ReloadConfigRequest, call.request), call.caller)
        text = f"in effect, but not yet in {'; '.join(lagging)}" if lagging else ""
        status = StatusProto(error_code=error_codes_pb2.OK, error_message=safe_text(text))
        call.answer(ReloadConfigResponse(status=status).SerializeToString())


def _status(one: Description) -> ModelVersionStatus:
    failed = one.state is State.FAILED
    return ModelVersionStatus(
        version=one.version,
        state=ModelVersionStatus.AVAILABLE if one.answers else STATES[one.state],
        status=StatusProto(
            error_code=error_codes_pb2.FAILED_PRECONDITION if failed else error_codes_pb2.OK,
            error_message=one.reason if failed else "",
        ),
    )
