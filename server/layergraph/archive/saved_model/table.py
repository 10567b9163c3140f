"""Reads LevelDB tables: sorted keys with values, in blocks with checksums.

The format is that of https://github.com/google/leveldb/blob/main/doc/table_format.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from layergraph.archive.files import FileWindow
from layergraph.archive.limits import LoadLimits
from layergraph.archive.protobuf import WireError, varint
from layergraph.archive.saved_model.crc32c import crc32c, unmasked
from layergraph.archive.saved_model.snappy import decompressed
from layergraph.errors import CorruptFileError

_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_FOOTER_BYTES = 48
#: Type and checksum after each block.
_TRAILER_BYTES = 5
_PLAIN, _SNAPPY = 0, 1


def read_table(file: FileWindow, path: Path, limits: LoadLimits) -> dict[bytes, bytes]:
    """Returns all entries. Raises CorruptFileError, which names the block."""
    footer = file.read_at(max(0, file.length - _FOOTER_BYTES), _FOOTER_BYTES)
    if len(footer) < _FOOTER_BYTES or not footer.endswith(_MAGIC):
        raise CorruptFileError(path, f"isn't a TensorFlow index: its last 8 bytes are {footer[-8:].hex() or 'none'}")
    if file.length > limits.config_bytes:
        raise CorruptFileError(path, f"has {file.length} bytes, expected at most {limits.config_bytes}")
    entries: dict[bytes, bytes] = {}
    try:
        _, at = _handle(footer, 0)
        index, _ = _handle(footer, at)
    except WireError as wrong:
        raise CorruptFileError(path, f"its footer {wrong}") from None
    left = limits.config_bytes
    last = b""
    for _, value in _entries(_block(file, index, path, left), f"block at byte {index[0]}", path, limits.names):
        try:
            handle, _ = _handle(value, 0)
        except WireError as wrong:
            raise CorruptFileError(path, f"the block at byte {index[0]} {wrong}") from None
        content = _block(file, handle, path, left)
        # Blocks that overlap would be a bomb.
        left -= len(content)
        for key, item in _entries(content, f"block at byte {handle[0]}", path, limits.names - len(entries)):
            if entries and key <= last:
                raise CorruptFileError(path, f"the block at byte {handle[0]} has the key {key[:80]!r} out of order")
            entries[key] = item
            last = key
    return entries


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Offset and size of a block, and the position after them."""
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return (offset, size), at


def _block(file: FileWindow, handle: tuple[int, int], path: Path, largest: int) -> bytes:
    offset, size = handle
    label = f"the block at byte {offset}"
    if offset + size + _TRAILER_BYTES > file.length:
        raise CorruptFileError(path, f"{label} has {size} bytes, but the file ends at byte {file.length}")
    if size > largest:
        raise CorruptFileError(path, f"{label} has {size} bytes: more than {largest} in all blocks")
    stored = file.read_at(offset, size + _TRAILER_BYTES)
    if len(stored) < size + _TRAILER_BYTES:
        raise CorruptFileError(path, f"{label} is truncated")
    kind, checksum = stored[size], int.from_bytes(stored[size + 1 :], "little")
    if crc32c(memoryview(stored)[: size + 1]) != unmasked(checksum):
        raise CorruptFileError(path, f"{label} is damaged: its checksum is wrong")
    if kind == _SNAPPY:
        try:
            return decompressed(stored[:size], largest)
        except WireError as wrong:
            raise CorruptFileError(path, f"{label} {wrong}") from None
    if kind != _PLAIN:
        raise CorruptFileError(path, f"{label} has compression type {kind}, expected 0 (none) or 1 (snappy)")
    return stored[:size]


def _entries(block: bytes, label: str, path: Path, most: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields the entries of a block. A key is stored as the bytes that differ from the key before it."""
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if len(block) < 4 or end < 0:
        raise CorruptFileError(path, f"the {label} has {len(block)} bytes, too few for its {restarts} restarts")
    at, key = 0, b""
    for _ in range(most + 1):
        if at >= end:
            return
        try:
            shared, at = varint(block, at)
            unshared, at = varint(block, at)
            length, at = varint(block, at)
        except WireError as wrong:
            raise CorruptFileError(path, f"the {label} {wrong}") from None
        if shared > len(key) or unshared + length > end - at:
            raise CorruptFileError(path, f"the {label} has an entry after the key {key[:80]!r} that exceeds it")
        key = key[:shared] + block[at : at + unshared]
        at += unshared
        yield key, block[at : at + length]
        at += length
    raise CorruptFileError(path, f"has more than {most} keys")
