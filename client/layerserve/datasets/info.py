"""Information about datasets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast

import numpy as np

from layerserve.datasets.roles import dataset_arrays
from layerserve.models.info import read_time
from layerserve.training.data import AllData, TrainingArray
from layerserve.v1 import datasets_pb2 as pb
from layerserve.values.tables import Table, Tabular, count_text, shape_text
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import Array, decode, known_dtype

#: Format of the file of a dataset.
DatasetFormat = Literal["npz", "parquet", "csv", "tsv", "unknown"]
#: Number of digits of an id in tables.
SHOWN_DIGITS = 12

_COLUMNS = ("Dataset", "Title", "Format", "#Bytes", "#Rows", "Arrays", "Owner", "Created", "Expires")


@dataclass(frozen=True, slots=True)
class DatasetColumn:
    """An array or column of a dataset.

    `problem` is why it can't be read as it is, such as missing numbers; empty if it can. `sample` are its first rows,
    if `client.datasets.get` was called and they are short.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    problem: str = ""
    sample: Array | None = None


@dataclass(frozen=True, slots=True)
class DatasetInfo(AllData, Tabular):
    """A dataset on the server.

    `id` is the SHA-256 of its file. `rows` is 0 if its arrays have different numbers of them. It is removed at
    `expires_time` unless it is used before; None means never.
    """

    id: str
    title: str
    format: DatasetFormat
    bytes: int
    rows: int
    arrays: tuple[DatasetColumn, ...]
    owner: str
    shared: bool
    created_time: datetime | None
    used_time: datetime | None
    expires_time: datetime | None

    def training_arrays(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, validates: bool
    ) -> list[TrainingArray]:
        """Returns the arrays that a model uses, by their names. Raises InvalidArgument without inputs or targets."""
        # Also those that can't be read as they are: the error of the run says why.
        return dataset_arrays(self.id, [one.name for one in self.arrays], inputs, outputs, validates=validates)

    def table(self) -> Table:
        """Returns a table with a row per array."""
        rows = [
            (one.name, one.dtype or one.problem, shape_text(one.shape), _sample_text(one.sample)) for one in self.arrays
        ]
        title = f"Dataset {self.id}" + (f" ({self.title})" if self.title else "")
        return Table(title, ("Array", "Type", "Shape", "First rows"), rows)


class DatasetList(tuple[DatasetInfo, ...], Tabular):
    """A tuple of datasets, shown as a table in notebooks."""

    __slots__ = ()

    def table(self, title: str = "") -> Table:
        """Returns a table with a row per dataset. The title is their number by default."""
        return Table(title or count_text(len(self), "dataset"), _COLUMNS, [_row(info) for info in self])


def _row(info: DatasetInfo) -> tuple[str, ...]:
    return (
        info.id[:SHOWN_DIGITS],
        info.title,
        info.format,
        str(info.bytes),
        str(info.rows) if info.rows else "",
        ", ".join(one.name for one in info.arrays),
        f"{info.owner} (shared)" if info.shared else info.owner,
        _time_text(info.created_time),
        _time_text(info.expires_time) or "never",
    )


def _time_text(time: datetime | None) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M") if time else ""


def _sample_text(sample: Array | None) -> str:
    if sample is None:
        return ""
    if sample.dtype == object:
        sample = np.array([one.decode("utf-8", "replace") for one in sample.ravel()], object).reshape(sample.shape)
    text = " ".join(str(row) for row in sample.tolist())
    return text if len(text) <= 60 else text[:57] + "..."


def read_dataset(message: pb.Dataset) -> DatasetInfo:
    """Returns the information in a message."""
    return DatasetInfo(
        id=message.id,
        title=message.title,
        format=_format(message.format),
        bytes=message.bytes,
        rows=message.rows,
        arrays=tuple(map(_read_array, message.arrays)),
        owner=message.owner,
        shared=message.shared,
        created_time=read_time(message.created_time) if message.HasField("created_time") else None,
        used_time=read_time(message.used_time) if message.HasField("used_time") else None,
        expires_time=read_time(message.expires_time) if message.HasField("expires_time") else None,
    )


def _read_array(message: pb.DatasetArray) -> DatasetColumn:
    sample = decode(message.sample, copy=True) if message.HasField("sample") else None
    dtype = "" if message.problem else known_dtype(message.dtype)
    return DatasetColumn(message.name, dtype, tuple(message.shape), message.problem, sample)


def _format(number: int) -> DatasetFormat:
    names = pb.DatasetFormat.DESCRIPTOR.values_by_number
    if number == 0 or number not in names:
        return "unknown"
    return cast(DatasetFormat, names[number].name.removeprefix("DATASET_FORMAT_").lower())
