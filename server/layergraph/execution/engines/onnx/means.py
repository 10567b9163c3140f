"""Exports a mean over an image to ONNX as global pooling, which keeps the memory layout of convolutions.

ONNX Runtime's convolutions have a memory layout of their own. ReduceMean, torch's export of a mean over axes, needs the
whole image converted back; after pooling, only one number per channel is.
"""

from __future__ import annotations

from typing import Any

from torch.onnx import symbolic_helper

_AXES_BEFORE_AN_IMAGE = 2


def mean(g: Any, x: Any, *arguments: Any) -> Any:
    """Exports aten::mean. `arguments` are axes, keepdim and dtype, or dtype alone for a mean over all axes."""
    if len(arguments) > 1 and x.type().scalarType() == "Float" and symbolic_helper._is_none(arguments[-1]):
        rank, axes = symbolic_helper._get_tensor_rank(x), symbolic_helper._maybe_get_const(arguments[0], "is")
        image = list(range(_AXES_BEFORE_AN_IMAGE, rank or 0))
        if image and isinstance(axes, (list, tuple)) and sorted(axis % rank for axis in axes) == image:
            mean = g.op("GlobalAveragePool", x)
            keep = symbolic_helper._parse_arg(arguments[1], "i")
            return mean if keep else symbolic_helper._squeeze_helper(g, mean, image)
    return symbolic_helper._reduce_with_dtype_helper("ReduceMean", "mean")(g, x, *arguments)
