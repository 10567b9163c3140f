"""The paths that Triton adds to those of the Open Inference Protocol."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.message import Message

from layerserve_server.errors import InvalidRequestError, safe_text
from layerserve_server.protocols.inference import inference_pb2 as pb
from layerserve_server.services.open_inference.inference import SERVICE
from layerserve_server.services.rest.json_text import dumps, field, kind_of, object_of
from layerserve_server.services.rest.open_inference import MODEL, VERSION, as_dict, as_json, of_model, route
from layerserve_server.transport.http.exchange import HttpReply, HttpRequest, HttpRoute, Translated

#: Values of a setting that is reset to its default.
RESET = None


def routes() -> list[HttpRoute]:
    """Returns the routes."""
    found = [route("GET", "/v2/models/stats", "ModelStatistics", of_model(pb.ModelStatisticsRequest))]
    for path in (VERSION, MODEL):
        found += [
            HttpRoute("GET", path + "/config", SERVICE + "ModelConfig", _config),
            route("GET", path + "/stats", "ModelStatistics", of_model(pb.ModelStatisticsRequest)),
        ]
    found.append(HttpRoute("POST", "/v2/repository/index", SERVICE + "RepositoryIndex", _index))
    for verb, method in (("load", "RepositoryModelLoad"), ("unload", "RepositoryModelUnload")):
        path = "/v2/repository/models/{model}/" + verb
        found.append(route("POST", path, method, _repository(getattr(pb, method + "Request"))))
    for verb in ("GET", "POST"):
        found += [
            HttpRoute(verb, path, SERVICE + "TraceSetting", _trace)
            for path in (MODEL + "/trace/setting", "/v2/trace/setting")
        ]
        found.append(HttpRoute(verb, "/v2/logging", SERVICE + "LogSettings", _logging))
    return [
        *found,
        *_shared_memory("cuda", "CudaSharedMemory", lambda _: {}),
        *_shared_memory("system", "SystemSharedMemory", _registered),
    ]


def _shared_memory(kind: str, method: str, registered: Callable[[HttpRequest], Mapping[str, Any]]) -> list[HttpRoute]:
    """Returns the routes of a kind of shared memory, whose methods begin with `method`.

    `registered` reads the further fields of a request that registers a region.
    """
    base, found = f"/v2/{kind}sharedmemory", []
    for path in (base, base + "/region/{region}"):
        found.append(HttpRoute("GET", path + "/status", SERVICE + method + "Status", _shared(method + "Status")))
        found.append(_shared_route(path + "/unregister", method + "Unregister", lambda _: {}))
    return [*found, _shared_route(base + "/region/{region}/register", method + "Register", registered)]


def _config(given: HttpRequest) -> Translated:
    message = of_model(pb.ModelConfigRequest)(given).SerializeToString()
    return Translated(message, lambda answer: as_json(pb.ModelConfigResponse.FromString(answer).config))


def _index(given: HttpRequest) -> Translated:
    ready = field(object_of(given.body), "ready", bool, default=False)

    def reply(answer: bytes) -> HttpReply:
        models = pb.RepositoryIndexResponse.FromString(answer).models
        return HttpReply(dumps([as_dict(model) for model in models]))

    return Translated(pb.RepositoryIndexRequest(ready=ready).SerializeToString(), reply)


def _repository(kind: Any) -> Callable[[HttpRequest], Message]:
    def request(given: HttpRequest) -> Message:
        made: Message = kind(model_name=given.names["model"])
        for key, value in field(object_of(given.body), "parameters", dict, default={}).items():
            made.parameters[key].CopyFrom(_repository_parameter(key, value))  # type: ignore[attr-defined]
        return made

    return request


def _repository_parameter(key: str, value: Any) -> pb.ModelRepositoryParameter:
    label = f"parameters.{safe_text(key, 80)}"
    if key.startswith("file:") and isinstance(value, str):
        try:
            return pb.ModelRepositoryParameter(bytes_param=base64.b64decode(value, validate=True))
        except (binascii.Error, ValueError):
            raise InvalidRequestError(f"{label}: got a string that isn't base64") from None
    if isinstance(value, bool):
        return pb.ModelRepositoryParameter(bool_param=value)
    if isinstance(value, int) and abs(value) < 2**63:
        return pb.ModelRepositoryParameter(int64_param=value)
    if isinstance(value, str):
        return pb.ModelRepositoryParameter(string_param=value)
    raise InvalidRequestError(f"{label}: got {kind_of(value)}, expected a string, an integer, true or false")


def _trace(given: HttpRequest) -> Translated:
    made = pb.TraceSettingRequest(model_name=given.names.get("model", ""))
    for key, value in object_of(given.body).items():
        values = [] if value is RESET else value if isinstance(value, list) else [value]
        if not all(isinstance(one, str) for one in values):
            raise InvalidRequestError(f"{safe_text(key, 80)}: got {kind_of(value)}, expected strings")
        made.settings[key].value.extend(values)

    def reply(answer: bytes) -> HttpReply:
        settings = pb.TraceSettingResponse.FromString(answer).settings
        # As Triton writes them: the levels are a list.
        found = {key: list(one.value) if key == "trace_level" else one.value[0] for key, one in settings.items()}
        return HttpReply(dumps(found))

    return Translated(made.SerializeToString(), reply)


def _logging(given: HttpRequest) -> Translated:
    made = pb.LogSettingsRequest()
    for key, value in object_of(given.body).items():
        setting = made.settings[key]
        if isinstance(value, bool):
            setting.bool_param = value
        elif isinstance(value, int) and 0 <= value < 2**32:
            setting.uint32_param = value
        elif isinstance(value, str):
            setting.string_param = value
        else:
            raise InvalidRequestError(f"{safe_text(key, 80)}: got {kind_of(value)}, expected a string, number or bool")

    def reply(answer: bytes) -> HttpReply:
        settings = pb.LogSettingsResponse.FromString(answer).settings
        found = {key: getattr(one, str(one.WhichOneof("parameter_choice"))) for key, one in settings.items()}
        return HttpReply(json.dumps(found).encode())

    return Translated(made.SerializeToString(), reply)


def _shared(method: str) -> Callable[[HttpRequest], Translated]:
    def translate(given: HttpRequest) -> Translated:
        message = getattr(pb, method + "Request")(name=given.names.get("region", ""))

        def reply(answer: bytes) -> HttpReply:
            regions = getattr(pb, method + "Response").FromString(answer).regions
            return HttpReply(dumps([as_dict(regions[name]) for name in regions]))

        return Translated(message.SerializeToString(), reply)

    return translate


def _shared_route(path: str, method: str, more: Callable[[HttpRequest], Mapping[str, Any]]) -> HttpRoute:
    kind = getattr(pb, method + "Request")
    return route("POST", path, method, lambda given: kind(name=given.names.get("region", ""), **more(given)))


def _registered(request: HttpRequest) -> Mapping[str, Any]:
    """Returns the fields of SystemSharedMemoryRegisterRequest in a body. Raises InvalidRequestError."""
    body = object_of(request.body, ("key", "offset", "byte_size"), '{"key": ..., "byte_size": ...}')
    return {"key": field(body, "key", str, default=""), **{name: _size(body, name) for name in ("offset", "byte_size")}}


def _size(body: Mapping[str, Any], name: str) -> int:
    found: int = field(body, name, int, default=0)
    if not 0 <= found < 2**64:
        raise InvalidRequestError(f"{name}: got {found}, expected a number of bytes from 0 to 2^64 - 1")
    return found
