"""Engines that compute with fewer than 32 bits. Their outputs differ, so they are checked with wider tolerances."""

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
    """Matrix products with 8-bit weights and dynamically quantised inputs (ONNX Runtime's quantize_dynamic).

    Raises UnfitError if 'onnxruntime' or 'onnx' isn't installed.
    """
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
    """Turns constants into initializers, the only place where quantize_dynamic looks for weights."""
    constants = [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    for node in constants:
        tensor = node.attribute[0].t
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def short(source: ExportedGraph, precision: str) -> Engine:
    """Computes in 16 bits: on the GPU if there is one, else with OpenVINO on the CPU. Raises UnfitError."""
    if torch.cuda.is_available():
        return cuda(source, precision)
    return open_vino(source, _OPEN_VINO[precision])


#: OpenVINO's names of the precisions.
_OPEN_VINO = {"bfloat16": "bf16", "float16": "f16"}

#: Precision -> function that builds an engine with it.
PRECISIONS: Mapping[str, Callable[[ExportedGraph], Engine]] = {
    "int8": int8,
    "bfloat16": partial(short, precision="bfloat16"),
    "float16": partial(short, precision="float16"),
    "tf32": partial(cuda, precision="tf32"),
}
