"""Tables whose terms TensorFlow wrote as constants into `saved_model.pb`.

The constants are found as the table's initializer finds them: `_initialize` of the table has a function, whose bound
inputs are the table, its keys and its values. Formats: tensorflow/core/protobuf/saved_object_graph.proto and
tensorflow/core/framework/graph.proto.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from layergraph.archive import protobuf
from layergraph.archive.files import FileWindow
from layergraph.archive.limits import LoadLimits
from layergraph.errors import CorruptFileError

_META_GRAPHS, _GRAPH, _OBJECT_GRAPH = 2, 2, 7
_INT64, _STRING = 9, 7


class Constants:
    """The objects and constants of a `saved_model.pb`."""

    def __init__(self, file: FileWindow, path: Path, limits: LoadLimits) -> None:
        """Raises CorruptFileError if the file isn't a SavedModel."""
        self._path = path
        self._limits = limits
        try:
            self._parse(file)
        except protobuf.WireError as wrong:
            raise CorruptFileError(path, f"its graph {wrong}") from None

    def _parse(self, file: FileWindow) -> None:
        self._graph: FileWindow | None = None
        objects: FileWindow | None = None
        for number, meta in protobuf.file_fields(file):
            if number == _META_GRAPHS and isinstance(meta, FileWindow) and objects is None:
                parts = {key: part for key, part in protobuf.file_fields(meta) if isinstance(part, FileWindow)}
                self._graph, objects = parts.get(_GRAPH), parts.get(_OBJECT_GRAPH)
        if objects is None or objects.length > self._limits.config_bytes:
            raise protobuf.WireError("has no objects, or too many")
        self._nodes: list[bytes] = []
        self._inputs: dict[str, list[int]] = {}
        for number, value in protobuf.fields(objects.read_at(0, objects.length)):
            if number == 1:
                self._nodes.append(protobuf.message(value))
            elif number == 2:
                entry = dict(protobuf.fields(protobuf.message(value)))
                self._inputs[protobuf.text(entry.get(1, b""))] = _bound_inputs(protobuf.message(entry.get(2, b"")))
        if len(self._nodes) > self._limits.nodes:
            raise protobuf.WireError("has too many objects")

    def table(self, node: int) -> tuple[list[Any], list[Any]] | None:
        """Keys and values of the table that is object `node`; None if they aren't constants.

        Raises CorruptFileError.
        """
        try:
            return self._table(node)
        except protobuf.WireError as wrong:
            raise CorruptFileError(self._path, f"its graph {wrong}") from None

    def _table(self, node: int) -> tuple[list[Any], list[Any]] | None:
        initialize = self._child(node, "_initialize")
        if initialize is None:
            return None
        function = dict(protobuf.fields(self._nodes[initialize])).get(6)
        names = [] if function is None else [v for n, v in protobuf.fields(protobuf.message(function)) if n == 1]
        for name in names:
            bound = self._inputs.get(protobuf.text(name), [])
            operations = [found for one in bound if (found := self._operation(one)) is not None]
            if len(operations) == 2:
                keys, values = self._values(operations)
                if keys is not None and values is not None:
                    return keys, values
        return None

    def _child(self, node: int, wanted: str) -> int | None:
        if not 0 <= node < len(self._nodes):
            return None
        for number, value in protobuf.fields(self._nodes[node]):
            if number == 1:
                parts = dict(protobuf.fields(protobuf.message(value)))
                if parts.get(2) == wanted.encode():
                    below = protobuf.number(parts.get(1, 0))
                    return below if below < len(self._nodes) else None
        return None

    def _operation(self, node: int) -> str | None:
        """The operation of a constant; None for other objects."""
        if not 0 <= node < len(self._nodes):
            return None
        constant = dict(protobuf.fields(self._nodes[node])).get(9)
        return (
            None if constant is None else protobuf.text(dict(protobuf.fields(protobuf.message(constant))).get(1, b""))
        )

    def _values(self, operations: Sequence[str]) -> list[list[Any] | None]:
        """The values of operations, which are constants of the graph."""
        found: dict[str, list[Any]] = {}
        for number, node in protobuf.file_fields(self._graph) if self._graph is not None else ():
            if number != 1 or not isinstance(node, FileWindow) or node.length > self._limits.config_bytes:
                continue
            head = node.read_at(0, 1024)
            if not any(operation.encode() in head for operation in operations):
                continue
            name, value = _constant(node.read_at(0, node.length), self._limits.names)
            if name in operations and value is not None:
                found[name] = value
        return [found.get(operation) for operation in operations]


def _bound_inputs(function: bytes) -> list[int]:
    found = []
    for number, value in protobuf.fields(function):
        if number == 2:
            found += _numbers(value)
    return found


def _numbers(value: int | bytes) -> list[int]:
    """A repeated number, packed or not."""
    if isinstance(value, int):
        return [protobuf.signed(value)]
    found, at = [], 0
    while at < len(value):
        one, at = protobuf.varint(value, at)
        found.append(protobuf.signed(one))
    return found


def _constant(node: bytes, most: int) -> tuple[str, list[Any] | None]:
    """Name of a NodeDef, and the values of its attribute `value`."""
    name, tensor = "", None
    for number, field in protobuf.fields(node):
        if number == 1:
            name = protobuf.text(field)
        elif number == 5:
            entry = dict(protobuf.fields(protobuf.message(field)))
            if entry.get(1) == b"value":
                tensor = dict(protobuf.fields(protobuf.message(entry.get(2, b"")))).get(8)
    return name, None if tensor is None else _tensor(protobuf.message(tensor), most)


def _tensor(tensor: bytes, most: int) -> list[Any] | None:
    """The values of a TensorProto of texts or int64, of at most `most` elements; None for other types."""
    dtype, count, content = 0, 1, b""
    texts: list[Any] = []
    numbers: list[Any] = []
    for number, value in protobuf.fields(tensor):
        if number == 1:
            dtype = protobuf.number(value)
        elif number == 2:
            for field, axis in protobuf.fields(protobuf.message(value)):
                if field == 2:
                    count *= protobuf.number(dict(protobuf.fields(protobuf.message(axis))).get(1, 0))
        elif number == 4:
            content = protobuf.message(value)
        elif number == 8:
            texts.append(protobuf.message(value))
        elif number == 10:
            numbers += _numbers(value)
    if dtype not in (_INT64, _STRING):
        return None
    if count > most:
        raise protobuf.WireError(f"has a table of {count} terms, expected at most {most}")
    if content and dtype == _INT64:
        numbers = np.frombuffer(content[: len(content) // 8 * 8], "<i8").tolist()
    values = numbers if dtype == _INT64 else texts
    if not values or len(values) > count:
        return values[:count]
    # The last value stands for all that follow.
    return values + values[-1:] * (count - len(values))
