"""TensorFlow graph nodes that Keras 2.2 to 2.4 stored as layers (TensorFlowOpLayer), as operations of Keras 3.

A node is a NodeDef (tensorflow/core/framework/node_def.proto): JSON, or a protobuf's bytes as text or base64. Its
constant inputs are stored separately, by position.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from layergraph.config.graph_operations import NODES, Node, Operation
from layergraph.config.spec import CallSpec
from layergraph.config.tensorflow_ops import UnknownFunctionError

_MAX_BYTES = 1_000_000
#: dtypes by number (tensorflow/core/framework/types.proto).
_TYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    19: "float16",
    22: "uint32",
    23: "uint64",
}
_TYPE_NAMES = {
    "DT_FLOAT": "float32",
    "DT_DOUBLE": "float64",
    "DT_HALF": "float16",
    **{f"DT_{name.upper()}": name for name in _TYPES.values()},
}


def graph_node(node_def: Any, constants: Any, call: CallSpec) -> Operation:
    """Returns class name and options of the operation, and its call. Raises UnknownFunctionError."""
    node = _node(node_def)
    build = NODES.get(node.op)
    if build is None:
        raise UnknownFunctionError(f"operation {node.op[:80]!r} of TensorFlow is not supported")
    try:
        return build(node, _inputs(constants, call))
    except (KeyError, IndexError, TypeError, ValueError) as wrong:
        raise UnknownFunctionError(f"operation {node.op!r} of TensorFlow can't be read: malformed node") from wrong


def _inputs(constants: Any, call: CallSpec) -> list[Any]:
    """Returns all inputs in order: constants at their positions, tensors at the others."""
    first = call.args[0]
    tensors = iter(first if isinstance(first, list) else [first])
    known = {int(position): value for position, value in constants.items()} if isinstance(constants, Mapping) else {}
    result: list[Any] = []
    waiting = True
    while waiting or len(result) in known:
        if len(result) in known:
            result.append(known[len(result)])
            continue
        tensor = next(tensors, None)
        waiting = tensor is not None
        if waiting:
            result.append(tensor)
    return result


# Encodings of a node.


def _node(node_def: Any) -> Node:
    if isinstance(node_def, Mapping):
        attributes = node_def.get("attr")
        items = attributes.items() if isinstance(attributes, Mapping) else ()
        with suppress(TypeError, ValueError):
            return Node(str(node_def.get("op")), {str(key): _json_attribute(value) for key, value in items})
    if isinstance(node_def, str) and len(node_def) <= _MAX_BYTES:
        candidates = []
        with suppress(UnicodeEncodeError):
            candidates.append(node_def.encode("utf-8", "surrogateescape"))
        with suppress(binascii.Error, ValueError):
            candidates.append(base64.b64decode(node_def, validate=True))
        for data in candidates:
            try:
                return _from_protobuf(data)
            except (_WireError, UnicodeDecodeError, struct.error):
                continue
    raise UnknownFunctionError("node_def can't be read: expected a NodeDef as JSON, text or base64")


def _json_attribute(value: Any) -> Any:
    """Converts {"i": "1"}, {"b": true}, {"type": "DT_FLOAT"}, {"s": base64}, {"list": {"i": [...]}} to plain values."""
    if not isinstance(value, Mapping):
        return None
    for key, item in value.items():
        if key == "i":
            return int(item)
        if key == "type":
            return _TYPE_NAMES.get(item)
        if key == "s":
            return base64.b64decode(item).decode("utf-8", "replace")
        if key == "list":
            numbers = item.get("i", []) if isinstance(item, Mapping) else []
            return [int(number) for number in numbers]
        return item
    return None


class _WireError(Exception):
    """The bytes aren't a valid protobuf."""


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields number and value of each field."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value: int | bytes
            value, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            value, at = data[at : at + size], at + size
        elif kind == 2:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            raise _WireError
        if at > len(data) or tag >> 3 == 0:
            raise _WireError
        yield tag >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _WireError
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _WireError


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise _WireError
    return value


def _from_protobuf(data: bytes) -> Node:
    op = ""
    attributes: dict[str, Any] = {}
    for number, value in _fields(data):
        if number == 2:
            op = _bytes(value).decode("utf-8")
        elif number == 5:
            entry = dict(_fields(_bytes(value)))
            attributes[_bytes(entry.get(1, b"")).decode("utf-8")] = _attribute(_bytes(entry.get(2, b"")))
    if not op:
        raise _WireError
    return Node(op, attributes)


def _attribute(data: bytes) -> Any:
    for number, value in _fields(data):
        if number == 1:
            return [n for field, n in _fields(_bytes(value)) if field == 3 for n in _numbers(n)]
        if number == 2:
            return _bytes(value).decode("utf-8", "replace")
        if number == 3:
            return _signed(value)
        if number == 4:
            return struct.unpack("<f", _bytes(value))[0]
        if number == 5:
            return bool(value)
        if number == 6:
            return _TYPES.get(value) if isinstance(value, int) else None
    return None


def _signed(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise _WireError
    return value - 2**64 if value >= 2**63 else value


def _numbers(value: int | bytes) -> Iterator[int]:
    """Yields a repeated integer field: one value, or several packed ones."""
    if isinstance(value, int):
        yield _signed(value)
        return
    at = 0
    while at < len(value):
        number, at = _varint(value, at)
        yield _signed(number)
