"""Masks as operations of the graph, as in Keras 3's files.

In layergraph, masks accompany tensors. In Keras 3 they are tensors of the graph: `compute_mask` creates operations, and
a call that takes a mask has it as an argument. If a file leaves them out, Keras adds these operations while it rebuilds
the model, under names that may be taken already. And if a model follows Keras 2's rules for masks, explicit operations
are the only way to express them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from layergraph.config.keras2_releases import KERAS3_USES, PASSES_OWN, UNCAST
from layergraph.config.spec import NO_MASK
from layergraph.functional.functional import Functional
from layergraph.functional.graph import Graph, map_graph
from layergraph.functional.invocation import Invocation
from layergraph.functional.layer import Layer
from layergraph.functional.nest import Structure, flatten, map_structure, pack
from layergraph.functional.node import Node
from layergraph.functional.tensor import Shape, Tensor
from layergraph.ops import operations


class _Unknown:
    """A mask that is only known at run time, in Keras as well."""


_UNKNOWN = _Unknown()
Mask: TypeAlias = "Tensor | _Unknown | None"
#: Creates a node of an operation: (class name, arguments, options).
Operate: TypeAlias = Callable[..., Tensor]


class WrittenGraph:
    """A model's graph as it is saved: with masks as operations.

    graph   nodes, layers in the order in which Keras will number them, and call indices
    """

    def __init__(self, model: Functional) -> None:
        self._names = {layer.name for layer in model.graph.layers}
        self._masks: dict[int, Mask] = {}
        #: Tensors without a mask to which Keras attaches one.
        self._masked: set[int] = set()
        self._args: dict[Node, tuple[Structure, ...]] = {}
        self._kwargs: dict[Node, Mapping[str, Structure]] = {}
        for node in model.graph.nodes:
            if node.is_input:
                self._masks.update(dict.fromkeys(map(id, node.output_tensors)))
            else:
                self._add(node)
        changed = self._args or self._kwargs
        own = model.graph
        self.graph: Graph = map_graph(own.inputs, own.outputs, self._needs, own.ends) if changed else own

    def args_of(self, node: Node) -> tuple[Structure, ...]:
        """Positional arguments of the call."""
        return self._args.get(node, node.args)

    def kwargs_of(self, node: Node) -> Mapping[str, Structure]:
        """Keyword arguments of the call, including its masks."""
        return self._kwargs.get(node, node.kwargs)

    def _needs(self, node: Node) -> list[Tensor]:
        leaves = flatten([list(self.args_of(node)), dict(self.kwargs_of(node))])
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def _add(self, node: Node) -> None:
        layer = node.layer
        self._drop_masks(node)
        sources = {} if layer.is_operation else _mask_sources(node)
        masks = {name: map_structure(self._mask_of, source) for name, source in sources.items()}
        unfit = getattr(layer, "mask_rule", "") == "fitting" and not _fits(masks.get("mask"), node.args[0])
        masks = {} if unfit else masks
        written = {name: mask for name, mask in masks.items() if _is_known(mask)}
        if written:
            self._kwargs[node] = {**node.kwargs, **written}
        # In Keras 3 masks accompany tensors, too: without one, a layer neither uses it nor passes it on.
        loses_all = skips_masks(layer) or unfit or layer.mask_use not in KERAS3_USES
        lost = {id(tensor) for tensor in without_masks(node) if self._mask_of(tensor) is not None}
        lost |= set() if layer.is_operation else self._masked.intersection(map(id, node.input_tensors))
        if loses_all or lost:
            self._args[node] = tuple(
                map_structure(
                    lambda leaf: self._without_mask(layer, leaf) if loses_all or id(leaf) in lost else leaf, arg
                )
                for arg in node.args
            )
        for tensor, mask in zip(node.output_tensors, self._output_masks(node), strict=True):
            # Shape inference has determined whether there is a mask.
            self._masks[id(tensor)] = None if tensor.mask_shape is None else mask
            if tensor.mask_shape is None and keeps_mask_back(node):
                self._masked.add(id(tensor))

    def _drop_masks(self, node: Node) -> None:
        """Handles a call with a mask of None: in Keras 3 its tensors must have no mask."""
        mask, tensors = node.kwargs.get("mask"), flatten(list(node.args[:1]))
        parts = flatten(mask) if isinstance(node.layer, Functional) and mask is not NO_MASK else [mask] * len(tensors)
        if not any(part is NO_MASK for part in parts):
            return
        bare = [
            self._without_mask(node.layer, leaf) if part is NO_MASK else leaf
            for leaf, part in zip(tensors, parts, strict=True)
        ]
        self._args[node] = (pack(node.args[0], bare), *node.args[1:])
        self._kwargs[node] = {name: value for name, value in node.kwargs.items() if name != "mask"}
        named = [None if part is NO_MASK else part for part in parts]
        if any(part is not None for part in named):
            self._kwargs[node] = {**node.kwargs, "mask": named}

    def _mask_of(self, leaf: Any) -> Mask:
        return self._masks.get(id(leaf)) if isinstance(leaf, Tensor) else None

    def _without_mask(self, layer: Layer, leaf: Any) -> Any:
        """The tensor; if it has a mask, the tensor plus 0, since results of operations have no mask."""
        masked = self._mask_of(leaf) is not None or id(leaf) in self._masked
        return self._operate(layer, "Add", leaf, 0) if masked else leaf

    def _output_masks(self, node: Node) -> Sequence[Mask]:
        tensors = node.output_tensors
        nothing: list[Mask] = [None] * len(tensors)
        if all(tensor.mask_shape is None for tensor in tensors):
            return nothing
        if isinstance(node.layer, Functional) or not _passes_on(node.layer):
            return [_UNKNOWN] * len(tensors)
        first = node.args[0]
        explicit = None if node.layer.mask_use in PASSES_OWN else node.kwargs.get("mask")
        named = flatten(map_structure(self._mask_of, first)) if explicit is None else flatten(explicit)
        given: list[Mask] = [None if mask is NO_MASK else mask for mask in named]
        if any(mask is _UNKNOWN for mask in given):
            return [_UNKNOWN] * len(tensors)
        make = _MASK_RULES.get(type(node.layer).__name__)
        if make is not None:
            return [make(node.layer, flatten(first), given, self._operate)]
        # Layers that pass masks through pass their first one.
        return [given[0] if given[0] is not None else _UNKNOWN] * len(tensors)

    def _operate(self, layer: Layer, kind: str, *args: Any, **options: Any) -> Tensor:
        """Creates an operation on tensors, named after the layer whose mask it computes."""
        number, name = 0, f"{layer.name}_mask"
        while name in self._names:
            number += 1
            name = f"{layer.name}_mask_{number}"
        self._names.add(name)
        made: Tensor = operations()[kind](name=name, **options)(*args)
        return made


def _passes_on(layer: Layer) -> bool:
    """Whether the masks of a layer's outputs follow from those of its inputs, without code that computes them."""
    computed = layer.computes_by_call and type(layer).compute_mask is not Layer.compute_mask
    return layer.supports_masking and not computed


