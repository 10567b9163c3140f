"""A dataset as it is kept, what a caller declares of one, and what was read of its file."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from layerserve.values.tensors import NUMPY_DTYPES

from layerserve_server.disk import json_object, replace_file
from layerserve_server.records import DAMAGED, INT64, Time, checked, log_damaged, read_object

#: An id: the SHA-256 of the file.
ID = re.compile("[0-9a-f]{64}")
#: Formats of files, which are also their suffixes.
FORMATS = ("npz", "parquet", "csv", "tsv")
#: File with what is known of a dataset, and file with its first rows.
RECORD, SAMPLE = "dataset.json", "sample.json"


def content_name(format: str) -> str:
    """Returns the name of the file of a dataset."""
    return f"content.{format}"


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a caller wants kept: a file of this format, size and SHA-256 (hexadecimal); the last is also its id.

    `keep_seconds` is the time after its last use when it is removed; 0 means that of the server's setting.
    """

    format: str
    bytes: int
    sha256: str
    title: str = ""
    keep_seconds: float = 0.0
    shared: bool = False


@dataclass(frozen=True, slots=True)
class ArrayInfo:
    """An array or column: its name, dtype and shape, or why runs can't use it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Description:
    """What was read of a file: its arrays, and the first rows of each as {"rows": number, "data": base64} by name."""

    arrays: Sequence[ArrayInfo]
    samples: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Owner:
    """A caller that has uploaded a dataset, and what it declared. Other callers see that only if it shares."""

    name: str
    title: str
    shared: bool
    keep_seconds: float

    @classmethod
    def of(cls, declared: Declaration, name: str) -> Owner:
        """Returns the owner that declares a dataset."""
        return cls(name, declared.title, declared.shared, declared.keep_seconds)

    def declared_again(self, declared: Declaration) -> Owner:
        """Returns the owner after a further upload of it: the dataset is kept longer, and perhaps shared."""
        kept = _longest(self.keep_seconds, declared.keep_seconds)
        return replace(self, shared=self.shared or declared.shared, keep_seconds=kept)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset. Times are Unix times in seconds."""

    id: str
    format: str
    bytes: int
    owners: tuple[Owner, ...]
    created: Time
    arrays: tuple[ArrayInfo, ...]
    used: float = 0.0

    @classmethod
    def new(cls, declared: Declaration, owner: str, created: float, arrays: Sequence[ArrayInfo]) -> Dataset:
        """Returns the dataset of a declaration."""
        return cls(
            declared.sha256,
            declared.format,
            declared.bytes,
            (Owner.of(declared, owner),),
            created,
            tuple(arrays),
            created,
        )

    @property
    def content(self) -> str:
        """Path of its file in the folder of all datasets."""
        return f"{self.id}/{content_name(self.format)}"

    @property
    def rows(self) -> int:
        """Number of rows, if all arrays have the same; otherwise 0."""
        counts = {array.shape[0] if array.shape else 0 for array in self.arrays if not array.problem}
        return counts.pop() if len(counts) == 1 else 0

    @property
    def owner_names(self) -> tuple[str, ...]:
        """Names of its owners."""
        return tuple(owner.name for owner in self.owners)

    @property
    def shared(self) -> bool:
        """Whether an owner shares it with all callers."""
        return any(owner.shared for owner in self.owners)

    @property
    def keep_seconds(self) -> float:
        """The longest time for which an owner wants it kept; 0 means that of the server's setting."""
        return _longest(*(owner.keep_seconds for owner in self.owners))

    def owner_for(self, caller: str) -> Owner:
        """Returns the owner that a caller sees: itself, or else the first that shares, or else the first of all."""
        order = (*(one for one in self.owners if one.name == caller), *(one for one in self.owners if one.shared))
        return next(iter((*order, *self.owners)))

    def declared_again(self, declared: Declaration, name: str) -> Dataset:
        """Returns the dataset after a further upload, perhaps by one more owner."""
        if name not in self.owner_names:
            return replace(self, owners=(*self.owners, Owner.of(declared, name)))
        owners = (one.declared_again(declared) if one.name == name else one for one in self.owners)
        return replace(self, owners=tuple(owners))

    def write(self, folder: Path) -> None:
        """Writes the dataset to its folder, at once. Raises OSError."""
        values = asdict(self)
        del values["used"]
        replace_file(folder / RECORD, json.dumps(values), flushed=True)

    @classmethod
    def read(cls, folder: Path) -> Dataset:
        """Reads the dataset of a folder. Raises DAMAGED if the file is invalid."""
        path = folder / RECORD
        values = json_object(path.read_text("utf-8"))
        arrays = tuple(ArrayInfo(**{**one, "shape": tuple(one["shape"])}) for one in values.pop("arrays"))
        owners, used = tuple(Owner(**one) for one in values["owners"]), os.stat(path).st_mtime
        dataset = checked(cls(**{**values, "owners": owners}, arrays=arrays, used=used))
        if not owners:
            raise ValueError("owners: got none, expected at least one")
        if dataset.id != folder.name or dataset.format not in FORMATS:
            raise ValueError(f"got dataset '{dataset.id}' of format '{dataset.format}', expected that of the folder")
        for array in arrays:
            if not array.problem and array.dtype not in NUMPY_DTYPES:
                raise ValueError(f"array '{array.name}': got dtype '{array.dtype}', expected one of runs")
        return dataset


def _longest(*keep_seconds: float) -> float:
    """Returns the longest of these times; 0, that of the server's setting, if one of them is 0."""
    return max(keep_seconds) if all(keep_seconds) else 0.0


def write_samples(folder: Path, description: Description) -> None:
    """Writes the first rows of a dataset to its folder. Raises OSError."""
    replace_file(folder / SAMPLE, json.dumps(description.samples))


def read_samples(folder: Path) -> dict[str, dict[str, Any]]:
    """Reads the first rows of a dataset; none if there is no such file, or it is damaged."""
    samples = read_object(folder / SAMPLE)
    try:
        for sample in samples.values():
            base64.b64decode(sample["data"], validate=True)
            if not (type(sample["rows"]) is int and 0 <= sample["rows"] in INT64):
                raise ValueError(f"rows: got {str(sample['rows'])[:80]!r}, expected a number")
    except DAMAGED as error:
        log_damaged(folder / SAMPLE, error)
        return {}
    return samples
