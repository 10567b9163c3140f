"""Numbers of a run, stored in a .npy file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from layerserve_server.training.request import DataArray


class NumberWriter:
    """Writes the elements of an array, in order. A context manager.

    `fortran` is whether they come in column-major order; it can be set before the first ones.
    """

    def __init__(self, path: Path, array: DataArray) -> None:
        """Raises OSError."""
        self.fortran = False
        self._array = array
        self._begun = False
        self._file = path.open("wb")

    def write(self, piece: npt.NDArray[Any]) -> None:
        """Appends elements, of the array's dtype. Raises OSError."""
        self._begin()
        self._file.write(np.ascontiguousarray(piece).data)

    def close(self) -> None:
        """Closes the file. Raises OSError if what is still buffered can't be written."""
        if not self._file.closed:
            self._begin()
            self._file.close()

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            header = {"descr": self._array.held_dtype.str, "fortran_order": self.fortran, "shape": self._array.shape}
            np.lib.format.write_array_header_2_0(self._file, header)

    def __enter__(self) -> NumberWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