def skips_masks(layer: Layer) -> bool:
    """Whether a layer doesn't use the masks of its inputs, by the rule of Keras 2, but computes one of its output."""
    return type(layer).__name__ in _SKIPS_MASKED and getattr(layer, "mask_rule", "") == "keras2"


def without_masks(node: Node) -> list[Tensor]:
    """Tensors whose masks a call loses, by the rule of the release that its file is of."""
    if node.layer.mask_use not in UNCAST:
        return []
    return Invocation(node.layer, node.args, node.kwargs, node.training).without_masks


def keeps_mask_back(node: Node) -> bool:
    """Whether a call doesn't pass on a mask that it is given, by the rule of the release that its file is of."""
    return node.layer.mask_use in PASSES_OWN and _passes_on(node.layer) and node.kwargs.get("mask") is not None


def _mask_sources(node: Node) -> dict[str, Structure]:
    """Mask arguments of Keras's `call` -> the tensors whose masks they take."""
    layer = node.layer
    if isinstance(layer, Functional):
        # Keras passes masks only to a model with a single argument; inside they accompany its inputs.
        return {"mask": node.args[0]} if len(node.args) == 1 and not node.kwargs else {}
    if not layer.masks_in_calls:
        return {}
    sources = Invocation(layer, node.args, node.kwargs, node.training).mask_sources
    beside_states = sources.pop("sequences_mask", None)
    if (
        beside_states is not None
        and "mask" not in node.kwargs
        and getattr(layer, "mask_rule", "") in ("keras2", "start")
    ):
        sources["mask"] = beside_states
    return sources


