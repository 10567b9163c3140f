"""The elements of an input that came alone, without shape and dtype."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from layerserve import errors as codec_errors
from layerserve.values import tensors

from layerserve_server.errors import InvalidTensorError, safe_text
from layerserve_server.inference.admission import shape_text
from layerserve_server.inference.runner import Array, TensorSpec


def row_of(data: bytes, spec: TensorSpec, *, batched: bool) -> Array:
    """Returns the elements of an input with its shape and dtype: as one row if its model is `batched`.

    The number of elements gives the length of an axis that may have any. Of strings, `data` is a single one. Raises
    InvalidTensorError if the shape doesn't follow from `data`, or has another number of elements.
    """
    shape = (1, *spec.shape[1:]) if batched else tuple(spec.shape)
    known = prod(length for length in shape if length is not None)
    if spec.dtype == "string" and (known != 1 or None in shape):
        raise _no_shape(spec, "For BYTE datatype raw input '{}', the model must have input shape [1]", shape)
    if shape.count(None) > 1:
        why = "there are more than one variable-sized dimension"
        raise _no_shape(spec, f"The shape of the raw input '{{}}' can not be deduced because {why}", shape)
    row_bytes = known * tensors.itemsize(spec.dtype)
    whole = [(len(data) // row_bytes if row_bytes else 0) if length is None else length for length in shape]
    if spec.dtype == "string":
        return np.array([data], dtype=object).reshape(whole)
    try:
        return tensors.decode_data(data, spec.dtype, whole, spec.name)
    except codec_errors.InvalidTensor as error:
        raise InvalidTensorError(str(error)) from error


def _no_shape(spec: TensorSpec, text: str, shape: Sequence[int | None]) -> InvalidTensorError:
    """Returns an error in the words of Triton, which calls such a request raw."""
    begins = text.format(safe_text(spec.name, 80))
    return InvalidTensorError(f"{begins}; it has shape {shape_text(shape)}: send the shape with the elements")
