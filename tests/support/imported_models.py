"""Models loaded from what was read of their files, in one process."""

from __future__ import annotations

from pathlib import Path

from layergraph import Model
from layergraph.archive import DEFAULT_LIMITS, open_archive
from layergraph.archive.imported.opening import open_import
from layergraph.archive.imported.writing import describe, write_arrays
from layergraph.models.loading import load_archive


def imported_model(path: Path, folder: Path) -> Model:
    """Loads the model at `path` from `folder`, to which the needed arrays are written. Raises as `load_model`."""
    folder.mkdir()
    with open_archive(path) as archive:
        arrays = describe(archive, folder)
        read = open_import(folder, archive.path, DEFAULT_LIMITS, lambda wanted: write_arrays(arrays, wanted, folder))
        return load_archive(read)


def mapped_model(path: Path, folder: Path) -> Model:
    """Loads the model whose file at `path` was read to `folder` before."""
    return load_archive(open_import(folder, path, DEFAULT_LIMITS))
