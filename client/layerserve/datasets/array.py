"""Training data in datasets of the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from layerserve.errors import InvalidArgument
from layerserve.training.server_file import ServerArray
from layerserve.v1.training_pb2 import DataArray, DataRole


@dataclass(frozen=True, slots=True)
class DatasetArray(ServerArray):
    """An array of a dataset, to be passed to `train` and `evaluate` in place of an array.

    `dataset` is the id of the dataset, or its first digits. `key` is the name of an array, or the names of columns,
    separated by commas; several become the last axis. `columns` are names that may contain commas. Both may be empty if
    the dataset has one array, or a column of the name of the input or output.

    `fill` is read in place of missing numbers, or of any missing value in a Parquet file; without it, a missing value
    is refused with its row and column.

    Example:
        client.train("mnist", DatasetArray(id, "images"), DatasetArray(id, "labels"))
    """

    dataset: str
    key: str = ""
    columns: Sequence[str] = ()
    fill: str | float | None = None

    def __post_init__(self) -> None:
        if self.key and self.columns:
            raise InvalidArgument(f"dataset {self.dataset}: got key and columns, expected one of the two")

    def declare(self, role: DataRole.ValueType, name: str) -> DataArray:
        """Returns what the request says of it."""
        fill = None if self.fill is None else str(self.fill)
        return DataArray(role=role, name=name, dataset=self.dataset, key=self.key, columns=self.columns, fill=fill)

    def __str__(self) -> str:
        return f"{self.dataset}:{self.key}" if self.key else self.dataset
