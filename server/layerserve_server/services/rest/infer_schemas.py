"""The part of /openapi.json for the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import cast

from layerserve_server.inference.input_decoder import forms
from layerserve_server.inference.runner import TensorSpec
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.open_inference.datatypes import DATATYPES
from layerserve_server.services.rest.infer_body import BINARY_ONLY
from layerserve_server.services.rest.openapi import Described, Schema, nested_schema, object_schema, operation


def describe(version: LoadedVersion) -> Described:
    """Returns the path of a model, with its inputs."""
    name = version.name
    names = [spec.name for spec in version.model.output_specs]
    wanted = {
        "name": {"enum": names, "description": "Or any other tensor of the graph."},
        "parameters": _parameters({"binary_data": {"type": "boolean"}, "classification": _CLASSES}),
    }
    infer = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": _parameters({"binary_data_output": {"type": "boolean"}} | _WAITING),
            "inputs": _inputs(version.input_specs),
            "outputs": {
                "type": "array",
                "uniqueItems": True,
                "items": {"type": "object", "required": ["name"], "properties": wanted},
            },
        },
    }
    output = {
        "name": {"type": "string"},
        "datatype": {"enum": list(DATATYPES.values())},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
    }
    inferred = object_schema(
        {
            "model_name": {"const": name},
            "model_version": {"type": "string", "pattern": "^[0-9]+$"},
            "outputs": {"type": "array", "minItems": 1, "items": object_schema(output, more=True)},
        },
        more=True,
    )
    return Described(
        {f"/v2/models/{name}/infer": operation(version, "Infer", "the Open Inference Protocol", binary=True)},
        {f"{name}.InferRequest": infer, f"{name}.InferReply": inferred},
    )


#: Parameters of a request that say how long it may wait.
_WAITING: Schema = {
    "priority": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
    "timeout": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1, "description": "In microseconds."},
}
_CLASSES: Schema = {"type": "integer", "minimum": 1, "maximum": 2**63 - 1}


def _parameters(known: Schema) -> Schema:
    """Returns the schema of parameters, of which others than those that are `known` have no meaning."""
    integer = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
    more = {"anyOf": [{"type": "string"}, {"type": "boolean"}, integer]}
    return {"type": "object", "properties": known, "additionalProperties": more}


def _inputs(specs: Sequence[TensorSpec]) -> Schema:
    """Returns the schema of the inputs, with their elements in JSON.

    A schema can't say that there are as many elements as the shape has, or that inputs have the same number of rows. So
    there is one form of a single row, which is what generators of requests need, and another of any.
    """
    found = _any_of([_tuple([_tensor(spec, row=row) for spec in specs]) for row in (True, False)])
    return {**found, "description": "In any order, and without those that the requested outputs don't need."}


def _tensor(spec: TensorSpec, *, row: bool) -> Schema:
    """Returns the schema of an input: of a single `row` with one element along open axes, or of any number."""
    made = []
    for form in forms(spec):
        shape = [1 if length is None and row else length for length in form.shape]
        made.append(_described(form, shape))
    return _any_of(made)


def _described(spec: TensorSpec, shape: Sequence[int | None]) -> Schema:
    dtype = "float32" if DATATYPES.get(spec.dtype) in BINARY_ONLY else spec.dtype
    lengths: Sequence[Schema] = [
        {"type": "integer", "minimum": 0} if length is None else {"const": length} for length in shape
    ]
    flat = [None if None in shape else prod(cast("Sequence[int]", shape))]
    found = object_schema(
        {
            "name": {"const": spec.name},
            "datatype": {"const": DATATYPES.get(dtype, ""), "description": "Others are converted if no value changes."},
            "shape": _tuple(lengths),
            "data": _any_of([nested_schema(one, dtype, limited=True) for one in (shape, flat) if len(one)]),
        }
    )
    found["properties"]["parameters"] = {"type": "object", "maxProperties": 0}
    return found


def _any_of(schemas: Sequence[Schema]) -> Schema:
    return schemas[0] if len(schemas) == 1 else {"anyOf": list(schemas)}


def _tuple(items: Sequence[Schema]) -> Schema:
    return {"type": "array", "prefixItems": list(items), "minItems": len(items), "maxItems": len(items)}
