"""HDF5's global heaps, walked before HDF5 walks them: on one whose objects have no size, it never comes back.

Texts of variable length, such as the attribute `model_config`, lie in such heaps ("GCOL" in the HDF5 file format
specification, III.E).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from layergraph.archive.files import FileWindow
from layergraph.errors import CorruptFileError

_SIGNATURE = b"GCOL\x01"
_COLLECTION = struct.Struct("<4sB3xQ")
_OBJECT = struct.Struct("<HH4xQ")


#: Bytes looked through at once, in one buffer that stays in the processor's cache.
_BLOCK = 1 << 20


def check_heaps(file: FileWindow, path: Path) -> None:
    """Raises CorruptFileError if a global heap in the file has an object that doesn't fit or has no size."""
    # Heaps don't overlap, and so together are no longer than the file; time stays linear where they claim to be.
    left = file.length
    for start in _places(file):
        size = _sound_size(file, start, left)
        if size is None:
            raise CorruptFileError(path, "the HDF5 file has a damaged heap of texts")
        left -= size


def _places(file: FileWindow) -> Iterator[int]:
    """Where the signature stands. Read, not mapped: a file that gets shorter meanwhile must not end the process."""
    kept = len(_SIGNATURE) - 1
    buffer = bytearray(kept + _BLOCK)
    view = memoryview(buffer)
    at = 0
    while True:
        file.seek(at)
        got = file.readinto(view[kept:])
        if not got:
            return
        found = buffer.find(_SIGNATURE, 0, kept + got)
        while found >= 0:
            yield at - kept + found
            found = buffer.find(_SIGNATURE, found + 1, kept + got)
        # The signature may lie across two blocks.
        buffer[:kept] = buffer[got : got + kept]
        at += got


def _sound_size(file: FileWindow, start: int, largest: int) -> int | None:
    """Bytes of the heap at `start`; None where it is damaged, or larger than `largest`."""
    header = file.read_at(start, _COLLECTION.size)
    if len(header) < _COLLECTION.size:
        return None
    _, _, size = _COLLECTION.unpack(header)
    if not _COLLECTION.size <= size <= min(largest, file.length - start):
        return None
    data = file.read_at(start, size)
    at = _COLLECTION.size
    while at + _OBJECT.size <= len(data):
        index, _, length = _OBJECT.unpack_from(data, at)
        # Object 0 is the free space at the end; its size counts its own header.
        step = length if index == 0 else _OBJECT.size + (length + 7) // 8 * 8
        if step < _OBJECT.size or at + step > size:
            return None
        at += step
    return int(size) if len(data) == size else None
