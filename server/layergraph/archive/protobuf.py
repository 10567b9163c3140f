"""Reads the fields of protobuf messages. Fields that aren't needed are skipped by their length.

The encoding is that of https://protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

from collections.abc import Iterator

from layergraph.archive.files import FileWindow

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
#: Size in bytes of the longest varint, of 64 bits.
VARINT_BYTES = 10


class WireError(ValueError):
    """Bytes aren't a protobuf message. The text completes "the object graph ..."."""


def varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns the unsigned varint at `at`, and the position after it. Raises WireError."""
    value = shift = 0
    for position in range(at, min(at + VARINT_BYTES, len(data))):
        byte = data[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, position + 1
        shift += 7
    raise WireError(f"has a damaged number at byte {at}")


def signed(value: int) -> int:
    """The int64 of a varint."""
    return value - (1 << 64) if value >= 1 << 63 else value


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields each field's number and value: a number (fixed ones as unsigned), or bytes. Raises WireError."""
    at, end = 0, len(data)
    while at < end:
        tag, at = varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = varint(data, at)
            yield number, value
            continue
        length, at = _length(data, at, kind)
        if length > end - at:
            raise WireError(f"has a field of {length} bytes at byte {at} of {end}")
        content = data[at : at + length]
        at += length
        yield number, content if kind == _BYTES else int.from_bytes(content, "little")


def file_fields(file: FileWindow) -> Iterator[tuple[int, int | FileWindow]]:
    """Like `fields` for a message in a file. Bytes aren't read: the value is their window. Raises WireError."""
    at = 0
    while at < file.length:
        head = file.read_at(at, 2 * VARINT_BYTES)
        tag, used = varint(head, 0)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, used = varint(head, used)
            at += used
            yield number, value
            continue
        length, used = _length(head, used, kind)
        at += used
        if length > file.length - at:
            raise WireError(f"has a field of {length} bytes at byte {at} of {file.length}")
        yield number, file.window(at, length)
        at += length


def _length(data: bytes, at: int, kind: int) -> tuple[int, int]:
    """Length of a field's content, and the position of the content."""
    if kind == _BYTES:
        return varint(data, at)
    if kind not in _FIXED_SIZES:
        raise WireError(f"has a field of wire type {kind}")
    return _FIXED_SIZES[kind], at


def text(value: object) -> str:
    """A string field. Raises WireError if it isn't UTF-8."""
    if not isinstance(value, bytes):
        raise WireError("has a number where a text is expected")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise WireError("has a text that isn't UTF-8") from None


def number(value: object) -> int:
    """A numeric field. Raises WireError for other fields."""
    if not isinstance(value, int):
        raise WireError("has bytes where a number is expected")
    return value


def message(value: object) -> bytes:
    """A field with a message or bytes. Raises WireError for numbers."""
    if not isinstance(value, bytes):
        raise WireError("has a number where a message is expected")
    return value
