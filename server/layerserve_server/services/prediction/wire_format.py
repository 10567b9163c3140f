"""The protobuf wire format: where the fields of a message are (https://protobuf.dev/programming-guides/encoding/)."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from layerserve_server.services.prediction.predict_protocol import Span
from layerserve_server.transport.perimeter.message_size import read_varint

#: Returned in place of the field number for the rest of a message that isn't read; field numbers start at 1.
UNREAD = 0
#: In place of the number of a field that isn't length-delimited.
PLAIN = -1
#: Maximum number of fields that are read of a message: a caller can send millions.
MAX_FIELDS = 1024


def fields(message: bytes, within: Span) -> Iterator[tuple[int, Span]]:
    """Yields number and span of the length-delimited fields of a valid message."""
    for count, (number, start, span) in enumerate(_walk(message, within)):
        if count == MAX_FIELDS:
            yield UNREAD, Span(start, within.stop)
            return
        if number != PLAIN:
            yield number, span


def without(message: bytes, numbers: Collection[int], within: Span | None = None) -> tuple[bytes, list[Span]]:
    """Returns a message of this server without its length-delimited fields of these numbers, and the spans of those.

    `within` is where the message is, by default everything.
    """
    within = within or Span(0, len(message))
    kept: list[bytes] = []
    found: list[Span] = []
    at = within.start
    for number, start, span in _walk(message, within):
        if number in numbers:
            kept.append(message[at:start])
            found.append(span)
            at = span.stop
    kept.append(message[at : within.stop])
    return b"".join(kept), found


def _walk(message: bytes, within: Span) -> Iterator[tuple[int, int, Span]]:
    """Yields number and start of each field, and the span of its content; the number of a plain one is `PLAIN`."""
    at = within.start
    while at < within.stop:
        start = at
        key, at = read_varint(message, at)
        kind = key & 7
        if kind == 0:
            _, at = read_varint(message, at)
            yield PLAIN, start, Span(start, at)
        elif kind == 2:
            length, at = read_varint(message, at)
            yield key >> 3, start, Span(at, at + length)
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
            yield PLAIN, start, Span(start, at)
        else:
            # A group, whose end is found only by parsing it. These messages never had any.
            yield UNREAD, start, Span(at, within.stop)
            return
