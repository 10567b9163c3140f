"""Compressed messages, decompressed here and not by grpcio: up to a limit, counted, and outside of its thread.

grpcio decompresses a message whole, in the thread that polls, before it looks at its size: 100 kB became 100 MiB.
"""

from __future__ import annotations

import zlib

from layerserve_server.errors import InvalidRequestError, TooLargeError
from layerserve_server.transport.memory import MemoryBudget

#: Option of grpcio that leaves messages compressed.
OPTION = ("grpc.per_message_decompression", 0)
#: No message of protobuf begins as gzip does: there is no such wire type.
GZIP = b"\x1f\x8b"
#: How "deflate" begins, with the windows and levels that zlib writes.
DEFLATE = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
#: How a compressed message begins.
COMPRESSED = (GZIP, *DEFLATE)
#: Takes both.
_EITHER = 32 + zlib.MAX_WBITS
#: What is decompressed at once, in bytes.
PIECE_BYTES = 1 << 20
#: What is decompressed in the thread that takes a message, in bytes: more would let others wait.
SHORT_BYTES = 64 * 1024


def is_compressed(message: bytes) -> bool:
    """Whether a message is compressed. As protobuf, "deflate" would begin with an integer field 15: no request does."""
    return message.startswith(COMPRESSED)


def decompressed_if_short(message: bytes) -> bytes | None:
    """The message, where it isn't longer than SHORT_BYTES; else None. Raises InvalidRequestError."""
    inflation = zlib.decompressobj(_EITHER)
    short = _inflate(inflation, message, SHORT_BYTES)
    return short if inflation.eof else None


def decompressed(message: bytes, limit: int, memory: MemoryBudget) -> bytes:
    """The message. Raises TooLargeError, InvalidRequestError, and BusyError where `memory` has no room for it."""
    inflation = zlib.decompressobj(_EITHER)
    pieces: list[bytes] = []
    size = taken = 0
    try:
        while not inflation.eof:
            memory.take(PIECE_BYTES)
            taken += PIECE_BYTES
            pieces.append(_inflate(inflation, inflation.unconsumed_tail if pieces else message, PIECE_BYTES))
            size += len(pieces[-1])
            if size > limit:
                raise TooLargeError(f"got a message of more than {limit} bytes, decompressed, the maximum")
            if not pieces[-1] and not inflation.eof:
                raise InvalidRequestError("the message can't be decompressed: its end is missing")
        return b"".join(pieces)
    finally:
        memory.give(taken)


def _inflate(inflation: zlib._Decompress, data: bytes, most: int) -> bytes:
    try:
        piece = inflation.decompress(data, most)
    except zlib.error as error:
        raise InvalidRequestError(f"the message can't be decompressed: {error}") from None
    if inflation.unused_data:
        raise InvalidRequestError(f"the message has {len(inflation.unused_data)} bytes after what is compressed")
    return piece
