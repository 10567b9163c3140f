"""Where ONNX Runtime takes NaN and infinities as torch does, so that nobody needs to look for them.

Its recurrent layers and its largest of several numbers lose NaN, its exact GELU makes NaN of infinity. What dense
networks and most convolutional ones consist of keeps them, wherever in an array they are; looking would take a small
one a sixth of its time.
"""

from __future__ import annotations

from layergraph.execution.engines.exported_graph import ExportedGraph

#: Operations on floats that were tried with each value at each place (by engines/test_not_finite.py of the tests).
KEEPING = frozenset(
    {
        *("aten::_convolution", "aten::abs", "aten::add", "aten::addmm", "aten::avg_pool2d", "aten::batch_norm"),
        *("aten::cat", "aten::clamp", "aten::div", "aten::elu", "aten::hardswish", "aten::hardtanh_"),
        *("aten::layer_norm", "aten::leaky_relu", "aten::linear", "aten::mean", "aten::mul", "aten::pad"),
        *("aten::relu", "aten::relu_", "aten::rsqrt", "aten::selu", "aten::sigmoid", "aten::silu"),
        *("aten::softmax", "aten::softplus", "aten::square", "aten::stack", "aten::sub", "aten::sum", "aten::tanh"),
    }
)
#: What numbers only pass through, and calculations with lengths.
_MOVING = frozenset(
    {
        *("aten::Int", "aten::expand", "aten::flatten", "aten::permute", "aten::reshape", "aten::select"),
        *("aten::size", "aten::slice", "aten::squeeze", "aten::transpose", "aten::unsqueeze", "aten::view"),
    }
)


def keeps_not_finite(source: ExportedGraph) -> bool:
    """Whether NaN and infinities in a plan's inputs become what eager torch makes of them."""
    return all(kind in KEEPING or kind in _MOVING for kind in source.kinds if kind.startswith("aten::"))
