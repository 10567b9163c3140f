"""Exports a split into equal parts to ONNX as one node.

torch's exporter computes the bounds of each part with several nodes.
"""

from __future__ import annotations

from typing import Any

from torch.onnx import symbolic_opset11

#: Operator set from which on ONNX's Split has a number of parts.
_OPSET = 18


def constant_chunk(g: Any, x: Any, chunks: int, dim: int) -> Any:
    """Exports prim::ConstantChunk, which torch makes of aten::chunk."""
    if g.opset < _OPSET:
        return symbolic_opset11.prim_constant_chunk(g, x, chunks, dim)
    return g.op("Split", x, axis_i=dim, num_outputs_i=chunks, outputs=chunks)
