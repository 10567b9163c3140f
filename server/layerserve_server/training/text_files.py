"""Text data of a run, stored in two files: the bytes of all elements, and the end of each element in them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from layergraph.training.mapped_text import MappedText
from layerserve.values.tensors import LENGTH, string_end

from layerserve_server.errors import InvalidTensorError, TooLargeError
from layerserve_server.training.request import DataArray


class TextWriter:
    """Writes the elements of a text array, in order. A context manager."""

    #: Text in column-major order isn't read.
    fortran = False

    def __init__(self, path: Path, array: DataArray, room: int) -> None:
        """`path` is the file of the ends, `room` the maximum number of bytes of text. Raises OSError."""
        self._array = array
        self._room = room
        self._written = 0
        self.count = 0
        self._ends = path.open("wb")
        try:
            shape = (math.prod(array.shape),)
            header = {"descr": "<i8", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(self._ends, header)
            self._content = content_file(path).open("wb")
        except BaseException:
            self._ends.close()
            raise

    def write(self, texts: Iterable[bytes]) -> None:
        """Appends elements. Raises TooLargeError if there is no room for them, and OSError."""
        texts = list(texts)
        size = sum(map(len, texts))
        if self._written + size > self._room:
            raise TooLargeError(
                f"{self._array.label()}: got more than {self._room} bytes of text, the disk space left for it"
            )
        ends = self._written + np.cumsum([len(text) for text in texts], dtype=np.int64)
        self._content.write(b"".join(texts))
        self._ends.write(ends.astype("<i8").data)
        self._written += size
        self.count += len(texts)

    def close(self) -> None:
        """Closes the files. Raises OSError if what is still buffered can't be written."""
        try:
            self._content.close()
        finally:
            self._ends.close()

    def __enter__(self) -> TextWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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


def content_file(path: Path) -> Path:
    """Returns the path of the bytes of all elements, beside the file of their ends."""
    return path.with_suffix(".text")


def read_text(path: Path, array: DataArray) -> MappedText:
    """Returns the memory-mapped text. Raises ValueError or EOFError if the files are damaged, and OSError."""
    content = content_file(path)
    # An empty file can't be mapped.
    held = np.memmap(content, np.uint8, "r") if content.stat().st_size else np.empty(0, np.uint8)
    ends = np.load(path, mmap_mode="r" if math.prod(array.shape) else None, allow_pickle=False)
    if ends.shape != (math.prod(array.shape),) or ends.dtype != np.int64 or (len(ends) and ends[-1] > len(held)):
        raise ValueError(f"got {ends.dtype} of shape {ends.shape} for the ends of texts of {len(held)} bytes")
    return MappedText(held, ends, array.shape)
