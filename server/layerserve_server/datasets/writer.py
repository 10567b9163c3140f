"""Arrays of a run in files of its own, which its process maps: numbers in a .npy file, text in two files.

Those of text are the ends of all elements, in a .npy file, and the bytes of all elements beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from layergraph.training.mapped_text import MappedText
from layerserve.values.tensors import LENGTH, NUMPY_DTYPES, string_end

from layerserve_server.errors import InvalidTensorError, TooLargeError

Shape: TypeAlias = tuple[int, ...]


class NumberWriter:
    """Writes the elements of an array, in order.

    `fortran` is whether they come in column-major order; it can be set before the first ones.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any], shape: Shape) -> None:
        """Raises OSError."""
        self.fortran = False
        self._dtype = dtype
        self._shape = shape
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
            header = {"descr": self._dtype.str, "fortran_order": self.fortran, "shape": self._shape}
            np.lib.format.write_array_header_2_0(self._file, header)


class TextWriter:
    """Writes the elements of a text array, in order."""

    #: Text in column-major order isn't read.
    fortran = False

    def __init__(self, path: Path, shape: Shape, label: str, room: int) -> None:
        """`path` is the file of the ends, `room` the maximum number of bytes of text. Raises OSError."""
        self._label = label
        self._room = room
        self._written = 0
        self._ends = path.open("wb")
        try:
            header = {"descr": "<i8", "fortran_order": False, "shape": (math.prod(shape),)}
            np.lib.format.write_array_header_2_0(self._ends, header)
            self._content = _content_file(path).open("wb")
        except BaseException:
            self._ends.close()
            raise

    def write(self, texts: Iterable[bytes]) -> None:
        """Appends elements. Raises TooLargeError if there is no room for them, and OSError."""
        texts = list(texts)
        size = sum(map(len, texts))
        if self._written + size > self._room:
            raise TooLargeError(f"{self._label}: got more than {self._room} bytes of text, the disk space left for it")
        ends = self._written + np.cumsum([len(text) for text in texts], dtype=np.int64)
        self._content.write(b"".join(texts))
        self._ends.write(ends.astype("<i8").data)
        self._written += size

    def close(self) -> None:
        """Closes the files. Raises OSError if what is still buffered can't be written."""
        try:
            self._content.close()
        finally:
            self._ends.close()


def array_writer(path: Path, dtype: str, shape: Shape, label: str, room: int) -> NumberWriter | TextWriter:
    """Opens the file of an array. `label` names it in error texts, `room` is as for `TextWriter`. Raises OSError."""
    if dtype == "string":
        return TextWriter(path, shape, label, room)
    return NumberWriter(path, NUMPY_DTYPES[dtype], shape)


def split_texts(data: bytes, label: str) -> list[bytes]:
    """Splits the elements of a chunk, encoded as in Tensor.data. Raises InvalidTensorError if it ends within one."""
    texts: list[bytes] = []
    at = 0
    while at < len(data):
        end = string_end(data, at)
        if end is None:
            raise InvalidTensorError(f"{label}: got a chunk that ends within text {len(texts)}, expected whole texts")
        texts.append(data[at + LENGTH.size : end])
        at = end
    return texts


def _content_file(path: Path) -> Path:
    """Returns the path of the bytes of all elements, beside the file of their ends."""
    return path.with_suffix(".text")


def mapped_array(path: Path, dtype: str, shape: Shape) -> npt.NDArray[Any] | MappedText:
    """Returns an array that was written, memory-mapped. Raises ValueError or EOFError if it is damaged, and OSError."""
    if dtype == "string":
        return _mapped_text(path, shape)
    # An array without elements can't be mapped.
    found: npt.NDArray[Any] = np.load(path, mmap_mode="r" if math.prod(shape) else None, allow_pickle=False)
    if (found.shape, found.dtype) != (shape, NUMPY_DTYPES[dtype]):
        raise ValueError(f"got {found.dtype} of shape {found.shape}")
    return found


def _mapped_text(path: Path, shape: Shape) -> MappedText:
    content, count = _content_file(path), math.prod(shape)
    # An empty file can't be mapped.
    held = np.memmap(content, np.uint8, "r") if content.stat().st_size else np.empty(0, np.uint8)
    ends = np.load(path, mmap_mode="r" if count else None, allow_pickle=False)
    if ends.shape != (count,) or ends.dtype != np.int64 or (len(ends) and ends[-1] > len(held)):
        raise ValueError(f"got {ends.dtype} of shape {ends.shape} for the ends of texts of {len(held)} bytes")
    return MappedText(held, ends, shape)
