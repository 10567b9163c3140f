"""Training data in files of the server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerFile:
    """An array in a file below the server's data root, to be passed to `train` and `evaluate` in place of an array.

    `path` is relative to the data root: a .npy, .npz or .parquet file. `key` is the name of an array in a .npz file, or
    the names of columns in a Parquet file, separated by commas.

    Example:
        client.train("mnist", ServerFile("mnist/train.npz", "x"), ServerFile("mnist/train.npz", "y"))
    """

    path: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.key}" if self.key else self.path
