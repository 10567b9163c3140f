"""How much memory a message will take, before it is parsed: protobuf makes 128 bytes of a nested message of two."""

from __future__ import annotations

from functools import cache

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from layerserve_server.errors import InvalidRequestError
from layerserve_server.transport.perimeter.limits import (
    ELEMENTS,
    LONG_BYTES,
    LONG_ELEMENTS,
    NESTED_ELEMENTS,
    PROMPT_BYTES,
)

#: How many packed integers count as one, by the types whose numbers take more memory than in the message.
_PACKED = {
    FieldDescriptor.TYPE_INT32: 16,
    FieldDescriptor.TYPE_UINT32: 16,
    FieldDescriptor.TYPE_SINT32: 16,
    FieldDescriptor.TYPE_ENUM: 16,
    FieldDescriptor.TYPE_INT64: 8,
    FieldDescriptor.TYPE_UINT64: 8,
    FieldDescriptor.TYPE_SINT64: 8,
}
#: Maximum number of bytes of an integer.
VARINT_BYTES = 10


def check_elements(message: bytes, descriptor: Descriptor, most: int = ELEMENTS) -> None:
    """Raises InvalidRequestError if a message has more than `most` elements."""
    if _has_more(message, descriptor, most):
        raise InvalidRequestError(
            f"the message has more than {most} elements; expected arrays as bytes, or several messages"
        )


def is_long(message: bytes, descriptor: Descriptor) -> bool:
    """Whether parsing a message may delay other calls."""
    return len(message) > LONG_BYTES or _has_more(message, descriptor, LONG_ELEMENTS)


def _has_more(message: bytes, descriptor: Descriptor, left: int) -> bool:
    """Whether a message has more than `left` elements. Of what isn't valid, any number is counted."""
    if len(message) <= PROMPT_BYTES:
        return False
    spans = [(descriptor, 0, len(message))]
    while spans:
        kind, at, stop = spans.pop()
        nested, packed = _fields(kind)
        while at < stop:
            key, at = read_varint(message, at)
            form, number = key & 7, key >> 3
            left -= 1
            if form == 0:
                _, at = read_varint(message, at)
            elif form == 1:
                at += 8
            elif form == 2:
                size, at = read_varint(message, at)
                if number in nested:
                    left -= NESTED_ELEMENTS - 1
                    spans.append((nested[number], at, min(at + size, stop)))
                elif number in packed:
                    left -= size // packed[number]
                at += size
            elif form == 5:
                at += 4
            if left < 0:
                return True
    return False


@cache
def _fields(kind: Descriptor) -> tuple[dict[int, Descriptor], dict[int, int]]:
    """Returns the types of a message's fields that are messages, and how many integers of other fields count as one."""
    nested = {field.number: field.message_type for field in kind.fields if field.message_type is not None}
    return nested, {field.number: _PACKED[field.type] for field in kind.fields if field.type in _PACKED}


def read_varint(message: bytes, at: int) -> tuple[int, int]:
    """Returns the number at a position, and its end; 0 and the message's end if it ends early or is too long."""
    if at < len(message) and message[at] < 128:
        return message[at], at + 1
    value = 0
    for place, byte in enumerate(message[at : at + VARINT_BYTES]):
        value |= (byte & 127) << (7 * place)
        if byte < 128:
            return value, at + place + 1
    return 0, len(message)
