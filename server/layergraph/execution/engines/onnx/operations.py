"""Operations that torch's exporter writes to ONNX with more nodes, or slower ones, than are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.onnx import symbolic_helper, symbolic_opset11

#: Operator set from which on ONNX's Split has a number of parts.
_SPLIT_OPSET = 18
_AXES_BEFORE_AN_IMAGE = 2


def _constant_chunk(g: Any, x: Any, chunks: int, dim: int) -> Any:
    """A split into equal parts as one node: torch's exporter computes the bounds of each part with several nodes."""
    if g.opset < _SPLIT_OPSET:
        return symbolic_opset11.prim_constant_chunk(g, x, chunks, dim)
    return g.op("Split", x, axis_i=dim, num_outputs_i=chunks, outputs=chunks)


def _mean(g: Any, x: Any, *arguments: Any) -> Any:
    """A mean over an image as global pooling, which keeps the memory layout of convolutions.

    ONNX Runtime's convolutions have a memory layout of their own. ReduceMean, torch's export of a mean over axes, needs
    the whole image converted back; after pooling, only one number per channel is.

    `arguments` are axes, keepdim and dtype, or dtype alone for a mean over all axes.
    """
    if len(arguments) > 1 and x.type().scalarType() == "Float" and symbolic_helper._is_none(arguments[-1]):
        rank, axes = symbolic_helper._get_tensor_rank(x), symbolic_helper._maybe_get_const(arguments[0], "is")
        image = list(range(_AXES_BEFORE_AN_IMAGE, rank or 0))
        if image and isinstance(axes, (list, tuple)) and sorted(axis % rank for axis in axes) == image:
            mean = g.op("GlobalAveragePool", x)
            keep = symbolic_helper._parse_arg(arguments[1], "i")
            return mean if keep else symbolic_helper._squeeze_helper(g, mean, image)
    return symbolic_helper._reduce_with_dtype_helper("ReduceMean", "mean")(g, x, *arguments)


def _pad(g: Any, x: Any, sizes: Any, mode: Any, value: Any) -> Any:
    """Constant padding with its sizes as one constant.

    torch's exporter computes the sizes with eight nodes. ONNX Runtime fuses a padding into the convolution after it
    only if the sizes are a constant.
    """
    known = symbolic_helper._maybe_get_const(sizes, "is")
    rank = symbolic_helper._get_tensor_rank(x)
    how = symbolic_helper._parse_arg(mode, "s")
    if how != "constant" or rank is None or not isinstance(known, (list, tuple)):
        return symbolic_opset11.pad(g, x, sizes, mode, value)
    # torch lists (before, after) pairs from the last axis on; ONNX lists all befores, then all afters, from the first.
    before, after = [0] * rank, [0] * rank
    for i in range(len(known) // 2):
        before[rank - 1 - i], after[rank - 1 - i] = known[2 * i], known[2 * i + 1]
    pads = g.op("Constant", value_t=torch.tensor(before + after, dtype=torch.int64))
    # The mode is ONNX's default.
    if symbolic_helper._is_none(value):
        return g.op("Pad", x, pads)
    typed: Any = symbolic_helper._if_scalar_type_as
    value = typed(symbolic_helper._maybe_get_scalar(value), x)  # type: ignore[no-untyped-call]
    return g.op("Pad", x, pads, value)


#: torch's operation -> what exports it.
OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "aten::mean": _mean,
    "aten::pad": _pad,
    # What torch makes of aten::chunk.
    "prim::ConstantChunk": _constant_chunk,
}
