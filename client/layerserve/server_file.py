"""Training data that lies where the server sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerFile:
    """An array in a file below the server's data root, to be given to `train` and `evaluate` in place of an array.

    `path` is relative to that folder: a .npy, .npz or .parquet file. `key` picks an array of a .npz file, or columns of
    a Parquet file, separated by commas.

    Example:
        client.train("mnist", ServerFile("mnist/train.npz", "x"), ServerFile("mnist/train.npz", "y"))
    """

    path: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.key}" if self.key else self.path
