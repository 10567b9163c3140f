"""The protobuf wire format: where the fields of a message are (https://protobuf.dev/programming-guides/encoding/)."""

from __future__ import annotations

from collections.abc import Iterator

from layerserve_server.services.prediction.contract import Span

#: Returned in place of the field number for a group; field numbers start at 1.
GROUP = 0


def fields(message: bytes, within: Span) -> Iterator[tuple[int, Span]]:
    """Yields number and span of the length-delimited fields of a valid message."""
    at = within.start
    while at < within.stop:
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            _, at = _varint(message, at)
        elif kind == 2:
            length, at = _varint(message, at)
            yield key >> 3, Span(at, at + length)
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            # A group, whose end is found only by parsing it. These messages never had any.
            yield GROUP, Span(at, within.stop)
            return


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
