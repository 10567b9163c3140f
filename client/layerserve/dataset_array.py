"""Training data in datasets of the server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DatasetArray:
    """An array of a dataset, to be passed to `train` and `evaluate` in place of an array.

    `dataset` is the id of the dataset, or its first digits. `key` is the name of an array, or the names of columns,
    separated by commas; it may be empty if the dataset has one array.

    Example:
        client.train("mnist", DatasetArray(id, "images"), DatasetArray(id, "labels"))
    """

    dataset: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.dataset}:{self.key}" if self.key else self.dataset
