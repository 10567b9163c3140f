"""Formats of files of columns, by suffix."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import BinaryIO

from layerserve.errors import InvalidArgument
from layerserve.values.table_files.csv_table import CsvTable
from layerserve.values.table_files.parquet_table import ParquetTable
from layerserve.values.table_files.table import Table

FORMATS: Mapping[str, Callable[[str, BinaryIO], Table]] = {
    ".csv": CsvTable,
    ".tsv": partial(CsvTable, delimiter="\t"),
    ".parquet": ParquetTable,
}


def is_hidden(path: str) -> bool:
    """Whether a file of a folder, by its path in it, is left out, as in Spark and pyarrow."""
    return any(part.startswith((".", "_")) for part in path.split("/"))


def open_table(file: BinaryIO, suffix: str, label: str) -> Table:
    """Reads what a file of columns has. `label` names it in error texts; `suffix` must be one of `FORMATS`.

    Raises InvalidArgument for a file of another format, and MissingPackageError if pyarrow isn't installed.
    """
    with reading(label):
        return FORMATS[suffix](label, file)


@contextmanager
def reading(label: str) -> Iterator[None]:
    """Raises InvalidArgument with `label` in place of Arrow's errors for a corrupt file."""
    try:
        yield
    except (InvalidArgument, MemoryError):
        raise
    except Exception as error:  # of many kinds, OSError among them
        raise InvalidArgument(f"{label}: {type(error).__name__}: {str(error).strip()}") from error
