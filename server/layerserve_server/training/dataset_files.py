"""What a child of the warm parent reads of the file of a dataset: its arrays or columns, and their first rows."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from layerserve import tensors
from layerserve.tensors import NUMPY_DTYPES

from layerserve_server.datasets.dataset import ArrayInfo, Description
from layerserve_server.errors import InvalidRequestError, InvalidTensorError
from layerserve_server.training import data_root

#: Maximum number of arrays or columns of a dataset, and maximum length of their names, in characters.
MAX_ARRAYS, MAX_NAME = 2000, 500
#: Number of rows of a sample, and its maximum size in bytes, for each array and for all together.
SAMPLE_ROWS, SAMPLE_BYTES, SAMPLES_BYTES = 5, 4096, 256 << 10
#: Length at which a text of a sample is cut, in bytes.
SAMPLE_TEXT = 200


def described(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The job that describes the file of a dataset. Raises as `data_root.describe` does."""
    root, path = Path(arguments["folder"]), arguments["file"]
    arrays: list[dict[str, Any]] = []
    samples, room = {}, SAMPLES_BYTES
    for name in checked_names(data_root.names(root, path)):
        try:
            found = data_root.describe(root, path, name)
        except InvalidTensorError as error:
            arrays.append({"name": name, "dtype": "", "shape": [], "problem": str(error)[:300]})
            continue
        arrays.append({"name": name, "dtype": found.dtype, "shape": list(found.shape), "problem": ""})
        sample = _sample(root, path, name, found.dtype, found.shape)
        if sample is not None and len(sample["data"]) <= room:
            room -= len(sample["data"])
            samples[name] = sample
    if all(array["problem"] for array in arrays):
        reason = arrays[0]["problem"] if arrays else "the file has no arrays"
        raise InvalidRequestError(f"dataset: {reason}")
    return {"arrays": arrays, "samples": samples}


def description(reply: Mapping[str, Any]) -> Description:
    """Returns the description in the reply of the job."""
    arrays = [ArrayInfo(one["name"], one["dtype"], tuple(one["shape"]), one["problem"]) for one in reply["arrays"]]
    return Description(arrays, reply["samples"])


def checked_names(names: Sequence[str]) -> Sequence[str]:
    """Returns names of arrays. Raises InvalidRequestError if they are too many, too long, or not distinct."""
    if len(names) > MAX_ARRAYS:
        raise InvalidRequestError(f"dataset: got {len(names)} arrays, expected at most {MAX_ARRAYS}")
    for name in names:
        if not 0 < len(name) <= MAX_NAME:
            raise InvalidRequestError(f"dataset: got a name of {len(name)} characters, expected 1 to {MAX_NAME}")
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise InvalidRequestError(f"dataset: got several arrays named '{repeated}', expected one")
    return names


def _sample(root: Path, path: str, name: str, dtype: str, shape: tuple[int, ...]) -> dict[str, Any] | None:
    """Returns the first rows of an array that fit, encoded as Tensor.data; None if not even one does."""
    elements = math.prod(shape[1:])
    row_bytes = elements * (SAMPLE_TEXT if dtype == "string" else NUMPY_DTYPES[dtype].itemsize)
    rows = min(SAMPLE_ROWS, SAMPLE_BYTES // max(1, row_bytes))
    if not shape or not rows or not elements:
        return None
    found = data_root.head(root, path, name, rows)
    if dtype == "string":
        found = _cut(found)
    data = tensors.encode_data(found.astype(NUMPY_DTYPES[dtype]), dtype, name)
    return {"rows": len(found), "data": base64.b64encode(data).decode("ascii")}


def _cut(texts: Any) -> Any:
    cut = np.empty(texts.size, object)
    cut[:] = [text[:SAMPLE_TEXT] for text in texts.ravel()]
    return cut.reshape(texts.shape)
