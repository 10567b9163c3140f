"""The paths of the Open Inference Protocol, with those that Triton's client calls."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from layerserve_server.access.caller import Caller
from layerserve_server.errors import InvalidRequestError, safe_text
from layerserve_server.protocols.inference import inference_pb2 as pb
from layerserve_server.services.open_inference.inference import SERVICE
from layerserve_server.services.prediction.predictor import Predictor
from layerserve_server.services.rest.body_reader import BodyReader
from layerserve_server.services.rest.infer import Infer
from layerserve_server.services.rest.json_text import dumps, field, kind_of, object_of
from layerserve_server.transport.http.exchange import HttpReply, HttpRequest, HttpRoute, Translated
from layerserve_server.transport.http.statuses import error_reply

MODEL = "/v2/models/{model}"
VERSION = MODEL + "/versions/{version}"
#: Values of a setting of Triton that is reset to its default.
RESET = None


def infer_routes(predictor: Predictor, reader: BodyReader) -> list[HttpRoute]:
    """Returns the routes of predictions. `reader` reads long bodies."""
    infer = Infer(predictor, reader)
    return [
        HttpRoute("POST", path + "/infer", SERVICE + "ModelInfer", handler=infer.handler) for path in (VERSION, MODEL)
    ]


def routes(check_known: Callable[[Any, Caller], None]) -> list[HttpRoute]:
    """Returns the other routes.

    `check_known` raises an error if there is no such model or version as a message names, or its caller has no right.
    """
    # Before the paths with a version: "stats" is no model's name there.
    found = [_route("GET", "/v2/models/stats", "ModelStatistics", _of_model(pb.ModelStatisticsRequest))]
    for path in (VERSION, MODEL):
        found += [
            _route("GET", path, "ModelMetadata", _of_model(pb.ModelMetadataRequest)),
            HttpRoute("GET", path + "/ready", SERVICE + "ModelReady", partial(_model_ready, check_known)),
            HttpRoute("GET", path + "/config", SERVICE + "ModelConfig", _config),
            _route("GET", path + "/stats", "ModelStatistics", _of_model(pb.ModelStatisticsRequest)),
        ]
    found += [_route("GET", path, "ServerMetadata", lambda _: pb.ServerMetadataRequest()) for path in ("/v2", "/v2/")]
    found += [
        HttpRoute("GET", "/v2/health/live", SERVICE + "ServerLive", lambda _: Translated(b"", _live)),
        HttpRoute("GET", "/v2/health/ready", SERVICE + "ServerReady", lambda _: Translated(b"", _ready)),
        HttpRoute("POST", "/v2/repository/index", SERVICE + "RepositoryIndex", _index),
    ]
    for verb, method in (("load", "RepositoryModelLoad"), ("unload", "RepositoryModelUnload")):
        path = "/v2/repository/models/{model}/" + verb
        found.append(_route("POST", path, method, _repository(getattr(pb, method + "Request"))))
    for verb in ("GET", "POST"):
        found += [
            HttpRoute(verb, path, SERVICE + "TraceSetting", _trace)
            for path in (MODEL + "/trace/setting", "/v2/trace/setting")
        ]
        found.append(HttpRoute(verb, "/v2/logging", SERVICE + "LogSettings", _logging))
    return [*found, *shared_memory("cuda", "CudaSharedMemory", lambda _: {})]


def shared_memory(kind: str, method: str, registered: Callable[[HttpRequest], Mapping[str, Any]]) -> list[HttpRoute]:
    """Returns the routes of a kind of shared memory, whose methods begin with `method`.

    `registered` reads the further fields of a request that registers a region.
    """
    base, found = f"/v2/{kind}sharedmemory", []
    for path in (base, base + "/region/{region}"):
        found.append(HttpRoute("GET", path + "/status", SERVICE + method + "Status", _shared(method + "Status")))
        found.append(_shared_route(path + "/unregister", method + "Unregister", lambda _: {}))
    return [*found, _shared_route(base + "/region/{region}/register", method + "Register", registered)]


def _route(verb: str, path: str, method: str, request: Callable[[HttpRequest], Message]) -> HttpRoute:
    """Returns a route whose reply is the method's, by the names of its fields."""
    kind = getattr(pb, method + "Response")

    def translate(given: HttpRequest) -> Translated:
        return Translated(request(given).SerializeToString(), lambda message: _as_json(kind.FromString(message)))

    return HttpRoute(verb, path, SERVICE + method, translate)


