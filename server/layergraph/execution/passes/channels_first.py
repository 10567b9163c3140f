"""Converts images to channels-first throughout a traced graph, by cancelling permutations.

Keras's images are channels-last, torch's convolutions channels-first, so each convolution stands between two
permutations. They cost torch nothing, being views, but other engines copy the image for each one left, and fuse only
adjacent operations. So each permutation is moved behind the operations that follow it, until it meets its inverse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

_PERMUTE = "aten::permute"
#: Operations that compute each element from those at the same position. Their in-place variants end with `_`.
_ELEMENTWISE = frozenset(
    f"aten::{name}{place}"
    for name in (
        *("relu", "relu6", "hardtanh", "sigmoid", "tanh", "silu", "gelu", "elu", "selu", "celu", "leaky_relu"),
        *("hardswish", "hardsigmoid", "softplus", "mish", "clamp", "clamp_min", "clamp_max"),
        *("exp", "log", "sqrt", "rsqrt", "neg", "abs", "square", "erf"),
        *("add", "sub", "rsub", "mul", "div", "maximum", "minimum", "addcmul"),
    )
    for place in ("", "_")
)
#: Operations that remove the given axes, or keep them with length 1.
_REDUCTIONS = ("aten::mean", "aten::sum", "aten::amax", "aten::amin")
#: Minimum number of inputs of a reduction over given axes.
_REDUCTION_INPUTS = 3


def cancel_permutations(graph: Any) -> None:
    """Moves each permutation as far down as possible, and removes those that cancel out."""
    for node in list(graph.nodes()):  # Copied, since moves insert permutations behind a node.
        kind = node.kind()
        move = _MOVES.get(kind, _elementwise if kind in _ELEMENTWISE else None)
        if move is not None:
            move(graph, node)
    for node in graph.findAllNodes("aten::pad"):
        _pad_late(graph, node)
    torch._C._jit_pass_dce(graph)


def _permuted(value: Any) -> tuple[Any, list[int]] | None:
    """The tensor that a value is a permutation of, and the order of axes; None if it isn't one."""
    node = value.node()
    if node.kind() != _PERMUTE:
        return None
    axes = node.inputsAt(1).toIValue()
    return (node.inputsAt(0), [axis % len(axes) for axis in axes]) if isinstance(axes, list) else None


def _permute(graph: Any, node: Any) -> None:
    """Merges a permutation of a permutation into one, or into none."""
    below = _permuted(node.inputsAt(0))
    own = _permuted(node.output())
    if below is None or own is None:
        return
    source, axes = below
    both = [axes[axis] for axis in own[1]]
    if both == sorted(both):
        node.output().replaceAllUsesWith(source)
        return
    node.replaceInput(0, source)
    node.replaceInput(1, _constant(graph, node, both))


def _elementwise(graph: Any, node: Any) -> None:
    inputs = list(node.inputs())
    tensors = [i for i, value in enumerate(inputs) if value.type().kind() == "TensorType"]
    found = {i: _permuted(inputs[i]) for i in tensors}
    orders = [below[1] for below in found.values() if below is not None]
    if not orders or any(order != orders[0] for order in orders):
        return
    order = orders[0]
    sources = {}
    for i in tensors:
        below = found[i]
        source = below[0] if below is not None else _constant_in_order(graph, node, inputs[i], order)
        if source is None:
            return
        sources[i] = source
    for i, source in sources.items():
        node.replaceInput(i, source)
    _permute_behind(graph, node, order)


def _constant_in_order(graph: Any, node: Any, value: Any, order: Sequence[int]) -> Any:
    """A constant with its axes in the order before a permutation; None if the value isn't a constant."""
    constant = value.toIValue() if value.node().kind() == "prim::Constant" else None
    if not isinstance(constant, torch.Tensor) or constant.ndim > len(order):
        return None
    if constant.ndim == 0:
        return value
    whole = constant.detach().reshape([1] * (len(order) - constant.ndim) + list(constant.shape))
    return _constant(graph, node, whole.permute([order.index(axis) for axis in range(len(order))]).contiguous())


def _cat(graph: Any, node: Any) -> None:
    parts = node.inputsAt(0).node()
    axis = node.inputsAt(1).toIValue()
    if parts.kind() != "prim::ListConstruct" or axis is None:
        return
    found = [_permuted(value) for value in parts.inputs()]
    known = [below for below in found if below is not None]
    if not known or len(known) < len(found) or any(order != known[0][1] for _, order in known):
        return
    order = known[0][1]
    with graph.insert_point_guard(node):
        sources = graph.insertNode(graph.create("prim::ListConstruct", [source for source, _ in known]))
    sources.output().setType(parts.output().type())
    node.replaceInput(0, sources.output())
    node.replaceInput(1, _constant(graph, node, order[axis % len(order)]))
    _permute_behind(graph, node, order)


