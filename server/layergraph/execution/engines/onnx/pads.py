"""Exports constant padding to ONNX with its sizes as one constant.

torch's exporter computes the sizes with eight nodes. ONNX Runtime fuses a padding into the convolution after it only if
the sizes are a constant.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.onnx import symbolic_helper, symbolic_opset11


def pad(g: Any, x: Any, sizes: Any, mode: Any, value: Any) -> Any:
    """Exports aten::pad."""
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
