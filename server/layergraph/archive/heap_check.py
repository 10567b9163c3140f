"""Checks HDF5's global heaps before HDF5 reads them: an object of size 0 makes it loop forever.

Variable-length strings, such as the attribute `model_config`, are stored in such heaps ("GCOL" in the HDF5 file format
specification, III.E).
"""

from __future__ import annotations

import io
import struct
from typing import Any

_SIGNATURE = b"GCOL\x01"
_COLLECTION = struct.Struct("<4sB3xQ")
_OBJECT = struct.Struct("<HH4xQ")
#: HDF5 reads a file of many small arrays in hundreds of thousands of small reads, a few per array. Blocks of this many
#: bytes are read and cached instead: the parts of one array are close to one another.
_BLOCK = 1 << 16
_MAX_BLOCKS = 32


class DamagedHeapError(OSError):
    """A global heap has an object that exceeds the heap, or of size 0."""


class HeapChecked(io.RawIOBase):
    """The file as HDF5 sees it: a read of a damaged heap raises DamagedHeapError.

    Only what HDF5 reads is checked, not the whole file: values of arrays, most of a large model, are read without it.
    """

    def __init__(self, file: Any) -> None:
        super().__init__()
        self._file = file
        self._length = int(file.seek(0, io.SEEK_END))
        self._position = self._length
        self._blocks: dict[int, bytes] = {}
        # Heaps don't overlap, so their total size is at most the file's; this keeps the time linear for false sizes.
        self._left = self._length
        self._sound: set[int] = set()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence != io.SEEK_SET:
            offset += self._position if whence == io.SEEK_CUR else self._length
        self._position = offset
        return offset

    def readinto(self, buffer: Any) -> int:
        start = self._position
        view = memoryview(buffer).cast("B")
        # HDF5 may join reads: a signature may start before this read or end after it.
        around = len(_SIGNATURE) - 1
        first = max(0, start - around)
        data = self._read(first, start - first + len(view) + around)
        self._check(first, data)
        wanted = data[start - first :][: len(view)]
        view[: len(wanted)] = wanted
        self._position = start + len(wanted)
        return len(wanted)

    def _check(self, first: int, data: bytes) -> None:
        found = data.find(_SIGNATURE)
        while found >= 0:
            start = first + found
            if start not in self._sound:
                size = self._sound_size(start)
                if size is None:
                    raise DamagedHeapError("a heap of variable-length strings is damaged")
                self._left -= size
                self._sound.add(start)
            found = data.find(_SIGNATURE, found + 1)

    def _sound_size(self, start: int) -> int | None:
        """Returns the size of the heap at `start`; None if it is damaged, or exceeds what other heaps leave."""
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
            # Object 0 is the free space at the end; its size includes its header.
            step = length if index == 0 else _OBJECT.size + (length + 7) // 8 * 8
            if step < _OBJECT.size or at + step > size:
                return None
            at += step
        return int(size) if len(data) == size else None

    def _read(self, start: int, size: int) -> bytes:
        first, last = start // _BLOCK, (start + size - 1) // _BLOCK
        if last - first > 1:
            self._file.seek(start)
            data: bytes = self._file.read(size)
            return data
        block = self._block(first)
        if last > first:
            block += self._block(last)
        at = start - first * _BLOCK
        return block[at : at + size]

    def _block(self, index: int) -> bytes:
        known = self._blocks.get(index)
        if known is None:
            if len(self._blocks) >= _MAX_BLOCKS:
                # Dicts preserve insertion order: the oldest block is dropped.
                del self._blocks[next(iter(self._blocks))]
            self._file.seek(index * _BLOCK)
            known = self._blocks[index] = self._file.read(_BLOCK)
        return known
