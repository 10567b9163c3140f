"""The canonical graph that configs of all generations are converted to, as plain data.

A `Structure` is any nesting of lists, tuples and dicts. Its leaves are tensors, as `TensorRef`, plain JSON values and
`NO_MASK`. Nodes are numbered as in Keras 3: the first call of a layer, or of a model, in its parent is node 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, TypeAlias

#: Any nesting of list, tuple and dict, with TensorRef or JSON values as leaves.
Structure: TypeAlias = Any


#: Maximum number of layers that one hyperparameter of KerasHub's classes may ask for.
MAX_LAYERS = 1000


class Unmasked(Enum):
    """Value of `mask` in a call that suppresses the inputs' masks."""

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

    `stored` is the call in its Keras 2 file, with [name, node, tensor, arguments] as (TensorRef, arguments).
    """

    args: tuple[Structure, ...]
    kwargs: Mapping[str, Structure] = field(default_factory=dict)
    stored: Structure = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """A layer and its calls.

    `config` has Keras 3's keys and values. A layer in it (a wrapper's `layer`, a cell) is a `LayerSpec` without calls.
    `graph` is set for a model used as a layer; `config` is then empty. `operation` distinguishes a `keras.ops` node
    from a layer of the same class name. `module` is where the file says that the class is, and `own_class_name` its
    name there, if it is registered by a name, which then is `class_name`. Layers with equal
    `shared_id` are one layer, shared by several models of the file. `stored` is the layer's object without its calls,
    kept for writing a file of the same generation, and `first_call` the node index that the file gives to the first
    call.
    """

    name: str
    class_name: str
    config: Mapping[str, Any]
    calls: tuple[CallSpec, ...] = ()
    graph: GraphSpec | None = None
    operation: bool = False
    module: str = field(default="", compare=False)
    own_class_name: str = field(default="", compare=False)
    shared_id: int | None = None
    stored: Mapping[str, Any] | None = field(default=None, compare=False)
    first_call: int = 0


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """A model: its layers in file order, and its input and output tensors.

    A Sequential has `sequential=True`, layers without calls, and no `inputs` and `outputs`; its first layer is an
    InputLayer if the file has an input shape. A model of one of KerasHub's classes has no layers either, but the class,
    as `architecture`, and its `hyperparameters`. `stored` is like a `LayerSpec`'s, without the layers.
    """

    name: str
    layers: tuple[LayerSpec, ...]
    inputs: Structure = None
    outputs: Structure = None
    sequential: bool = False
    trainable: bool = True
    architecture: str = ""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    stored: Mapping[str, Any] | None = field(default=None, compare=False)


def references(structure: Structure) -> Iterator[TensorRef]:
    """Yields all tensors in a structure, in no particular order."""
    waiting = [structure]
    while waiting:
        item = waiting.pop()
        if isinstance(item, TensorRef):
            yield item
        elif isinstance(item, Mapping):
            waiting.extend(item.values())
        elif isinstance(item, (list, tuple)):
            waiting.extend(item)
