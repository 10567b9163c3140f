"""CRC-32C (Castagnoli), the checksum of LevelDB and TensorFlow."""

from __future__ import annotations

import google_crc32c

_MASK_DELTA = 0xA282EAD8
_ALL = 0xFFFFFFFF
#: The library takes `bytes` alone: other buffers are copied piece by piece, in bytes.
_PIECE = 1 << 20


def crc32c(data: bytes | bytearray | memoryview, before: int = 0) -> int:
    """Checksum of `data`, continuing from the checksum of the data before it."""
    view = memoryview(data)
    for start in range(0, len(view), _PIECE):
        before = int(google_crc32c.extend(before, bytes(view[start : start + _PIECE])))
    return before


def unmasked(stored: int) -> int:
    """The checksum of a stored one: LevelDB masks them, as data may contain checksums of itself."""
    rotated = (stored - _MASK_DELTA) & _ALL
    return ((rotated >> 17) | (rotated << 15)) & _ALL
