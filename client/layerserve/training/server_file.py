"""Training data that the server has: arrays in its files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from layerserve.errors import InvalidArgument
from layerserve.v1.training_pb2 import DataArray, DataRole


class ServerArray:
    """An array that the server has: it is named in the request, and not sent."""

    __slots__ = ()

    def declare(self, role: DataRole.ValueType, name: str) -> DataArray:
        """Returns what the request says of it."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class ServerFile(ServerArray):
    """Arrays in a file below the server's data root, to be passed to `train` and `evaluate` in place of arrays.

    `path` is relative to the data root: a .npy or .npz file, or a table, .parquet, .csv or .tsv; or with '/' at its
    end, a folder of .parquet files. `key` is the name of an array in a .npz file, or the names of columns in a table,
    separated by commas; several become the last axis.

    `columns` has names of columns that may contain commas: a list, or for a model with several inputs or outputs a dict
    with the column, or the columns, of each. The same file may be passed as x and as y. Without key and columns, each
    input and output is read from the column, or the array of a .npz file, of its name.

    `fill` is read in place of missing numbers, or of any missing value in a .parquet file; without it, a missing value
    is refused with its row and column.

    Example:
        client.train("mnist", ServerFile("mnist/train.npz", "x"), ServerFile("mnist/train.npz", "y"))
        rides = ServerFile("rides.csv", columns={"age": "Age, in years", "city": "City", "price": "Price"})
        client.train("rides", rides, rides)
    """

    path: str
    key: str = ""
    columns: Sequence[str] | Mapping[str, str | Sequence[str]] = ()
    fill: str | float | None = None

    def __post_init__(self) -> None:
        if self.key and self.columns:
            raise InvalidArgument(f"{self.path}: got key and columns, expected one of the two")

    def __str__(self) -> str:
        return f"{self.path}:{self.key}" if self.key else self.path

    def declare(self, role: DataRole.ValueType, name: str) -> DataArray:
        """Returns what the request says of it. Raises InvalidArgument for columns by name."""
        fill = None if self.fill is None else str(self.fill)
        return DataArray(role=role, name=name, path=self.path, key=self.key, columns=self.column_list, fill=fill)

    @property
    def named(self) -> bool:
        """Whether it has columns by the names of inputs and outputs."""
        return isinstance(self.columns, Mapping)

    @property
    def column_list(self) -> list[str]:
        """The names of the columns of one array. Raises InvalidArgument for columns by name."""
        if isinstance(self.columns, Mapping):
            raise InvalidArgument(f"{self.path}: got columns by name for one array, expected a list of columns")
        return [self.columns] if isinstance(self.columns, str) else list(self.columns)

    def by_name(self, names: Sequence[str], others: Collection[str] = ()) -> Any:
        """Returns the files of inputs or outputs of these names, as a dict; itself if it is one array.

        `others` are the names on the other side of the model, whose columns are left out.
        """
        if isinstance(self.columns, Mapping):
            given = {name: columns for name, columns in self.columns.items() if name in names or name not in others}
            return {
                name: replace(self, columns=(columns,) if isinstance(columns, str) else tuple(columns))
                for name, columns in given.items()
            }
        if self.key or self.columns or len(names) < 2:
            return self
        return {name: replace(self, columns=(name,)) for name in names}
