"""Graphs for which ONNX Runtime handles NaN and infinities as torch does, so that inputs needn't be checked for them.

Its recurrent layers and maximums lose NaN, and its exact GELU turns infinity into NaN. The operations of dense networks
and most convolutional ones keep them at any position of an array; the check would take a sixth of a small network's
time.
"""

from __future__ import annotations

from layergraph.execution.engines.exported_graph import ExportedGraph

#: Operations on floats that were tested with each value at each position (tests/.../engines/test_not_finite.py).
KEEPING = frozenset(
    {
        *("aten::_convolution", "aten::abs", "aten::add", "aten::addmm", "aten::avg_pool2d", "aten::batch_norm"),
        *("aten::cat", "aten::clamp", "aten::div", "aten::elu", "aten::hardswish", "aten::hardtanh_"),
        *("aten::layer_norm", "aten::leaky_relu", "aten::linear", "aten::mean", "aten::mul", "aten::pad"),
        *("aten::relu", "aten::relu_", "aten::rsqrt", "aten::selu", "aten::sigmoid", "aten::silu"),
        *("aten::softmax", "aten::softplus", "aten::square", "aten::stack", "aten::sub", "aten::sum", "aten::tanh"),
    }
)
#: Operations that only move values, or compute with lengths.
_MOVING = frozenset(
    {
        *("aten::Int", "aten::expand", "aten::flatten", "aten::permute", "aten::reshape", "aten::select"),
        *("aten::size", "aten::slice", "aten::squeeze", "aten::transpose", "aten::unsqueeze", "aten::view"),
    }
)


def keeps_not_finite(source: ExportedGraph) -> bool:
    """Whether ONNX Runtime's outputs for inputs with NaN or infinities are eager torch's. Raises CannotTraceError."""
    return all(kind in KEEPING or kind in _MOVING for kind in source.kinds if kind.startswith("aten::"))
