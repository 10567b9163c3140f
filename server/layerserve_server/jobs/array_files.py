"""Arrays between the server and a job: files with the elements as in a message, described by JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from layerserve.errors import InvalidTensor
from layerserve.values import tensors

from layerserve_server.errors import InvalidTensorError


def read_array(path: Path, described: Mapping[str, Any]) -> npt.NDArray[Any]:
    """Returns the array in a file. Raises InvalidTensorError if its elements don't match the description."""
    name, dtype, shape = described["name"], described["dtype"], tuple(described["shape"])
    try:
        return tensors.decode_data(path.read_bytes(), dtype, shape, name)
    except InvalidTensor as error:
        raise InvalidTensorError(str(error)) from error


def write_array(path: Path, name: str, array: npt.NDArray[Any]) -> dict[str, Any]:
    """Writes an array to a file, and returns its description."""
    dtype = tensors.array_dtype(np.asarray(array), name)
    path.write_bytes(tensors.encode_data(array, dtype, name))
    return {"name": name, "dtype": dtype, "shape": list(array.shape)}
