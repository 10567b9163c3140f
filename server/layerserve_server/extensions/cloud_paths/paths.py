"""The paths: ModelInfer of one model, in the forms that Triton has for these clouds."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from layerserve_server.errors import InvalidRequestError, safe_text
from layerserve_server.extensions.cloud_paths.settings import CloudPathSettings
from layerserve_server.extensions.extension import Core, Paths, Process, Web
from layerserve_server.services.open_inference.inference import SERVICE
from layerserve_server.services.rest.body_reader import BodyReader
from layerserve_server.services.rest.infer import translate
from layerserve_server.services.rest.infer_body import JSON_LENGTH
from layerserve_server.transport.http.exchange import HttpReply, HttpRequest, HttpRoute, Translated

#: The type of a body in binary, with the size of the JSON before it: these clouds pass on no other headers.
BINARY = re.compile(r"application/vnd\.(sagemaker|vertex-ai)-triton\.binary\+json; *json-header-size=(.*)", re.S)
#: Header with the path of another model, which Vertex AI's callers may send.
REDIRECT = "x-vertex-ai-triton-redirect"
_MODEL = re.compile(r"/?v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?/infer")


def predict_paths(process: Process, web: Web) -> Paths:
    """Returns the path of predictions, if the settings name one."""
    settings = CloudPathSettings.of(process.settings)
    if not settings.predict_path:
        return Paths()
    infer = CloudInfer(web.reader, lambda: settings.predict_model or _only_model(process))
    return Paths(routes=[HttpRoute("POST", settings.predict_path, SERVICE + "ModelInfer", infer.translate)])


def health_paths(core: Core) -> Paths:
    """Returns the path of health, if the settings name one."""
    path = CloudPathSettings.of(core.settings).health_path
    return Paths(plain={path: lambda _: HttpReply(b"{}", status=200 if core.ready() else 503)} if path else {})


class CloudInfer:
    """Translates requests of a path that names no model."""

    def __init__(self, reader: BodyReader, model: Callable[[], str]) -> None:
        """`reader` reads long bodies. `model` returns the name of the model, or raises InvalidRequestError."""
        self._reader = reader
        self._model = model

    def translate(self, request: HttpRequest) -> Translated:
        """Translates a request. Raises InvalidRequestError."""
        headers = dict(request.headers)
        cloud = "vertex-ai" if REDIRECT in headers else "sagemaker"
        if found := BINARY.fullmatch(headers.get("content-type", "")):
            cloud, headers[JSON_LENGTH] = found.groups()
        message, reply = translate(self._reader, replace(request, names=self._names(headers), headers=headers))
        return Translated(message, lambda answer: _typed(reply(answer), cloud))

    def _names(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Returns the model, and the version if the request names one."""
        other = headers.get(REDIRECT)
        if other is None:
            return {"model": self._model()}
        found = _MODEL.fullmatch(other)
        if found is None:
            raise InvalidRequestError(
                f"header '{REDIRECT}': got '{safe_text(other, 80)}', expected v2/models/NAME/infer, or "
                "v2/models/NAME/versions/VERSION/infer"
            )
        return {name: value for name, value in found.groupdict().items() if value is not None}


def _typed(reply: HttpReply, cloud: str) -> HttpReply:
    """Returns a reply whose type has the size of its JSON, if it is in binary."""
    headers = dict(reply.headers)
    if JSON_LENGTH in headers:
        headers["content-type"] = f"application/vnd.{cloud}-triton.binary+json;json-header-size={headers[JSON_LENGTH]}"
    return replace(reply, headers=tuple(headers.items()))


def _only_model(process: Process) -> str:
    names = {one.name for one in process.repository.catalogue.describe()}
    if len(names) != 1:
        raise InvalidRequestError(
            "the server doesn't have exactly one model, and none is chosen for this path: start it with --predict-model"
        )
    return names.pop()
