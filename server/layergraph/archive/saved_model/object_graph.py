"""The graph of objects in a checkpoint: which variable is which attribute of which layer.

Its format is tensorflow/core/protobuf/trackable_object_graph.proto. Keys of tensors are read, never composed: a key is
written along one of the paths to its variable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from layergraph.archive import protobuf

#: Key of the graph in a bundle.
GRAPH_KEY: Final = "_CHECKPOINTABLE_OBJECT_GRAPH"
#: Name of the attribute that is a variable's value.
VALUE: Final = "VARIABLE_VALUE"


#: For most nodes, which have neither children nor values.
_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Node:
    """An object: its `children` by attribute, as indices of nodes; the bundle's `keys` of its values.

    full_name   name of its variable
    slots       the optimizer's slots: (node of the weight, name of the slot, node of the slot)
    """

    children: Mapping[str, int]
    keys: Mapping[str, str]
    full_name: str
    slots: Sequence[tuple[int, str, int]]

    @property
    def value_key(self) -> str | None:
        """Key of its value if it is a variable, else None."""
        return self.keys.get(VALUE)


class ObjectGraph:
    """All nodes. Node 0 is the root."""

    def __init__(self, data: bytes, most: int) -> None:
        """Parses a TrackableObjectGraph with at most `most` nodes, edges and slots. Raises WireError."""
        self.nodes: list[Node] = []
        for number, value in protobuf.fields(data):
            if number == 1:
                node = _node(protobuf.message(value))
                most -= 1 + len(node.children) + len(node.slots)
                if most < 0:
                    raise protobuf.WireError("has too many objects")
                self.nodes.append(node)
        count = len(self.nodes)
        if not count:
            raise protobuf.WireError("has no objects")
        for index, node in enumerate(self.nodes):
            named = [*node.children.values(), *(at for weight, _, slot in node.slots for at in (weight, slot))]
            if any(at >= count for at in named):
                raise protobuf.WireError(f"refers from object {index} to object {max(named)} of {count}")

    def child(self, node: int, *path: str) -> int | None:
        """The node at a path of attributes; None if there is none."""
        for name in path:
            below = self.nodes[node].children.get(name)
            if below is None:
                return None
            node = below
        return node

    def numbered(self, node: int, prefix: str = "") -> Mapping[int, int]:
        """Nodes of the attributes `prefix` + number, by number, in ascending order."""
        found = {}
        for name, below in self.nodes[node].children.items():
            digits = name[len(prefix) :]
            if name.startswith(prefix) and digits.isascii() and digits.isdecimal() and len(digits) < 10:
                found[int(digits)] = below
        return dict(sorted(found.items()))


def _node(data: bytes) -> Node:
    """Parses a TrackableObject. Raises WireError."""
    children, keys, full_name = dict[str, int](), dict[str, str](), ""
    slots: list[tuple[int, str, int]] = []
    for number, value in protobuf.fields(data):
        if number not in (1, 2, 3):
            continue
        parts = dict(protobuf.fields(protobuf.message(value)))
        if number == 1:
            children[protobuf.text(parts.get(2, b""))] = protobuf.number(parts.get(1, 0))
        elif number == 2:
            keys[protobuf.text(parts.get(1, b""))] = protobuf.text(parts.get(3, b""))
            full_name = protobuf.text(parts.get(2, b"")) or full_name
        else:
            weight, slot = protobuf.number(parts.get(1, 0)), protobuf.number(parts.get(3, 0))
            slots.append((weight, protobuf.text(parts.get(2, b"")), slot))
    return Node(children or _NONE, keys or _NONE, full_name, slots or ())
