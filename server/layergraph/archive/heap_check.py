"""HDF5's global heaps, walked before HDF5 walks them: on one whose objects have no size, it never comes back.

Texts of variable length, such as the attribute `model_config`, lie in such heaps ("GCOL" in the HDF5 file format
specification, III.E).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SIGNATURE = b"GCOL\x01"
_COLLECTION = struct.Struct("<4sB3xQ")
_OBJECT = struct.Struct("<HH4xQ")


class DamagedHeapError(OSError):
    """A global heap has an object that doesn't fit or has no size."""


class HeapChecked(io.RawIOBase):
    """A file as HDF5 is to see it: a read that comes upon a damaged heap raises DamagedHeapError.

    Checked is what HDF5 reads, not the file: of a large model it reads little but the values of arrays, and those it
    doesn't interpret (`values_only`).
    """

    def __init__(self, file: Any) -> None:
        super().__init__()
        self._file = file
        self._length = int(file.seek(0, io.SEEK_END))
        self._values_only = False
        # Heaps don't overlap, and so together are no longer than the file; time stays linear where they claim to be.
        self._left = self._length
        self._sound: set[int] = set()

    @contextmanager
    def values_only(self) -> Iterator[None]:
        """What is read inside are values of an array stored in one piece, and goes unchecked."""
        self._values_only = True
        try:
            yield
        finally:
            self._values_only = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._file.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        if self._values_only:
            return int(self._file.readinto(buffer))
        view = memoryview(buffer).cast("B")
        start = self.tell()
        # HDF5 may join what it reads to what it has: a signature may begin before this part or end behind it.
        around = len(_SIGNATURE) - 1
        first = max(0, start - around)
        data = self._read(first, start - first + len(view) + around)
        self._check(first, data)
        wanted = data[start - first :][: len(view)]
        view[: len(wanted)] = wanted
        self.seek(start + len(wanted))
        return len(wanted)

    def _check(self, first: int, data: bytes) -> None:
        found = data.find(_SIGNATURE)
        while found >= 0:
            start = first + found
            if start not in self._sound:
                size = self._sound_size(start)
                if size is None:
                    raise DamagedHeapError("a heap of texts is damaged")
                self._left -= size
                self._sound.add(start)
            found = data.find(_SIGNATURE, found + 1)

    def _sound_size(self, start: int) -> int | None:
        """Bytes of the heap at `start`; None where it is damaged, or larger than what no other heap takes."""
        header = self._read(start, _COLLECTION.size)
        if len(header) < _COLLECTION.size:
            return None
        _, _, size = _COLLECTION.unpack(header)
        if not _COLLECTION.size <= size <= min(self._left, self._length - start):
            return None
        data = self._read(start, size)
        at = _COLLECTION.size
        while at + _OBJECT.size <= len(data):
            index, _, length = _OBJECT.unpack_from(data, at)
            # Object 0 is the free space at the end; its size counts its own header.
            step = length if index == 0 else _OBJECT.size + (length + 7) // 8 * 8
            if step < _OBJECT.size or at + step > size:
                return None
            at += step
        return int(size) if len(data) == size else None

    def _read(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        data: bytes = self._file.read(size)
        return data
