"""The optimizer's state in a model file, which is read only when training starts: serving doesn't need it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from layergraph.archive import LoadLimits, ModelArchive, StoredArray, open_archive
from layergraph.errors import CorruptFileError
from layergraph.saving.old_states import StateLayout

Array = np.ndarray[Any, Any]


class OptimizerState(Sequence[Array]):
    """The arrays in the optimizer's order. The file is opened again to read them.

    Raises CorruptFileError on first access if the file was replaced since, or is damaged.
    """

    def __init__(self, archive: ModelArchive, layout: StateLayout | None = None) -> None:
        """`layout` is how the file stores it, if not as the model has it."""
        self._path: Path = archive.path
        self._limits: LoadLimits = archive.limits
        self._files = {path: _identity(path) for path in archive.files}
        self._layout = layout
        self._count = len(self._arranged(archive))
        self._arrays: list[Array] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Array: ...
    @overload
    def __getitem__(self, index: slice) -> list[Array]: ...
    def __getitem__(self, index: int | slice) -> Array | list[Array]:
        if self._arrays is None:
            self._arrays = self._read()
        return self._arrays[index]

    def _read(self) -> list[Array]:
        if any(_identity(path) != known for path, known in self._files.items()):
            raise CorruptFileError(self._path, "was replaced since the model was loaded; its optimizer state is lost")
        with open_archive(self._path, self._limits) as archive:
            stored = self._arranged(archive)
            wanted, most = sum(array.nbytes for array in stored), self._limits.inflated_bytes(archive.stored_bytes)
            if wanted > most:
                raise CorruptFileError(self._path, f"its optimizer state takes {wanted} bytes, at most {most} are read")
            return [array.read() for array in stored]

    def _arranged(self, archive: ModelArchive) -> Sequence[StoredArray]:
        stored = archive.optimizer_weights
        return stored if self._layout is None else self._layout.converted(stored)


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