def _as_json(message: Message) -> HttpReply:
    return HttpReply(dumps(_as_dict(message)))


def _as_dict(message: Message) -> Any:
    """Returns a message as a dict with all fields that have no presence, and 64-bit integers as numbers."""
    found = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return _numbers(found, message)


def _numbers(value: Any, message: Any) -> Any:
    """Replaces the strings that protobuf's JSON has for 64-bit integers by numbers, as Triton does."""
    for one in message.DESCRIPTOR.fields:
        if one.name not in value:
            continue
        held, entry = value[one.name], getattr(message, one.name)
        many = isinstance(held, list)
        if isinstance(held, dict) and one.message_type and one.message_type.GetOptions().map_entry:
            if one.message_type.fields_by_name["value"].message_type is not None:
                for key in entry:
                    _numbers(held[str(key)], entry[key])
        elif one.message_type is not None:
            for inner, part in zip(held, entry, strict=True) if many else ((held, entry),):
                _numbers(inner, part)
        elif one.cpp_type in (one.CPPTYPE_INT64, one.CPPTYPE_UINT64):
            value[one.name] = [int(number) for number in held] if many else int(held)
    return value


def _of_model(kind: Any) -> Callable[[HttpRequest], Message]:
    def request(given: HttpRequest) -> Message:
        made: Message = kind(name=given.names.get("model", ""), version=given.names.get("version", ""))
        return made

    return request


def _model_ready(check_known: Callable[[Any, Caller], None], given: HttpRequest) -> Translated:
    message = _of_model(pb.ModelReadyRequest)(given)
    # Over gRPC, a model that doesn't exist isn't ready, as in Triton. Here its other paths don't exist, either.
    check_known(message, given.caller)

    def reply(answer: bytes) -> HttpReply:
        ready = pb.ModelReadyResponse.FromString(answer).ready
        return _health("ready", ready, "the model isn't ready", name=given.names["model"])

    return Translated(message.SerializeToString(), reply)


def _live(answer: bytes) -> HttpReply:
    return _health("live", pb.ServerLiveResponse.FromString(answer).live, "the server isn't live")


def _ready(answer: bytes) -> HttpReply:
    return _health("ready", pb.ServerReadyResponse.FromString(answer).ready, "the server isn't ready")


def _health(key: str, good: bool, text: str, **more: str) -> HttpReply:
    """Returns a reply whose status Triton's clients read, and whose body KServe's clients do."""
    return HttpReply(dumps({key: True, **more})) if good else error_reply(text, 503, "unavailable")


def _config(given: HttpRequest) -> Translated:
    message = _of_model(pb.ModelConfigRequest)(given).SerializeToString()
    return Translated(message, lambda answer: _as_json(pb.ModelConfigResponse.FromString(answer).config))


def _index(given: HttpRequest) -> Translated:
    ready = field(object_of(given.body), "ready", bool, default=False)

    def reply(answer: bytes) -> HttpReply:
        models = pb.RepositoryIndexResponse.FromString(answer).models
        return HttpReply(dumps([_as_dict(model) for model in models]))

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
            return HttpReply(dumps([_as_dict(regions[name]) for name in regions]))

        return Translated(message.SerializeToString(), reply)

    return translate


def _shared_route(path: str, method: str, more: Callable[[HttpRequest], Mapping[str, Any]]) -> HttpRoute:
    kind = getattr(pb, method + "Request")
    return _route("POST", path, method, lambda given: kind(name=given.names.get("region", ""), **more(given)))
