"""Engines that compute with less than 32 bits. They give other numbers, so they need a proof and its tolerances."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from layergraph.execution.engines.cuda import cuda
from layergraph.execution.engines.onnx_runtime import exported, session
from layergraph.execution.engines.open_vino import open_vino
from layergraph.execution.engines.source import Engine, Source, UnfitError


def int8(source: Source) -> Engine:
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


#: Precision -> what makes an engine that computes in it.
PRECISIONS: Mapping[str, Callable[[Source], Engine]] = {
    "int8": int8,
    "bfloat16": partial(open_vino, precision="bf16"),
    "float16": partial(open_vino, precision="f16"),
    "tf32": partial(cuda, tf32=True),
}
