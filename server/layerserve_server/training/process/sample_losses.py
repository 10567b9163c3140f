"""The file with the loss of each row of an evaluation."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

#: Name of the file, and the beginning of the names of its parts until all are complete, which aren't listed.
FILE, PART = "sample_losses.npz", ".sample_losses"


class SampleLosses:
    """Writes the losses of rows, batch by batch, so that they take no memory. A context manager.

    The file is created at the end of the block, unless it ends with an error.
    """

    def __init__(self, folder: Path, rows: int, order: npt.NDArray[np.int64] | None = None) -> None:
        """`folder` is that of the run's files, `rows` the number of all rows.

        `order` are the rows that are evaluated, if not all are; the losses of the others are NaN.
        """
        self._folder = folder
        self._rows = rows
        self._order = order
        self._done = 0
        self._arrays: dict[str, np.memmap[Any, Any]] = {}

    def add(self, losses: Mapping[str, torch.Tensor]) -> None:
        """Appends the losses of a batch's rows, by log name. Raises OSError."""
        if not self._arrays:
            # Also removes what an interrupted evaluation has left, which begins anew.
            self._remove_parts()
            self._folder.mkdir(exist_ok=True)
            for number, name in enumerate(losses):
                path, shape = self._part(number), (self._rows,)
                self._arrays[name] = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
                if self._order is not None:
                    self._arrays[name][:] = np.nan
        count = len(losses["loss"])
        part = slice(self._done, self._done + count)
        for name, values in losses.items():
            self._arrays[name][part if self._order is None else self._order[part]] = values.cpu().numpy()
        self._done += count

    def _part(self, number: int) -> Path:
        return self._folder / f"{PART}-{number}.npy"

    def _remove_parts(self) -> None:
        for path in self._folder.glob(f"{PART}*"):
            path.unlink()

    def __enter__(self) -> SampleLosses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._arrays:
            joined = self._folder / f"{PART}.npz"
            with zipfile.ZipFile(joined, "w") as file:
                for number, (name, array) in enumerate(self._arrays.items()):
                    array.flush()
                    file.write(self._part(number), f"{name}.npy")
            os.replace(joined, self._folder / FILE)
        self._remove_parts()
