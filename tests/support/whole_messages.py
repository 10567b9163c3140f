"""Messages of which a test has every field."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


def whole(message: M, *unset: str) -> M:
    """The message, if all of its fields but these are set: so a new field must be given here."""
    missing = {field.name for field in message.DESCRIPTOR.fields} - {field.name for field, _ in message.ListFields()}
    assert missing == set(unset)
    return message
