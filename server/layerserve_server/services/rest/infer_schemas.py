"""The part of /openapi.json for the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Sequence

from layerserve_server.inference.input_decoder import forms
from layerserve_server.inference.runner import TensorSpec
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.open_inference.datatypes import DATATYPES
from layerserve_server.services.rest.openapi import Described, Schema, object_schema, operation


def describe(version: LoadedVersion) -> Described:
    """Returns the path of a model, with its inputs."""
    name = version.name
    inputs = [_tensor(form) for spec in version.input_specs for form in forms(spec)]
    infer = {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "parameters": {"type": "object"},
            "inputs": {"type": "array", "items": {"oneOf": inputs}},
            "outputs": {"type": "array", "items": object_schema({"name": {"type": "string"}}, more=True)},
        },
    }
    inferred = object_schema(
        {
            "model_name": {"const": name},
            "model_version": {"type": "string"},
            "outputs": {"type": "array", "items": object_schema({"name": {"type": "string"}}, more=True)},
        },
        more=True,
    )
    return Described(
        {f"/v2/models/{name}/infer": operation(version, "Infer", "the Open Inference Protocol")},
        {f"{name}.InferRequest": infer, f"{name}.InferReply": inferred},
    )


def _tensor(spec: TensorSpec) -> Schema:
    """Returns the schema of an input of the Open Inference Protocol."""
    datatype = DATATYPES.get(spec.dtype, "")
    lengths: Sequence[Schema] = [
        {"type": "integer", "minimum": 0} if length is None else {"const": length} for length in spec.shape
    ]
    return object_schema(
        {
            "name": {"const": spec.name},
            "datatype": {"const": datatype, "description": "Others are converted if no value changes."},
            "shape": {"type": "array", "prefixItems": lengths, "minItems": len(lengths), "maxItems": len(lengths)},
        },
        more=True,
    )
