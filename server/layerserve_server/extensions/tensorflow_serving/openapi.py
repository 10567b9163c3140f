"""The part of /openapi.json for the REST form of TensorFlow Serving."""

from __future__ import annotations

from collections.abc import Mapping

from layerserve_server.extensions.tensorflow_serving.signatures import DEFAULT_KEY, signature, specs_of
from layerserve_server.inference.input_decoder import forms
from layerserve_server.inference.runner import TensorSpec
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.rest.openapi import Described, Schema, nested_schema, object_schema, operation


def describe(version: LoadedVersion) -> Described:
    """Returns the path of a model, with the inputs and outputs of its default signature."""
    name = version.name
    inputs, outputs = specs_of(version, signature(version, DEFAULT_KEY))
    request = {
        "type": "object",
        "properties": {
            "signature_name": {"enum": sorted(version.signatures)},
            "instances": {"type": "array", "minItems": 1, "items": _named(inputs, rows=True, given=True)},
            "inputs": _named(inputs, rows=False, given=True),
        },
        "additionalProperties": False,
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
    return Described(
        {f"/v1/models/{name}:predict": operation(version, "Predict", "TensorFlow Serving")},
        {f"{name}.PredictRequest": request, f"{name}.PredictReply": reply},
    )


def _named(specs: Mapping[str, TensorSpec], *, rows: bool, given: bool = False) -> Schema:
    """Returns the schema of tensors by name; of one tensor without its name, or, in what is `given`, in both forms."""
    values = {name: _values(spec, rows=rows, given=given) for name, spec in specs.items()}
    if len(values) > 1:
        return object_schema(values)
    value = next(iter(values.values()))
    return {"anyOf": [value, object_schema(values)]} if given else value


def _values(spec: TensorSpec, *, rows: bool, given: bool) -> Schema:
    found = [nested_schema(one.shape[1:] if rows else one.shape, one.dtype, limited=given) for one in forms(spec)]
    return found[0] if len(found) == 1 else {"anyOf": found}