def _pad(graph: Any, node: Any) -> None:
    below = _permuted(node.inputsAt(0))
    flat = node.inputsAt(1).toIValue()
    constant = node.kind() == "aten::constant_pad_nd" or node.inputsAt(2).toIValue() == "constant"
    if below is None or not isinstance(flat, list) or not constant:
        return
    source, order = below
    sizes = [(0, 0)] * len(order)
    # torch lists (before, after) pairs from the last axis on.
    for i in range(len(flat) // 2):
        sizes[order[len(order) - 1 - i]] = (flat[2 * i], flat[2 * i + 1])
    node.replaceInput(0, source)
    node.replaceInput(1, _constant(graph, node, _flat(sizes)))
    _permute_behind(graph, node, order)


def _pad_late(graph: Any, node: Any) -> None:
    """Moves a padding behind the permutation that alone reads it, next to the convolution that can take it over."""
    uses = node.output().uses()
    after = uses[0].user if len(uses) == 1 else None
    own = _permuted(after.output()) if after is not None and after.kind() == _PERMUTE else None
    flat = node.inputsAt(1).toIValue()
    if after is None or own is None or not isinstance(flat, list) or node.inputsAt(2).toIValue() != "constant":
        return
    order = own[1]
    sizes = [(0, 0)] * len(order)
    for i in range(len(flat) // 2):
        sizes[len(order) - 1 - i] = (flat[2 * i], flat[2 * i + 1])
    source = node.inputsAt(0)
    with graph.insert_point_guard(node):
        permuted = graph.insertNode(graph.create(_PERMUTE, [source, graph.insertConstant(order)]))
    lengths = source.type().sizes()
    if lengths is not None:
        permuted.output().setType(source.type().with_sizes([lengths[axis] for axis in order]))
    node.replaceInput(0, permuted.output())
    node.replaceInput(1, _constant(graph, node, _flat([sizes[axis] for axis in order])))
    node.output().setType(after.output().type())
    after.output().replaceAllUsesWith(node.output())


def _flat(sizes: list[tuple[int, int]]) -> list[int]:
    """(before, after) pairs in the order of `pad`: from the last axis on, without leading axes that aren't padded."""
    first = next((axis for axis, pair in enumerate(sizes) if pair != (0, 0)), len(sizes))
    return [size for pair in reversed(sizes[first:]) for size in pair]


def _reduce(graph: Any, node: Any) -> None:
    below = _permuted(node.inputsAt(0))
    if node.inputsSize() < _REDUCTION_INPUTS:
        return  # A reduction over all axes.
    axes, keeps = node.inputsAt(1).toIValue(), node.inputsAt(2).toIValue()
    if below is None or not isinstance(axes, list) or not axes or not isinstance(keeps, bool):
        return
    source, order = below
    gone = [order[axis % len(order)] for axis in axes]
    left = order if keeps else [axis for axis in order if axis not in gone]
    node.replaceInput(0, source)
    node.replaceInput(1, _constant(graph, node, gone))
    _permute_behind(graph, node, [sorted(left).index(axis) for axis in left])


def _squeeze(graph: Any, node: Any) -> None:
    below = _permuted(node.inputsAt(0))
    axis = node.inputsAt(1).toIValue() if node.inputsSize() > 1 else None
    if below is None or not isinstance(axis, int):
        return
    source, order = below
    gone = order[axis]
    node.replaceInput(0, source)
    node.replaceInput(1, _constant(graph, node, gone))
    left = [other for other in order if other != gone]
    _permute_behind(graph, node, [sorted(left).index(other) for other in left])


def _unsqueeze(graph: Any, node: Any) -> None:
    """Inserts the new axis before the same axis in both orders, so that an axis of length 1 meets the next squeeze."""
    value = node.inputsAt(0)
    axis = node.inputsAt(1).toIValue()
    below = _permuted(value)
    if below is not None and axis is not None:
        source, order = below
        axis %= len(order) + 1
        new = order[axis] if axis < len(order) else len(order)
        node.replaceInput(0, source)
        node.replaceInput(1, _constant(graph, node, new))
        moved = [other + (other >= new) for other in order]
        _permute_behind(graph, node, [*moved[:axis], new, *moved[axis:]])
    squeezed = node.inputsAt(0).node()
    if squeezed.kind() == "aten::squeeze" and squeezed.inputsSize() > 1:
        before = squeezed.inputsAt(0).type().dim()
        axes = [squeezed.inputsAt(1).toIValue(), node.inputsAt(1).toIValue()]
        if before is not None and axes[0] % before == axes[1] % before:
            node.output().replaceAllUsesWith(squeezed.inputsAt(0))


def _size(graph: Any, node: Any) -> None:
    below = _permuted(node.inputsAt(0))
    axis = node.inputsAt(1).toIValue()
    if below is not None and axis is not None:
        node.replaceInput(0, below[0])
        node.replaceInput(1, _constant(graph, node, below[1][axis]))


def _permute_behind(graph: Any, node: Any, order: Sequence[int]) -> None:
    """Makes all users of a node's output read a permutation of it, which gets the output's former type."""
    output = node.output()
    before = output.type()
    if list(order) == sorted(order):
        return
    sizes = before.sizes()
    with graph.insert_point_guard(node):
        axes = graph.insertConstant(list(order))
    permuted = graph.create(_PERMUTE, [output, axes])
    permuted.insertAfter(node)
    permuted.output().setType(before)
    output.replaceAllUsesAfterNodeWith(permuted, permuted.output())
    if sizes is not None:
        output.setType(before.with_sizes([sizes[order.index(axis)] for axis in range(len(order))]))


def _constant(graph: Any, node: Any, value: Any) -> Any:
    with graph.insert_point_guard(node):
        return graph.insertConstant(value)


_MOVES: Mapping[str, Callable[[Any, Any], None]] = {
    _PERMUTE: _permute,
    "aten::cat": _cat,
    "aten::pad": _pad,
    "aten::constant_pad_nd": _pad,
    "aten::squeeze": _squeeze,
    "aten::unsqueeze": _unsqueeze,
    "aten::size": _size,
    **dict.fromkeys(_REDUCTIONS, _reduce),
}
