"""What messages of a server say, as values: the fields of a dataclass from those of the same names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from datetime import datetime, timezone
from functools import cache
from typing import Any, TypeVar

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

from layerserve.errors import DataLoss

T = TypeVar("T")


def read(kind: type[T], message: Any, **given: Any) -> T:
    """Returns a dataclass of the fields of a message that have its fields' names, and of those `given`.

    An enum's value becomes its word, "unknown" for none or one of a later release; a time becomes a datetime; repeated
    values become a tuple, or a dict for a map. What isn't set becomes None if the message can tell. Raises DataLoss for
    a timestamp that isn't valid.
    """
    key: Any = kind
    found = {name: get(message) for name, get in _readers(key, message.DESCRIPTOR) if name not in given}
    return kind(**found, **given)


def read_time(timestamp: Timestamp) -> datetime:
    """Returns a time. Raises DataLoss for a timestamp that isn't valid."""
    try:
        return timestamp.ToDatetime(tzinfo=timezone.utc)
    except (ValueError, OverflowError) as wrong:
        raise DataLoss(f"the server's reply: {wrong}") from None


@cache
def _readers(kind: Any, described: Any) -> list[tuple[str, Callable[[Any], Any]]]:
    known = described.fields_by_name
    return [(one.name, _reader(known[one.name])) for one in fields(kind) if one.name in known]


def _reader(field: FieldDescriptor) -> Callable[[Any], Any]:
    name, convert = field.name, _converter(field)
    if field.has_presence:
        return lambda message: convert(getattr(message, name)) if message.HasField(name) else None
    return lambda message: convert(getattr(message, name))


def _converter(field: FieldDescriptor) -> Callable[[Any], Any]:
    kind = field.message_type
    if field.is_repeated:
        return dict if kind is not None and kind.GetOptions().map_entry else tuple
    if field.enum_type is not None:
        words = _words(field.enum_type)
        return lambda number: words.get(number, "unknown")
    if kind is not None and kind.full_name == Timestamp.DESCRIPTOR.full_name:
        return read_time
    return lambda value: value


def _words(enum: EnumDescriptor) -> dict[int, str]:
    """Returns the words for an enum's values: VERSION_STATE_READY of VersionState is "ready"."""
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
    return {value.number: value.name.removeprefix(prefix).lower() for value in enum.values if value.number}
