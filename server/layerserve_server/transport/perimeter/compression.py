"""Decompresses messages up to a size limit, within the memory budget and outside grpcio's polling thread.

grpcio would decompress a whole message in its polling thread before it checks the size: 100 kB became 100 MiB.
"""

from __future__ import annotations

import zlib

from layerserve_server.errors import InvalidRequestError, MessageTooLargeError
from layerserve_server.transport.chunking import CHUNK_BYTES
from layerserve_server.transport.perimeter.limits import PROMPT_BYTES
from layerserve_server.transport.perimeter.memory import MemoryBudget

#: grpcio option that leaves messages compressed.
OPTION = ("grpc.per_message_decompression", 0)
#: First bytes of a gzip stream. No protobuf message begins with them: 7 isn't a wire type.
GZIP = b"\x1f\x8b"
#: First bytes of a "deflate" (zlib) stream, for the window sizes and levels that zlib writes.
DEFLATE = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
#: First bytes of a compressed message.
COMPRESSED = (GZIP, *DEFLATE)
#: zlib's window bits that accept both formats.
_EITHER = 32 + zlib.MAX_WBITS


def is_compressed(message: bytes) -> bool:
    """Whether a message is compressed. Read as protobuf, a zlib header is a varint field 15, which no request has."""
    return message.startswith(COMPRESSED)


def decompressed_if_short(message: bytes) -> bytes | None:
    """Returns the decompressed message, or None if it is longer than PROMPT_BYTES.

    Raises InvalidRequestError if the message isn't valid gzip or zlib data.
    """
    inflation = zlib.decompressobj(_EITHER)
    short = _inflate(inflation, message, PROMPT_BYTES)
    return short if inflation.eof else None


def decompressed(message: bytes, limit: int, memory: MemoryBudget) -> bytes:
    """Returns the decompressed message.

    Raises MessageTooLargeError if it has more than `limit` bytes, InvalidRequestError if it isn't valid gzip or zlib
    data, and BusyError if `memory` has no room for it.
    """
    inflation = zlib.decompressobj(_EITHER)
    chunks: list[bytes] = []
    size = taken = 0
    try:
        while not inflation.eof:
            memory.take(CHUNK_BYTES)
            taken += CHUNK_BYTES
            chunks.append(_inflate(inflation, inflation.unconsumed_tail if chunks else message, CHUNK_BYTES))
            size += len(chunks[-1])
            if size > limit:
                raise MessageTooLargeError(
                    f"the message has more than {limit} bytes after decompression, expected at most that "
                    "(setting 'max_message_bytes'); send fewer rows at a time"
                )
            if not chunks[-1] and not inflation.eof:
                raise InvalidRequestError("the message can't be decompressed: it is truncated")
        return b"".join(chunks)
    finally:
        memory.give(taken)


def _inflate(inflation: zlib._Decompress, data: bytes, max_length: int) -> bytes:
    try:
        piece = inflation.decompress(data, max_length)
    except zlib.error as error:
        raise InvalidRequestError(f"the message can't be decompressed: {error}") from None
    if inflation.unused_data:
        raise InvalidRequestError(f"the message has {len(inflation.unused_data)} bytes after the compressed data")
    return piece
