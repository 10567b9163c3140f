"""The messages of the contract, as other languages' generators see them."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from pathlib import Path

import layerserve.v1
import pytest
from google.protobuf.descriptor import FieldDescriptor

MODULES = sorted(path.stem for path in Path(layerserve.v1.__path__[0]).glob("*_pb2.py"))


@pytest.mark.parametrize("name", MODULES)
def test_fields_have_different_names_in_java(name: str) -> None:
    """For a text `file` Java has `getFile` and `getFileBytes`, which a field `file_bytes` would have, too."""
    file = import_module(f"layerserve.v1.{name}").DESCRIPTOR
    messages = list(file.message_types_by_name.values())
    for message in messages:
        messages += message.nested_types
        found = Counter(getter for field in message.fields for getter in getters(field))
        assert [getter for getter, times in found.items() if times > 1] == [], message.full_name


def getters(field: FieldDescriptor) -> list[str]:
    name = "".join(map(str.capitalize, field.name.split("_")))
    ends = [""]
    if field.type == FieldDescriptor.TYPE_STRING:
        ends.append("Bytes")
    if field.is_repeated:
        ends += ["List", "Count"]
    return [name + end for end in ends]
