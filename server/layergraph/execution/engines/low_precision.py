"""Engines that compute with fewer than 32 bits. Their outputs differ, so they are checked with wider tolerances."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch

from layergraph.execution.engines.cuda import cuda
from layergraph.execution.engines.engine import Engine
from layergraph.execution.engines.exported_graph import ExportedGraph
from layergraph.execution.engines.graph_files import GraphFiles
from layergraph.execution.engines.onnx.quantization import DYNAMIC, STATIC, WIDE
from layergraph.execution.engines.open_vino import open_vino


def short(source: ExportedGraph, precision: str) -> Engine:
    """Computes in 16 bits: on the GPU if there is one, else with OpenVINO on the CPU. Raises UnfitError."""
    if torch.cuda.is_available():
        return cuda(source, precision)
    return open_vino(source, _OPEN_VINO[precision])


#: OpenVINO's names of the precisions.
_OPEN_VINO = {"bfloat16": "bf16", "float16": "f16"}

#: Precision -> function that builds an engine with it.
PRECISIONS: Mapping[str, Callable[[ExportedGraph], Engine]] = {
    "bfloat16": partial(short, precision="bfloat16"),
    "float16": partial(short, precision="float16"),
    "tf32": partial(cuda, precision="tf32"),
}


#: Engine -> how it is opened, and its file in the folder of quantized graphs (see `onnx.quantization`).
INT8: dict[str, tuple[Callable[[GraphFiles, str], Engine], str]] = {
    "int8-onnxruntime": (GraphFiles.onnx_runtime, STATIC),
    "int8-openvino": (GraphFiles.open_vino, STATIC),
    "int8-dynamic": (GraphFiles.onnx_runtime, DYNAMIC),
}
#: The same for the float32 graph beside them, which may be the fastest.
FLOAT32: dict[str, tuple[Callable[[GraphFiles, str], Engine], str]] = {
    "onnxruntime": (GraphFiles.onnx_runtime, WIDE),
    "openvino": (GraphFiles.open_vino, WIDE),
}
