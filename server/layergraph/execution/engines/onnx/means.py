"""How a mean over an image is written in ONNX: as pooling, which stays in the layout that convolutions compute in.

ONNX Runtime's convolutions have a layout of their own. A mean over axes, as torch's exporter writes it, needs all of
the image put back in order; after pooling it is one number a channel.
"""

from __future__ import annotations

from typing import Any

from torch.onnx import symbolic_helper

_AXES_BEFORE_AN_IMAGE = 2


def mean(g: Any, x: Any, *arguments: Any) -> Any:
    """Writes aten::mean. `arguments` are axes, whether they are kept, and a type; or, of everything, a type alone."""
    if len(arguments) > 1 and x.type().scalarType() == "Float" and symbolic_helper._is_none(arguments[-1]):
        rank, axes = symbolic_helper._get_tensor_rank(x), symbolic_helper._maybe_get_const(arguments[0], "is")
        image = list(range(_AXES_BEFORE_AN_IMAGE, rank or 0))
        if image and isinstance(axes, (list, tuple)) and sorted(axis % rank for axis in axes) == image:
            mean = g.op("GlobalAveragePool", x)
            keep = symbolic_helper._parse_arg(arguments[1], "i")
            return mean if keep else symbolic_helper._squeeze_helper(g, mean, image)
    return symbolic_helper._reduce_with_dtype_helper("ReduceMean", "mean")(g, x, *arguments)
