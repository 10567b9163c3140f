"""Engines that compute with less than 32 bits. They give other numbers, so they need a proof and its tolerances."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from layergraph.execution.engines.cuda import cuda
from layergraph.execution.engines.exported_graph import Engine, ExportedGraph, UnfitError
from layergraph.execution.engines.onnx.runtime import exported, session
from layergraph.execution.engines.open_vino import open_vino


def int8(source: ExportedGraph) -> Engine:
    """Weights of matrix products in 8 bits, inputs quantised as they come (ONNX Runtime's dynamic quantisation)."""
    try:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as missing:
        raise UnfitError("the packages 'onnxruntime' and 'onnx' aren't installed") from missing
    with tempfile.TemporaryDirectory() as folder:
        wide, narrow = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        model = onnx.load_from_string(exported(source))
        _name_constants(model.graph)
        onnx.save(model, wide)
        quantize_dynamic(wide, narrow, weight_type=QuantType.QInt8)
        return session(source, narrow.read_bytes())


def _name_constants(graph: Any) -> None:
    """Makes initializers of constants: weights are what the quantisation looks for among those alone."""
    constants = [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    for node in constants:
        tensor = node.attribute[0].t
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def short(source: ExportedGraph, precision: str) -> Engine:
    """Computes in a type of 16 bits: on the GPU where there is one, else OpenVINO on the processor."""
    if torch.cuda.is_available():
        return cuda(source, precision)
    return open_vino(source, _OPEN_VINO[precision])


#: What OpenVINO calls them.
_OPEN_VINO = {"bfloat16": "bf16", "float16": "f16"}

#: Precision -> what makes an engine that computes in it.
PRECISIONS: Mapping[str, Callable[[ExportedGraph], Engine]] = {
    "int8": int8,
    "bfloat16": partial(short, precision="bfloat16"),
    "float16": partial(short, precision="float16"),
    "tf32": partial(cuda, precision="tf32"),
}
