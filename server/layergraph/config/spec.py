"""The canonical graph: what every generation's config is turned into, as plain data.

A `Structure` is any nesting of lists, tuples and dicts. In it, tensors stand as `TensorRef`; everything else is a plain
JSON value, or `NO_MASK`. Node indices count as in Keras 3: the first call of a layer, or of a model, in its parent is
node 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, TypeAlias

#: Any nesting of list, tuple and dict, with TensorRef or JSON values as leaves.
Structure: TypeAlias = Any


class Unmasked(Enum):
    """Stands as `mask` in a call that says: no mask, whatever comes with the inputs."""

    NO_MASK = "no mask"


NO_MASK: Final = Unmasked.NO_MASK


@dataclass(frozen=True, slots=True)
class TensorRef:
    """The `tensor`-th output of the `node`-th call of `layer` (Keras's history)."""

    layer: str
    node: int
    tensor: int


@dataclass(frozen=True, slots=True)
class CallSpec:
    """One call of a layer: positional and keyword arguments.

    `stored` is the call as a file of Keras 2 has it, where [name, node, tensor, arguments] is (TensorRef, arguments).
    """

    args: tuple[Structure, ...]
    kwargs: Mapping[str, Structure] = field(default_factory=dict)
    stored: Structure = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """A layer and its calls.

    `config` has Keras 3's keys and values. A layer inside it (a wrapper's `layer`, a cell) is a `LayerSpec` without
    calls.
    `graph` is set for a model used as a layer, and then `config` is empty. `operation` tells a `keras.ops` node from a
    layer of the same class name. Layers of one `shared_id` are one layer, that several models of the file hold.
    `stored` is the layer's object without its calls, where a file of the same generation can have it again, and
    `first_call` the number that the file gives to the first call.
    """

    name: str
    class_name: str
    config: Mapping[str, Any]
    calls: tuple[CallSpec, ...] = ()
    graph: GraphSpec | None = None
    operation: bool = False
    shared_id: int | None = None
    stored: Mapping[str, Any] | None = field(default=None, compare=False)
    first_call: int = 0


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """A model: its layers in the order of the file, and which tensors go in and out.

    A Sequential has `sequential=True`, layers without calls, and no `inputs` and `outputs`; its first layer is an
    InputLayer where the file gives an input shape. `stored` is as in a `LayerSpec`, without the layers.
    """

    name: str
    layers: tuple[LayerSpec, ...]
    inputs: Structure = None
    outputs: Structure = None
    sequential: bool = False
    trainable: bool = True
    stored: Mapping[str, Any] | None = field(default=None, compare=False)


def references(structure: Structure) -> Iterator[TensorRef]:
    """All tensors in a structure, in no order."""
    waiting = [structure]
    while waiting:
        item = waiting.pop()
        if isinstance(item, TensorRef):
            yield item
        elif isinstance(item, Mapping):
            waiting.extend(item.values())
        elif isinstance(item, (list, tuple)):
            waiting.extend(item)
