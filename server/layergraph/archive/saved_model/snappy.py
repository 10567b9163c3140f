"""Decompresses snappy blocks, which LevelDB tables may have.

The format is that of https://github.com/google/snappy/blob/main/format_description.txt.
"""

from __future__ import annotations

from layergraph.archive.protobuf import WireError, varint


def decompressed(data: bytes, largest: int) -> bytes:
    """Decompresses a block of at most `largest` bytes. Raises WireError."""
    length, at = varint(data, 0)
    if length > largest:
        raise WireError(f"decompresses to {length} bytes, expected at most {largest}")
    result = bytearray()
    while at < len(data) and len(result) <= length:
        tag = data[at]
        at += 1
        if tag & 3 == 0:
            size = tag >> 2
            if size >= 60:
                extra = size - 59
                size = int.from_bytes(data[at : at + extra], "little")
                at += extra
            size += 1
            if size > len(data) - at:
                break
            result += data[at : at + size]
            at += size
            continue
        size, offset, at = _copy(data, tag, at)
        if not 0 < offset <= len(result) or at > len(data):
            break
        # A copy may overlap what it writes.
        repeated = result[-offset:] * (-(-size // offset))
        result += repeated[:size]
    if len(result) != length or at != len(data):
        raise WireError("is damaged: its compressed data is wrong")
    return bytes(result)


def _copy(data: bytes, tag: int, at: int) -> tuple[int, int, int]:
    """Size and offset of a copy, and the position after it."""
    kind = tag & 3
    if kind == 1:
        return 4 + (tag >> 2 & 7), (tag >> 5) << 8 | int.from_bytes(data[at : at + 1], "little"), at + 1
    width = 2 if kind == 2 else 4
    return 1 + (tag >> 2), int.from_bytes(data[at : at + width], "little"), at + width
