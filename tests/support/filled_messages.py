"""Messages of the contract with a value in each field, and what is read of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from layerserve.v1 import tensor_pb2
from layerserve.values import tensors


def value_of(field, number):
    """A value of a field that isn't a message, other than its default."""
    if field.enum_type is not None:
        return field.enum_type.values[-1].number
    text = str(number).encode() if field.type == FieldDescriptor.TYPE_BYTES else str(number)
    return {FieldDescriptor.CPPTYPE_STRING: text, FieldDescriptor.CPPTYPE_BOOL: True}.get(field.cpp_type, number)


def filled(message: Any, depth: int = 4, numbers: Iterator[int] | None = None) -> Any:
    """The message with a value in each field, of a oneof in its first. No two have the same number or text."""
    numbers = numbers or itertools.count(7)
    if isinstance(message, tensor_pb2.Tensor):
        message.CopyFrom(tensors.encode(np.ones((2, 3), np.float32), "x"))
        return message
    for field in message.DESCRIPTOR.fields:
        oneof, kind = field.containing_oneof, field.message_type
        if oneof is not None and oneof.fields[0] is not field:
            continue
        value = getattr(message, field.name)
        if kind is not None and kind.GetOptions().map_entry:
            value["a"] = value_of(kind.fields_by_name["value"], next(numbers))
        elif kind is None and field.is_repeated:
            value.append(value_of(field, next(numbers)))
        elif kind is None:
            setattr(message, field.name, value_of(field, next(numbers)))
        elif depth:
            filled(value.add() if field.is_repeated else value, depth - 1, numbers)
    return message


def _check_names(found, message):
    """Asserts that what is read of a message has its values under the same names."""
    for name, field in message.DESCRIPTOR.fields_by_name.items():
        value, sent = getattr(found, name, None), getattr(message, name)
        if isinstance(value, tuple) and len(value) == 1:
            (value,), (sent,) = value, sent
        if dataclasses.is_dataclass(value):
            _check_names(value, sent)
        elif hasattr(found, name) and isinstance(sent, str | bytes | int | float) and field.enum_type is None:
            assert (name, value) == (name, sent)


def check_names(read: Callable[[Any], Any], message: Callable[[], Any]) -> None:
    """Asserts that what is read of a message has the values of its fields under the same names."""
    whole = filled(message())
    _check_names(read(whole), whole)


def check_reader(read: Callable[[Any], Any], message: Callable[[], Any]) -> None:
    """Asserts that all fields of a message are read, and set all fields of the result."""
    check_names(read, message)
    empty, whole = read(message()), read(filled(message()))
    fields = [field.name for field in dataclasses.fields(whole)]
    assert [name for name in fields if getattr(empty, name) == getattr(whole, name)] == []
    unread = []
    for field in message.DESCRIPTOR.fields:
        less = filled(message())
        less.ClearField(field.name)
        if repr(read(less)) == repr(whole):
            unread.append(field.name)
    assert unread == []