def _fits(mask: Any, tensor: Any) -> bool:
    """Whether a mask broadcasts to a tensor."""
    return isinstance(mask, Tensor) and broadcasts(mask.shape, tensor.shape)


def broadcasts(mask: Shape, shape: Shape) -> bool:
    """Whether a mask of a shape broadcasts to a tensor's shape."""
    fits = all(m in (1, n) for m, n in zip(reversed(mask), reversed(shape), strict=False))
    return len(mask) <= len(shape) and fits


def _is_known(mask: Structure) -> bool:
    leaves = flatten(mask)
    return any(leaf is not None for leaf in leaves) and all(leaf is not _UNKNOWN for leaf in leaves)


def _embedding(layer: Any, inputs: list[Tensor], given: list[Mask], operate: Operate) -> Mask:
    return operate(layer, "NotEqual", inputs[0], 0)


def _masking(layer: Any, inputs: list[Tensor], given: list[Mask], operate: Operate) -> Mask:
    return operate(layer, "Any", operate(layer, "NotEqual", inputs[0], layer.mask_value), axis=-1)


def _merging(layer: Any, inputs: list[Tensor], given: list[Mask], operate: Operate) -> Mask:
    """Keras 3: OR of all masks; Keras 2: AND of the existing ones (keras.layers.Add.compute_mask)."""
    known = [mask for mask in given if mask is not None]
    result = known[0]
    for mask in known[1:]:
        result = operate(layer, "LogicalOr" if layer.mask_rule == "keras3" else "LogicalAnd", result, mask)
    return result


def _concatenate(layer: Any, inputs: list[Tensor], given: list[Mask], operate: Operate) -> Mask:
    """keras.layers.Concatenate.compute_mask: expanded masks, concatenated, then any (Keras 2: all)."""
    wide: list[Mask] = []
    for tensor, mask in zip(inputs, given, strict=True):
        if mask is None:
            wide.append(operate(layer, "OnesLike", tensor, dtype="bool"))
        elif isinstance(mask, Tensor) and len(mask.shape) < len(tensor.shape):
            nothing = operate(layer, "ZerosLike", tensor, dtype="bool")
            wide.append(operate(layer, "LogicalOr", operate(layer, "ExpandDims", mask, axis=-1), nothing))
        else:
            wide.append(mask)
    joined = operate(layer, "Concatenate", wide, axis=layer.axis)
    return operate(layer, "Any" if layer.mask_rule == "keras3" else "All", joined, axis=-1)


#: Merging layers that skip masked elements in Keras 3.
_SKIPS_MASKED = frozenset({"Maximum", "Minimum", "Multiply"})
_MERGING = frozenset({"Add", "Average", "Concatenate", "Dot", "Maximum", "Minimum", "Multiply", "Subtract"})
#: Layers that compute a mask rather than pass one through.
_MASK_RULES: Mapping[str, Callable[[Any, list[Tensor], list[Mask], Operate], Mask]] = {
    "Embedding": _embedding,
    "Masking": _masking,
    "Concatenate": _concatenate,
    **dict.fromkeys(_MERGING - {"Concatenate", "Dot"}, _merging),
}
