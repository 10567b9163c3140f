"""Inputs and outputs of models: names, shapes and dtypes."""

from __future__ import annotations

from dataclasses import dataclass

from layerserve.v1 import tensor_pb2
from layerserve.values.tensors import dtype_name, read_shape


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a model. `shape` has None for axes of any length; the first axis is the rows.

    `encoding` is what an input takes as bytes besides arrays: "image" for image files; empty for arrays only.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    encoding: str = ""


def read_tensor_spec(message: tensor_pb2.TensorSpec) -> TensorSpec:
    dtype = dtype_name(message.dtype, message.name)
    return TensorSpec(message.name, read_shape(message.shape), dtype, message.encoding)
