"""HDF5's global heaps, walked before HDF5 walks them: on one whose objects have no size, it never comes back.

Texts of variable length, such as the attribute `model_config`, lie in such heaps ("GCOL" in the HDF5 file format
specification, III.E).
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from layergraph.archive.files import FileWindow
from layergraph.errors import CorruptFileError

_SIGNATURE = b"GCOL\x01"
_COLLECTION = struct.Struct("<4sB3xQ")
_OBJECT = struct.Struct("<HH4xQ")


def check_heaps(file: FileWindow, path: Path) -> None:
    """Raises CorruptFileError if a global heap in the file has an object that doesn't fit or has no size."""
    if file.length == 0:
        return
    with mmap.mmap(file.descriptor, file.start + file.length, access=mmap.ACCESS_READ) as data:
        at = data.find(_SIGNATURE, file.start)
        while at >= 0:
            if not _is_sound(data, at):
                raise CorruptFileError(path, "the HDF5 file has a damaged heap of texts")
            at = data.find(_SIGNATURE, at + 1)


def _is_sound(data: mmap.mmap, start: int) -> bool:
    if start + _COLLECTION.size > len(data):
        return False
    _, _, size = _COLLECTION.unpack_from(data, start)
    end = start + size
    if size < _COLLECTION.size or end > len(data):
        return False
    at = start + _COLLECTION.size
    while at + _OBJECT.size <= end:
        index, _, length = _OBJECT.unpack_from(data, at)
        # Object 0 is the free space at the end; its size counts its own header.
        step = length if index == 0 else _OBJECT.size + (length + 7) // 8 * 8
        if step < _OBJECT.size or at + step > end:
            return False
        at += step
    return True
