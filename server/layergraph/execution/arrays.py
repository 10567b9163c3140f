"""Conversion between NumPy arrays and the tensors of a plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from layergraph.errors import DataError, ShapeError
from layergraph.functional.dtypes import dtype_name, torch_dtype
from layergraph.functional.strings import Strings
from layergraph.functional.tensor import Shape, TensorSpec


def check_fit(what: str, got: tuple[int, ...], expected: Shape) -> None:
    """Raises ShapeError if `got`, the shape of an array, doesn't match `expected`."""
    if len(got) != len(expected) or any(e is not None and e != g for g, e in zip(got, expected, strict=True)):
        raise ShapeError(what, got, expected)


def as_tensor(array: np.ndarray[Any, Any], spec: TensorSpec) -> Any:
    """Returns the array as a tensor of the input's dtype, sharing memory if possible. Text becomes `Strings`.

    Dtypes are converted as in Keras: any number to floating point, integers to other integers. Raises DataError for
    other conversions.
    """
    if array.dtype == spec.dtype and array.flags.c_contiguous and array.flags.writeable and array.dtype.isnative:
        # The common case takes a few hundred nanoseconds.
        return torch.from_numpy(array)
    if spec.dtype == Strings.dtype:
        if dtype_name(array.dtype) != Strings.dtype:
            raise DataError(f"input '{spec.name}': got {array.dtype}, expected {spec.dtype}")
        return Strings.of(array, f"input '{spec.name}'")
    wanted = torch_dtype(spec.dtype)
    if array.dtype.kind not in "biufV" or (array.dtype.kind == "f" and not wanted.is_floating_point):
        raise DataError(f"input '{spec.name}': got {array.dtype}, expected {spec.dtype}")
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(np.ascontiguousarray(array).view(np.int16).copy()).view(torch.bfloat16).to(wanted)
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    if native.shape != array.shape:
        native = native.reshape(array.shape)
    # torch has no read-only tensors and warns of read-only memory.
    return torch.from_numpy(native if native.flags.writeable else native.copy()).to(wanted)


def to_numpy(value: torch.Tensor | Strings) -> np.ndarray[Any, Any]:
    """Returns the values as an array in C order; bfloat16, which NumPy lacks, as float32; text as `bytes` objects."""
    if isinstance(value, Strings):
        return value.values
    if value.is_inference() and value.device.type == "cpu" and value.is_contiguous() and value.dtype != torch.bfloat16:
        return value.numpy()
    value = value.detach()
    if value.dtype == torch.bfloat16:
        value = value.float()
    return np.ascontiguousarray(value.cpu().numpy()).reshape(tuple(value.shape))
