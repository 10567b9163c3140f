"""The formats of model files."""

from __future__ import annotations

from layerserve.training.options.kinds import words
from layerserve.v1 import tensor_pb2

#: Model file formats by name.
MODEL_FORMAT = words(
    {label.removeprefix("MODEL_FORMAT_").lower(): number for label, number in tensor_pb2.ModelFormat.items() if number}
)


def model_format(name: str | None) -> tensor_pb2.ModelFormat.ValueType:
    """Returns the enum value of a file format; None is the model's own. Raises InvalidArgument if it is unknown."""
    if name is None:
        return tensor_pb2.MODEL_FORMAT_UNSPECIFIED
    number: tensor_pb2.ModelFormat.ValueType = MODEL_FORMAT.encode("format", name)
    return number
