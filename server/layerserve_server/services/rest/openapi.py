"""/openapi.json: the paths that predict, with the inputs and outputs of each model as JSON schemas."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version as package_version
from typing import Any, TypeAlias

from layerserve.v1 import models_pb2

from layerserve_server.errors import ServerError
from layerserve_server.inference.runner import TensorSpec
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.models import SERVICE
from layerserve_server.services.open_inference.datatypes import DATATYPES
from layerserve_server.services.rest.json_text import dumps
from layerserve_server.services.tensorflow_serving.signatures import DEFAULT_KEY, signature, specs_of
from layerserve_server.transport.http.exchange import HttpReply, HttpRequest, HttpRoute, Translated

Schema: TypeAlias = dict[str, Any]

BASE64 = {"type": "object", "properties": {"b64": {"type": "string"}}, "required": ["b64"]}
ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
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


def routes(repository: Repository) -> list[HttpRoute]:
    """Returns the route. It needs the rights of listing the models, and has those that the caller may read."""
    return [HttpRoute("GET", "/openapi.json", SERVICE + "ListModels", partial(_translate, repository))]


def _translate(repository: Repository, _: HttpRequest) -> Translated:
    def reply(message: bytes) -> HttpReply:
        listed = models_pb2.ListModelsResponse.FromString(message).versions
        served = [(one.name, one.version) for one in listed if one.served_by_default]
        return HttpReply(dumps(document(_loaded(repository, served))))

    return Translated(models_pb2.ListModelsRequest().SerializeToString(), reply)


def _loaded(repository: Repository, served: Iterable[tuple[str, int]]) -> Iterable[LoadedVersion]:
    for choice in served:
        try:
            held = repository.leases.lease_loaded(*choice)
        except ServerError:
            continue  # it was removed a moment ago
        if held is not None:
            with held as version:
                yield version


def document(versions: Iterable[LoadedVersion]) -> Schema:
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
        name = version.name
        schemas.update(_schemas(version))
        text = f"of model '{name}', by default version {version.version}"
        paths[f"/v1/models/{name}:predict"] = {
            "post": _operation(f"predict_{name}", f"Outputs {text}, as in TensorFlow Serving.", name, "Predict")
        }
        paths[f"/v2/models/{name}/infer"] = {
            "post": _operation(f"infer_{name}", f"Outputs {text}, as in the Open Inference Protocol.", name, "Infer")
        }
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


def _operation(id: str, text: str, model: str, kind: str) -> Schema:
    responses = {"200": {"description": "The outputs.", "content": _json(f"{model}.{kind}Reply")}}
    responses |= {code: {"description": what, "content": _json("Error")} for code, what in ERRORS.items()}
    body = {"required": True, "content": _json(f"{model}.{kind}Request")}
    return {"operationId": id, "summary": text, "tags": [model], "requestBody": body, "responses": responses}


def _json(name: str) -> Schema:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _schemas(version: LoadedVersion) -> Schema:
    name = version.name
    inputs, outputs = specs_of(version, signature(version, DEFAULT_KEY))
    request = {
        "type": "object",
        "properties": {
            "signature_name": {"enum": sorted(version.signatures)},
            "instances": {"type": "array", "minItems": 1, "items": _named(inputs, rows=True, alone=True)},
            "inputs": _named(inputs, rows=False, alone=True),
        },
        "oneOf": [{"required": ["instances"]}, {"required": ["inputs"]}],
    }
    reply = {
        "type": "object",
        "properties": {
            "predictions": {"type": "array", "items": _named(outputs, rows=True)},
            "outputs": _named(outputs, rows=False),
        },
        "oneOf": [{"required": ["predictions"]}, {"required": ["outputs"]}],
    }
    infer = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": {"type": "array", "items": {"oneOf": [_tensor(spec) for spec in version.model.input_specs]}},
            "outputs": {"type": "array", "items": _object({"name": {"type": "string"}}, more=True)},
        },
    }
    inferred = _object(
        {
            "model_name": {"const": name},
            "model_version": {"type": "string"},
            "outputs": {"type": "array", "items": _object({"name": {"type": "string"}}, more=True)},
        },
        more=True,
    )
    return {
        f"{name}.PredictRequest": request,
        f"{name}.PredictReply": reply,
        f"{name}.InferRequest": infer,
        f"{name}.InferReply": inferred,
    }


def _named(specs: Mapping[str, TensorSpec], *, rows: bool, alone: bool = False) -> Schema:
    """Returns the schema of tensors by name; of one tensor without its name, or, with `alone`, in both forms."""
    values = {name: _nested(spec.shape[1:] if rows else spec.shape, spec.dtype) for name, spec in specs.items()}
    if len(values) > 1:
        return _object(values)
    value = next(iter(values.values()))
    return {"anyOf": [value, _object(values)]} if alone else value


def _object(properties: Schema, *, more: bool = False) -> Schema:
    found: Schema = {"type": "object", "properties": properties, "required": list(properties)}
    return found if more else {**found, "additionalProperties": False}


def _tensor(spec: TensorSpec) -> Schema:
    """Returns the schema of an input of the Open Inference Protocol."""
    datatype = DATATYPES.get(spec.dtype, "")
    lengths: Sequence[Schema] = [
        {"type": "integer", "minimum": 0} if length is None else {"const": length} for length in spec.shape
    ]
    return _object(
        {
            "name": {"const": spec.name},
            "datatype": {"const": datatype, "description": "Others are converted if no value changes."},
            "shape": {"type": "array", "prefixItems": lengths, "minItems": len(lengths), "maxItems": len(lengths)},
        },
        more=True,
    )


def _nested(shape: Sequence[int | None], dtype: str) -> Schema:
    """Returns the schema of nested lists."""
    schema: Schema = {"type": "number", "description": "NaN, Infinity and -Infinity as bare words."}
    if dtype == "string":
        schema = {"anyOf": [{"type": "string"}, BASE64]}
    elif dtype == "bool":
        schema = {"type": "boolean"}
    elif "int" in dtype:
        schema = {"type": "integer"}
    for length in reversed(shape):
        schema = {"type": "array", "items": schema}
        if length is not None:
            schema |= {"minItems": length, "maxItems": length}
    return schema
