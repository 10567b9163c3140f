"""What child processes read of files before runs do: arrays that a request names, and all that a dataset has."""

from __future__ import annotations

import base64
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
from layerserve.values import tensors
from layerserve.values.table_files.table import FileArray, Selection
from layerserve.values.tensors import NUMPY_DTYPES

from layerserve_server.datasets import reader
from layerserve_server.datasets.data_file import DataFile
from layerserve_server.datasets.dataset import ArrayInfo, Description
from layerserve_server.errors import InvalidRequestError, ServerError
from layerserve_server.jobs import table
from layerserve_server.jobs.channel import Channel, never
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


def described_arrays(
    jobs: Jobs, wanted: Sequence[tuple[DataFile, Selection]], gone: Callable[[], bool] = never
) -> list[tuple[DataFile, FileArray]]:
    """Describes arrays in files. Raises as `reader.describe` and `Jobs.run` do."""
    arguments = {"wanted": [[asdict(file), asdict(selection)] for file, selection in wanted]}
    reply = jobs.run(table.DESCRIBE_FILES, arguments, jobs.limits(), gone)
    return [(_file(one["file"]), _array(one["array"])) for one in reply["arrays"]]


def described_dataset(jobs: Jobs, file: DataFile) -> Description:
    """Describes the file of a dataset. Raises as `reader.names` and `Jobs.run` do."""
    arguments = {"file": asdict(file)}
    return read_description(jobs.run(table.DESCRIBE_DATASET, arguments, jobs.limits(seconds=DESCRIBING_SECONDS)))


def read_description(reply: Mapping[str, Any]) -> Description:
    """Returns the description in the reply of the job."""
    arrays = [ArrayInfo(one["name"], one["dtype"], tuple(one["shape"]), one["problem"]) for one in reply["arrays"]]
    return Description(arrays, reply["samples"])


def _file(values: Mapping[str, Any]) -> DataFile:
    return DataFile(**{**values, "stamp": tuple(values["stamp"])})


def _array(values: Mapping[str, Any]) -> FileArray:
    return FileArray(**{**values, "shape": tuple(values["shape"]), "columns": tuple(values["columns"])})


def _selection(values: Mapping[str, Any]) -> Selection:
    return Selection(**{**values, "columns": tuple(values["columns"])})


# In the child process.


def describe_files(arguments: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The job that describes arrays in files."""
    wanted = [(_file(file), _selection(selection)) for file, selection in arguments["wanted"]]
    return {"arrays": [{"file": asdict(file), "array": asdict(array)} for file, array in reader.describe_all(wanted)]}


def describe_dataset(arguments: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The job that describes the file of a dataset."""
    file = _file(arguments["file"])
    names = reader.names(file)
    if not 0 < len(names) <= MAX_ARRAYS:
        raise InvalidRequestError(f"dataset: got {len(names)} arrays, expected 1 to {MAX_ARRAYS}")
    for name in names:
        if len(name) > MAX_NAME:
            raise InvalidRequestError(f"dataset: got a name of {len(name)} characters, expected at most {MAX_NAME}")
    arrays: list[dict[str, Any]] = []
    samples: dict[str, dict[str, Any]] = {}
    room = SAMPLES_BYTES
    for name, found in _found(file, names):
        if isinstance(found, str):
            arrays.append({"name": name, "dtype": "", "shape": [], "problem": found})
            continue
        arrays.append({"name": name, "dtype": found.dtype, "shape": list(found.shape), "problem": ""})
        sample = _sample(file, name, found) if len(samples) < MAX_SAMPLES else None
        if sample is not None and len(sample["data"]) <= room:
            room -= len(sample["data"])
            samples[name] = sample
    if all(array["problem"] for array in arrays):
        raise InvalidRequestError(f"dataset: {arrays[0]['problem']}")
    return {"arrays": arrays, "samples": samples}


def _found(file: DataFile, names: Sequence[str]) -> list[tuple[str, FileArray | str]]:
    """Returns what each name is, or why it can't be read. All are read in one pass, unless one of them fails."""
    usable = [name for name in names if name and names.count(name) == 1]
    found: dict[str, FileArray | str] = {}
    try:
        _, arrays = reader.describe(file, [Selection((name,)) for name in usable])
        found.update(zip(usable, arrays, strict=True))
    except ServerError:
        for name in usable:
            try:
                _, (found[name],) = reader.describe(file, [Selection((name,))])
            except ServerError as error:
                found[name] = str(error)[:MAX_PROBLEM]
    for name in names:
        repeated = f"got {names.count(name)} arrays of the name '{name}', expected one"
        found.setdefault(name, repeated if name else "got an array or column without a name")
    return [(name, found[name]) for name in names]


def _sample(file: DataFile, name: str, found: FileArray) -> dict[str, Any] | None:
    """Returns the first rows of an array that fit, encoded as Tensor.data; None if not even one does."""
    elements = math.prod(found.shape[1:])
    is_text = found.dtype == "string"
    row_bytes = elements * (SAMPLE_TEXT if is_text else NUMPY_DTYPES[found.dtype].itemsize)
    rows = min(SAMPLE_ROWS, SAMPLE_BYTES // max(1, row_bytes))
    if not found.shape or not rows or not elements:
        return None
    array = _head(file, found, min(rows, found.shape[0]))
    if is_text:
        array = _cut(array)
    data = tensors.encode_data(array.astype(NUMPY_DTYPES[found.dtype]), found.dtype, name)
    return {"rows": len(array), "data": base64.b64encode(data).decode("ascii")}


def _head(file: DataFile, found: FileArray, rows: int) -> Array:
    """Returns the first rows of an array; none of one that is unpacked column by column."""
    if found.mapped:
        return np.array(reader.mapped(file, found)[:rows])
    sink = _Head(rows * math.prod(found.shape[1:]))
    with contextlib.suppress(_Enough):
        reader.unpack(file, [(found, sink)])
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
