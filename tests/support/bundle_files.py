"""Writes checkpoints of TensorFlow without TensorFlow, valid or with something changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from layergraph.archive.saved_model.crc32c import crc32c

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
_DTYPES = {"float32": 1, "int64": 9}


def varint(value: int) -> bytes:
    """A number, as 64 bits."""
    value &= (1 << 64) - 1
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def field(number: int, value: int | bytes | str) -> bytes:
    """A field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def masked(data: bytes) -> int:
    """The checksum of data as LevelDB stores it."""
    checksum = crc32c(data)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def block(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The content of a block, with shared starts of keys."""
    data, before = b"", b""
    for key, value in entries:
        shared = 0
        while shared < min(len(key), len(before)) and key[shared] == before[shared]:
            shared += 1
        data += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return data + bytes(4) + (1).to_bytes(4, "little")


def stored(content: bytes, kind: int = 0) -> bytes:
    """A block with its type and checksum."""
    return content + bytes([kind]) + masked(content + bytes([kind])).to_bytes(4, "little")


def table(*blocks: bytes, kind: int = 0) -> bytes:
    """A table of blocks; `kind` is the type of their compression."""
    data, handles = b"", []
    for index, content in enumerate(blocks):
        handles.append((f"{index:04}".encode(), varint(len(data)) + varint(len(content))))
        data += stored(content, kind)
    index_block, at = block(handles), len(data)
    footer = (varint(0) + varint(0) + varint(at) + varint(len(index_block))).ljust(40, b"\0") + MAGIC
    return data + stored(index_block) + footer


def entry(dtype: int, shape: Sequence[int], offset: int, content: bytes, shard: int = 0, checksum: int = -1) -> bytes:
    """A BundleEntryProto."""
    axes = b"".join(field(2, field(1, length)) for length in shape)
    checksum = masked(content) if checksum < 0 else checksum
    head = field(1, dtype) + field(2, axes) + field(3, shard) + field(4, offset) + field(5, len(content))
    return head + varint(6 << 3 | 5) + checksum.to_bytes(4, "little")


def node(children: Mapping[str, int] = {}, key: str = "", slots: Sequence[tuple[int, str, int]] = ()) -> bytes:
    """A TrackableObject; with a `key` it is a variable."""
    data = b"".join(field(1, field(1, index) + field(2, name)) for name, index in children.items())
    data += field(2, field(1, "VARIABLE_VALUE") + field(2, key) + field(3, key)) if key else b""
    return data + b"".join(field(3, field(1, w) + field(2, name) + field(3, slot)) for w, name, slot in slots)


def graph(*nodes: bytes) -> bytes:
    """A TrackableObjectGraph."""
    return b"".join(field(1, one) for one in nodes)


HEADER = field(1, 1) + field(2, 0)


def text_content(text: bytes) -> tuple[bytes, int]:
    """The bytes of a tensor with one text, and their checksum as stored."""
    first = masked(len(text).to_bytes(4, "little")).to_bytes(4, "little")
    whole = crc32c(text, crc32c(first, crc32c(len(text).to_bytes(4, "little"))))
    return varint(len(text)) + first + text, ((whole >> 15 | whole << 17) + 0xA282EAD8) & 0xFFFFFFFF


def write_bundle(
    prefix: Path,
    arrays: Mapping[str, np.ndarray[Any, Any]],
    objects: bytes,
    entries: Mapping[str, bytes] = {},
    header: bytes = HEADER,
) -> None:
    """Writes a bundle of one shard. `entries` replace those of their keys."""
    data, found = b"", {}
    for key, array in arrays.items():
        found[key] = entry(_DTYPES[array.dtype.name], array.shape, len(data), array.tobytes())
        data += array.tobytes()
    content, checksum = text_content(objects)
    found["_CHECKPOINTABLE_OBJECT_GRAPH"] = entry(7, (), len(data), content, checksum=checksum)
    found.update(entries)
    listed = sorted((key.encode(), value) for key, value in found.items())
    prefix.with_name(prefix.name + ".index").write_bytes(table(block([(b"", header), *listed])))
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(data + content)
