"""ONNX models with 8-bit integers, by ONNX Runtime's quantization. Imports no torch.

`static`    the inputs of convolutions and matrix products are integers, too, with the ranges seen in calibration; so is
            what lies between them (QDQ: pairs of nodes that quantize and dequantize, which engines fuse)
`dynamic`   weights of matrix products and LSTMs are integers; inputs have the ranges of each call
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

#: Files of a folder: the float32 model, arrays of its inputs with an axis of calls before their own, and what is made
#: of them.
WIDE, ROWS = "float32.onnx", "rows.npz"
STATIC, DYNAMIC = "static.onnx", "dynamic.onnx"
#: Operations whose weights are quantized.
_STATIC = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_DYNAMIC = ("Gemm", "MatMul", "LSTM")
#: Operations between those, which compute with integers or move them. Others, such as Softmax, stay in float32.
_BETWEEN = (
    *("Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "MaxPool", "Pad", "Relu", "Reshape"),
    *("Squeeze", "Transpose", "Unsqueeze"),
)


class NothingToQuantizeError(Exception):
    """A model has neither convolutions nor matrix products with constant weights."""


def quantize(folder: Path) -> None:
    """Writes STATIC and DYNAMIC from WIDE and ROWS, those of them that make sense.

    Raises NothingToQuantizeError, ImportError without ONNX Runtime, and the errors of its quantization.
    """
    import onnx

    model = onnx.load(folder / WIDE)
    _name_constants(model.graph)
    onnx.save(model, folder / WIDE)
    kinds = {node.op_type for node in model.graph.node}
    if kinds.isdisjoint((*_STATIC, *_DYNAMIC)):
        raise NothingToQuantizeError("the model has neither convolutions nor matrix products")
    if not kinds.isdisjoint(_STATIC):
        _quantize_statically(folder, [entry.name for entry in model.graph.input])
    if not kinds.isdisjoint(_DYNAMIC):
        _quantize_dynamically(folder)


def _quantize_statically(folder: Path, inputs: Sequence[str]) -> None:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    quantize_static(
        folder / WIDE,
        folder / STATIC,
        _reader(folder, inputs),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=[*_STATIC, *_BETWEEN],
        # A weight's range for each output channel: channels differ by orders of magnitude after a folded normalization.
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )


def _quantize_dynamically(folder: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Without convolutions, whose kernels for ranges of each call are slower than those of float32.
    quantize_dynamic(folder / WIDE, folder / DYNAMIC, op_types_to_quantize=[*_DYNAMIC], weight_type=QuantType.QInt8)


def _reader(folder: Path, inputs: Sequence[str]) -> Any:
    """The calls one by one, so that what lies between the layers is in memory for one of them only."""
    from onnxruntime.quantization import CalibrationDataReader

    with np.load(folder / ROWS, allow_pickle=False) as file:
        # Inputs that no output depends on aren't part of the model.
        arrays = [file[name] for name in inputs]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._calls = zip(*arrays, strict=True)

        def get_next(self) -> dict[str, Any] | None:
            call = next(self._calls, None)
            return None if call is None else dict(zip(inputs, call, strict=True))

    return Reader()


def _name_constants(graph: Any) -> None:
    """Turns constants into initializers, the only place where the quantization looks for weights."""
    constants = [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    for node in constants:
        tensor = node.attribute[0].t
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)
