"""The formats of model files."""

from __future__ import annotations

from collections.abc import Mapping

from layerserve.errors import InvalidArgument
from layerserve.v1 import tensor_pb2

#: Model file formats by name.
MODEL_FORMATS: Mapping[str, tensor_pb2.ModelFormat.ValueType] = {
    label.removeprefix("MODEL_FORMAT_").lower(): number for label, number in tensor_pb2.ModelFormat.items() if number
}


def model_format(name: str | None) -> tensor_pb2.ModelFormat.ValueType:
    """Returns the format of a name, or none. Raises InvalidArgument for an unknown name."""
    if name is None:
        return tensor_pb2.MODEL_FORMAT_UNSPECIFIED
    if name not in MODEL_FORMATS:
        raise InvalidArgument(f"format: got {name!r}, expected one of {', '.join(map(repr, MODEL_FORMATS))}")
    return MODEL_FORMATS[name]
