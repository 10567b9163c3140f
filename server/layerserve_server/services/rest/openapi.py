"""/openapi.json: the paths that predict, with the inputs and outputs of each model as JSON schemas.

Each protocol describes its own (see `Describe`); the shared parts are here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.metadata import version as package_version
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from layerserve.v1 import models_pb2

from layerserve_server.errors import ServerError
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.models import SERVICE
from layerserve_server.services.rest.json_text import dumps
from layerserve_server.transport.http.exchange import HttpReply, HttpRequest, HttpRoute, Translated

Schema: TypeAlias = dict[str, Any]


class Described(NamedTuple):
    """What a protocol has for a version of a model."""

    #: By path.
    paths: Schema
    #: By name, as `operation` names them.
    schemas: Schema


#: Describes a version that answers requests which name none.
Describe: TypeAlias = Callable[[LoadedVersion], Described]

BASE64 = {
    "type": "object",
    "properties": {"b64": {"type": "string", "pattern": "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}(==|[A-Za-z0-9+/]=))?$"}},
    "required": ["b64"],
    "additionalProperties": False,
}
ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
#: The largest number of a bfloat16.
LARGEST_BFLOAT16 = (2 - 2**-7) * 2.0**127
#: Codes of errors, with what they mean.
ERRORS = {
    "400": "The request isn't valid, or doesn't match the model.",
    "401": "The token is missing or wrong.",
    "403": "The caller has no right to it.",
    "404": "No such model, version or label.",
    "413": "The request is larger than the server accepts.",
    "429": "A queue or another limit is full; `Retry-After` is the time after which to retry.",
    "500": "An internal error, with the id of a line in the server's log.",
    "503": "The model or the server isn't ready.",
    "504": "The deadline of the header `grpc-timeout` has passed.",
}


def routes(repository: Repository, protocols: Sequence[Describe]) -> list[HttpRoute]:
    """Returns the route. It needs the rights of listing the models, and has those that the caller may read."""
    return [HttpRoute("GET", "/openapi.json", SERVICE + "ListModels", partial(_translate, repository, protocols))]


def _translate(repository: Repository, protocols: Sequence[Describe], _: HttpRequest) -> Translated:
    def reply(message: bytes) -> HttpReply:
        listed = models_pb2.ListModelsResponse.FromString(message).versions
        served = [(one.name, one.version) for one in listed if one.served_by_default]
        return HttpReply(dumps(document(_loaded(repository, served), protocols)))

    return Translated(models_pb2.ListModelsRequest().SerializeToString(), reply)


def _loaded(repository: Repository, served: Iterable[tuple[str, int]]) -> Iterable[LoadedVersion]:
    for choice in served:
        try:
            held = repository.leases.lease_loaded(*choice, kept=True)
        except ServerError:
            continue  # it was removed a moment ago
        if held is not None:
            with held as version:
                yield version


def document(versions: Iterable[LoadedVersion], protocols: Sequence[Describe]) -> Schema:
    """Returns the document for these versions, which answer requests that name none."""
    paths: Schema = {
        path: {"get": {"summary": text, "responses": {"200": {"description": "Yes."}, "503": {"description": "No."}}}}
        for path, text in (
            ("/healthz", "Whether the server runs."),
            ("/readyz", "Whether the server is ready."),
            ("/v2/health/live", "Whether the server runs."),
            ("/v2/health/ready", "Whether the server is ready."),
        )
    }
    schemas: Schema = {"Error": ERROR}
    for version in versions:
        for describe in protocols:
            described = describe(version)
            paths |= described.paths
            schemas |= described.schemas
    return {
        "openapi": "3.1.0",
        "info": {"title": "layerserve", "version": package_version("layerserve")},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        # Servers may also ask for none.
        "security": [{}, {"token": []}],
    }


def operation(version: LoadedVersion, kind: str, protocol: str, *, binary: bool = False) -> Schema:
    """Returns the operation of a path that predicts, with schemas `MODEL.{kind}Request` and `MODEL.{kind}Reply`.

    `binary` says that a reply may be in binary.
    """
    model = version.name
    text = f"Outputs of model '{model}', by default version {version.version}, as in {protocol}."
    content = _json(f"{model}.{kind}Reply") | ({"application/octet-stream": {}} if binary else {})
    responses = {"200": {"description": "The outputs.", "content": content}}
    responses |= {code: {"description": what, "content": _json("Error")} for code, what in ERRORS.items()}
    body = {"required": True, "content": _json(f"{model}.{kind}Request")}
    about = {"operationId": f"{kind.lower()}_{model}", "summary": text, "tags": [model]}
    return {"post": {**about, "requestBody": body, "responses": responses}}


def _json(name: str) -> Schema:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def object_schema(properties: Schema, *, more: bool = False) -> Schema:
    found: Schema = {"type": "object", "properties": properties, "required": list(properties)}
    return found if more else {**found, "additionalProperties": False}


def nested_schema(shape: Sequence[int | None], dtype: str, *, limited: bool = False) -> Schema:
    """Returns the schema of nested lists; with `limited`, of numbers that the dtype has, and not of infinity."""
    schema: Schema
    if dtype == "string":
        schema = {"anyOf": [{"type": "string"}, BASE64]}
    elif dtype == "bool":
        schema = {"type": "boolean"}
    elif "int" in dtype:
        schema = {"type": "integer"}
        if limited:
            schema |= {"minimum": int(np.iinfo(dtype).min), "maximum": int(np.iinfo(dtype).max)}
    else:
        schema = {"type": "number", "description": "NaN, Infinity and -Infinity as bare words."}
        if limited:
            largest = LARGEST_BFLOAT16 if dtype == "bfloat16" else float(np.finfo(dtype).max)
            schema |= {"minimum": -largest, "maximum": largest}
    for inner, length in enumerate(reversed(shape)):
        schema = {"type": "array", "items": schema}
        if length is not None:
            schema |= {"minItems": length, "maxItems": length}
        elif inner and limited:
            # Without rows it would have fewer axes.
            schema |= {"minItems": 1}
    return schema
