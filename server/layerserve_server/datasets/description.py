"""What a child process reads of the file of a dataset: its arrays or columns, and their first rows."""

from __future__ import annotations

import base64
import contextlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from layerserve.values import tensors
from layerserve.values.table_files.table import Selection
from layerserve.values.tensors import NUMPY_DTYPES

from layerserve_server.datasets import data_file
from layerserve_server.datasets.dataset import ArrayInfo, Description
from layerserve_server.datasets.filed_array import FiledArray
from layerserve_server.errors import InvalidRequestError, ServerError
from layerserve_server.jobs import table
from layerserve_server.jobs.channel import Channel
from layerserve_server.jobs.jobs import Jobs

Array = npt.NDArray[Any]

#: Maximum number of arrays or columns of a dataset, and maximum length of their names, in characters.
MAX_ARRAYS, MAX_NAME = 2000, 500
#: Number of rows of a sample, and its maximum size in bytes, for each array and for all together.
SAMPLE_ROWS, SAMPLE_BYTES, SAMPLES_BYTES = 5, 4096, 256 << 10
#: Maximum number of arrays with a sample: each is another look at the file.
MAX_SAMPLES = 200
#: Length at which a text of a sample is cut, in bytes.
SAMPLE_TEXT = 200
#: Maximum processor time of describing a dataset, in seconds.
DESCRIBING_SECONDS = 600.0
#: Maximum length of the text why an array can't be used, in characters.
MAX_PROBLEM = 300


def described(jobs: Jobs, folder: Path, file: str) -> Description:
    """Describes the file of a dataset. Raises as `data_file.names` and `Jobs.run` do."""
    arguments = {"folder": str(folder), "file": file}
    return description(jobs.run(table.DESCRIBE_DATASET, arguments, jobs.limits(seconds=DESCRIBING_SECONDS)))


def description(reply: Mapping[str, Any]) -> Description:
    """Returns the description in the reply of the job."""
    arrays = [ArrayInfo(one["name"], one["dtype"], tuple(one["shape"]), one["problem"]) for one in reply["arrays"]]
    return Description(arrays, reply["samples"])


# In the child process.


def describe_dataset(arguments: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The job that describes the file of a dataset."""
    root, path = Path(arguments["folder"]), arguments["file"]
    names = data_file.names(root, path)
    if not 0 < len(names) <= MAX_ARRAYS:
        raise InvalidRequestError(f"dataset: got {len(names)} arrays, expected 1 to {MAX_ARRAYS}")
    for name in names:
        if len(name) > MAX_NAME:
            raise InvalidRequestError(f"dataset: got a name of {len(name)} characters, expected at most {MAX_NAME}")
    arrays: list[dict[str, Any]] = []
    samples: dict[str, dict[str, Any]] = {}
    room = SAMPLES_BYTES
    for name, found in _found(root, path, names):
        if isinstance(found, str):
            arrays.append({"name": name, "dtype": "", "shape": [], "problem": found})
            continue
        arrays.append({"name": name, "dtype": found.dtype, "shape": list(found.shape), "problem": ""})
        sample = _sample(root, path, name, found) if len(samples) < MAX_SAMPLES else None
        if sample is not None and len(sample["data"]) <= room:
            room -= len(sample["data"])
            samples[name] = sample
    if all(array["problem"] for array in arrays):
        raise InvalidRequestError(f"dataset: {arrays[0]['problem']}")
    return {"arrays": arrays, "samples": samples}


def _found(root: Path, path: str, names: Sequence[str]) -> list[tuple[str, FiledArray | str]]:
    """Returns what each name is, or why it can't be read. All are read in one pass, unless one of them fails."""
    usable = [name for name in names if name and names.count(name) == 1]
    found: dict[str, FiledArray | str] = {}
    try:
        selections = [Selection((name,)) for name in usable]
        found.update(zip(usable, data_file.describe(root, path, selections), strict=True))
    except ServerError:
        for name in usable:
            try:
                (found[name],) = data_file.describe(root, path, [Selection((name,))])
            except ServerError as error:
                found[name] = str(error)[:MAX_PROBLEM]
    for name in names:
        repeated = f"got {names.count(name)} arrays of the name '{name}', expected one"
        found.setdefault(name, repeated if name else "got an array or column without a name")
    return [(name, found[name]) for name in names]


def _sample(root: Path, path: str, name: str, found: FiledArray) -> dict[str, Any] | None:
    """Returns the first rows of an array that fit, encoded as Tensor.data; None if not even one does."""
    elements = math.prod(found.shape[1:])
    is_text = found.dtype == "string"
    row_bytes = elements * (SAMPLE_TEXT if is_text else NUMPY_DTYPES[found.dtype].itemsize)
    rows = min(SAMPLE_ROWS, SAMPLE_BYTES // max(1, row_bytes))
    if not found.shape or not rows or not elements:
        return None
    array = _head(root, path, name, found, min(rows, found.shape[0]))
    if is_text:
        array = _cut(array)
    data = tensors.encode_data(array.astype(NUMPY_DTYPES[found.dtype]), found.dtype, name)
    return {"rows": len(array), "data": base64.b64encode(data).decode("ascii")}


def _head(root: Path, path: str, name: str, found: FiledArray, rows: int) -> Array:
    """Returns the first rows of an array; none of one that is unpacked column by column."""
    selection = Selection((name,))
    if found.mapped:
        return np.array(data_file.mapped(root, path, selection, found.stamp)[:rows])
    sink = _Head(rows * math.prod(found.shape[1:]))
    with contextlib.suppress(_Enough):
        data_file.unpack(root, path, found.stamp, [(selection, found.dtype, found.shape, sink)])
    if sink.fortran and len(found.shape) > 1:
        rows = 0
    held = np.concatenate([np.empty(0, NUMPY_DTYPES[found.dtype]), *sink.parts]) if rows else np.empty(0)
    return held.reshape(rows, *found.shape[1:])


class _Enough(Exception):
    """The first rows are read."""


class _Head:
    """Takes the first elements of an array."""

    def __init__(self, wanted: int) -> None:
        self.fortran = False
        self.parts: list[Array] = []
        self._wanted = wanted

    def write(self, piece: Array) -> None:
        """Takes elements. Raises _Enough after the last one that is wanted."""
        self.parts.append(piece.ravel()[: self._wanted])
        self._wanted -= self.parts[-1].size
        if self._wanted <= 0:
            raise _Enough


def _cut(texts: Array) -> Array:
    cut = np.empty(texts.size, object)
    cut[:] = [text[:SAMPLE_TEXT] for text in texts.ravel()]
    return cut.reshape(texts.shape)
