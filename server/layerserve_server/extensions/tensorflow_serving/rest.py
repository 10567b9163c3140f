"""The paths of TensorFlow Serving's REST form, which clients of KServe's first protocol use as well."""

from __future__ import annotations

from typing import Any

from google.protobuf.json_format import MessageToDict
from layerserve.v1 import models_pb2

from layerserve_server.extensions.tensorflow_serving.metadata import SIGNATURES
from layerserve_server.extensions.tensorflow_serving.model_service import SERVICE as MODELS
from layerserve_server.extensions.tensorflow_serving.predict import SERVICE
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow_serving.model_service_pb2 import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelVersionStatus,
)
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow_serving.prediction_service_pb2 import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    SignatureDefMap,
)
from layerserve_server.extensions.tensorflow_serving.rest_predict import Predict, model_spec
from layerserve_server.repository.repository import Repository
from layerserve_server.services.models import SERVICE as LIST
from layerserve_server.services.rest.body_reader import BodyReader
from layerserve_server.services.rest.json_text import dumps
from layerserve_server.transport.http.exchange import HttpReply, HttpRequest, HttpRoute, Translated

MODEL = "/v1/models/{model}"
#: States of versions that answer requests, at once or after they were loaded for one.
ANSWERING = (models_pb2.VERSION_STATE_READY, models_pb2.VERSION_STATE_AVAILABLE)
#: Forms of a path that name a version.
FORMS = (MODEL, MODEL + "/versions/{version}", MODEL + "/labels/{label}")


def predict_routes(repository: Repository, reader: BodyReader) -> list[HttpRoute]:
    """Returns the routes of predictions. `reader` reads long bodies."""
    predict = Predict(repository, reader)
    found = [HttpRoute("POST", path + ":predict", SERVICE + "Predict", predict.translate) for path in FORMS]
    for verb in ("classify", "regress"):
        method = SERVICE + verb.capitalize()
        # The handler explains that it needs other messages than models here have.
        found += [HttpRoute("POST", f"{path}:{verb}", method, lambda _: Translated(b"", HttpReply)) for path in FORMS]
    return found


def routes() -> list[HttpRoute]:
    """Returns the other routes."""
    found = [HttpRoute("GET", path + "/metadata", SERVICE + "GetModelMetadata", _metadata) for path in FORMS]
    found += [HttpRoute("GET", path, MODELS + "GetModelStatus", _status) for path in FORMS]
    found.append(HttpRoute("GET", "/v1/models", LIST + "ListModels", _models))
    return found


def _status(request: HttpRequest) -> Translated:
    message = GetModelStatusRequest(model_spec=model_spec(request.names))

    def reply(answer: bytes) -> HttpReply:
        response = GetModelStatusResponse.FromString(answer)
        ready = any(one.state == ModelVersionStatus.AVAILABLE for one in response.model_version_status)
        # What KServe's clients read, besides what TensorFlow Serving's do.
        return HttpReply(dumps({**_dict(response), "name": request.names["model"], "ready": ready}))

    return Translated(message.SerializeToString(), reply)


def _metadata(request: HttpRequest) -> Translated:
    message = GetModelMetadataRequest(model_spec=model_spec(request.names), metadata_field=[SIGNATURES])

    def reply(answer: bytes) -> HttpReply:
        response = GetModelMetadataResponse.FromString(answer)
        signatures = SignatureDefMap()
        response.metadata[SIGNATURES].Unpack(signatures)
        found = {"model_spec": _dict(response.model_spec), "metadata": {SIGNATURES: _dict(signatures)}}
        return HttpReply(dumps(found))

    return Translated(message.SerializeToString(), reply)


def _models(_: HttpRequest) -> Translated:
    """Lists the models, as KServe's servers do."""

    def reply(answer: bytes) -> HttpReply:
        versions = models_pb2.ListModelsResponse.FromString(answer).versions
        names = [one.name for one in versions if one.state in ANSWERING]
        return HttpReply(dumps({"models": list(dict.fromkeys(names))}))

    return Translated(models_pb2.ListModelsRequest().SerializeToString(), reply)


def _dict(message: Any) -> Any:
    """Returns a message as protobuf's JSON, with all fields that have no presence."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
