"""The paths of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from layerserve_server.access.caller import Caller
from layerserve_server.protocols.inference import inference_pb2 as pb
from layerserve_server.services.open_inference.inference import SERVICE
from layerserve_server.services.prediction.predictor import Predictor
from layerserve_server.services.rest.body_reader import BodyReader
from layerserve_server.services.rest.infer import Infer
from layerserve_server.services.rest.json_text import dumps
from layerserve_server.transport.http.exchange import HttpReply, HttpRequest, HttpRoute, Translated
from layerserve_server.transport.http.statuses import error_reply

MODEL = "/v2/models/{model}"
VERSION = MODEL + "/versions/{version}"


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
    found = [route("GET", path, "ServerMetadata", lambda _: pb.ServerMetadataRequest()) for path in ("/v2", "/v2/")]
    for path in (VERSION, MODEL):
        found += [
            route("GET", path, "ModelMetadata", of_model(pb.ModelMetadataRequest)),
            HttpRoute("GET", path + "/ready", SERVICE + "ModelReady", partial(_model_ready, check_known)),
        ]
    return [
        *found,
        HttpRoute("GET", "/v2/health/live", SERVICE + "ServerLive", lambda _: Translated(b"", _live)),
        HttpRoute("GET", "/v2/health/ready", SERVICE + "ServerReady", lambda _: Translated(b"", _ready)),
    ]


def route(verb: str, path: str, method: str, request: Callable[[HttpRequest], Message]) -> HttpRoute:
    """Returns a route whose reply is the method's, by the names of its fields."""
    kind = getattr(pb, method + "Response")

    def translate(given: HttpRequest) -> Translated:
        return Translated(request(given).SerializeToString(), lambda message: as_json(kind.FromString(message)))

    return HttpRoute(verb, path, SERVICE + method, translate)


def as_json(message: Message) -> HttpReply:
    """Returns a reply with a message."""
    return HttpReply(dumps(as_dict(message)))


def as_dict(message: Message) -> Any:
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


def of_model(kind: Any) -> Callable[[HttpRequest], Message]:
    """Returns what makes a request of a kind that names the model, and perhaps the version, of a path."""

    def request(given: HttpRequest) -> Message:
        made: Message = kind(name=given.names.get("model", ""), version=given.names.get("version", ""))
        return made

    return request


def _model_ready(check_known: Callable[[Any, Caller], None], given: HttpRequest) -> Translated:
    message = of_model(pb.ModelReadyRequest)(given)
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
