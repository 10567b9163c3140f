"""The arrays of a run: those in its folder, which were sent or unpacked, and those that are read where they lie.

Files of NumPy's arrays are mapped, and Parquet files read by row groups.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
from layergraph.training.mapped_text import MappedText
from layergraph.training.row_groups import GroupedArray
from layerserve.values.table_files.table import FileArray

from layerserve_server.datasets import reader
from layerserve_server.datasets.data_file import DataFile
from layerserve_server.datasets.parquet_data import ParquetData
from layerserve_server.datasets.reader import Sink
from layerserve_server.datasets.writer import array_writer, mapped_array
from layerserve_server.disk import locked
from layerserve_server.errors import NotTrainableError
from layerserve_server.training.request import DataArray

#: Name of the data folder in a run's folder.
DATA = "data"
#: Name of the file in it that is locked while files are unpacked.
LOCK = "unpacking.lock"


def array_file(folder: Path, index: int) -> Path:
    """Returns the path of an array in a run's folder."""
    return folder / DATA / f"{index}.npy"


def read_data(
    folder: Path, arrays: Sequence[DataArray], room: int = sys.maxsize
) -> list[npt.NDArray[Any] | MappedText | GroupedArray]:
    """Returns the arrays of a run. Those of files that can't be read where they lie are unpacked to its folder first.

    `room` is the maximum size of a text array in bytes. Raises as `reader.mapped` and `ParquetData` do, TooLargeError
    for too much text, NotTrainableError for a damaged file of the run, and OSError.
    """
    if _packed(folder, arrays):
        # Of several workers of a run one unpacks, and the others wait.
        (folder / DATA).mkdir(exist_ok=True)
        with locked(folder / DATA / LOCK):
            for file, packed in _packed(folder, arrays).items():
                _unpack(folder, file, packed, room)
    grouped = _grouped(arrays)
    return [grouped[i] if i in grouped else _read(folder, i, array) for i, array in enumerate(arrays)]


def _grouped(arrays: Sequence[DataArray]) -> dict[int, GroupedArray]:
    """Returns the arrays of Parquet files, by index. Those of one file are read together."""
    of_file: dict[DataFile, list[int]] = {}
    for index, array in enumerate(arrays):
        if array.file is not None and array.file.is_parquet:
            of_file.setdefault(array.file, []).append(index)
    found: dict[int, GroupedArray] = {}
    for file, places in of_file.items():
        found.update(zip(places, ParquetData(file).grouped([arrays[place].in_file for place in places]), strict=True))
    return found


def _packed(folder: Path, arrays: Sequence[DataArray]) -> dict[DataFile, dict[int, DataArray]]:
    """Returns the arrays that must still be unpacked, by index, of each file."""
    found: dict[DataFile, dict[int, DataArray]] = {}
    for index, array in enumerate(arrays):
        if array.file is not None and not array.stays_in_file and not array_file(folder, index).exists():
            found.setdefault(array.file, {})[index] = array
    return found


def _read(folder: Path, index: int, array: DataArray) -> npt.NDArray[Any] | MappedText:
    if array.file is not None and array.mapped:
        return reader.mapped(array.file, array.in_file)
    held = array_file(folder, index)
    try:
        return mapped_array(held, array.dtype, array.shape)
    except (ValueError, EOFError) as error:
        raise NotTrainableError(f"{array.label()}: the run's file {held.name} is damaged: {error}") from error


def _unpack(folder: Path, file: DataFile, arrays: Mapping[int, DataArray], room: int) -> None:
    """Unpacks arrays of one file, in one pass."""
    parts = {index: array_file(folder, index).with_suffix(".part") for index in arrays}
    with contextlib.ExitStack() as stack:
        wanted: list[tuple[FileArray, Sink]] = []
        for index, array in arrays.items():
            sink = array_writer(parts[index], array.dtype, array.shape, array.label(), room)
            stack.callback(sink.close)
            wanted.append((array.in_file, sink))
        reader.unpack(file, wanted)
    for index, part in parts.items():
        os.replace(part, array_file(folder, index))
