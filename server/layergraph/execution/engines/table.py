"""The engines by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from layergraph.execution.engines.cuda import cuda
from layergraph.execution.engines.engine import Engine
from layergraph.execution.engines.exported_graph import ExportedGraph
from layergraph.execution.engines.inductor import inductor
from layergraph.execution.engines.onnx.not_finite import keeps_not_finite
from layergraph.execution.engines.onnx.runtime import onnx_runtime
from layergraph.execution.engines.open_vino import open_vino
from layergraph.execution.engines.torchscript import torchscript

ENGINES: Mapping[str, Callable[[ExportedGraph], Engine]] = {
    "cuda": cuda,
    "onnxruntime": onnx_runtime,
    "torchscript": torchscript,
    "openvino": open_vino,
    "inductor": inductor,
}

#: Engine -> whether it handles NaN and infinities as eager torch does. Other engines get finite inputs only.
KEEPS_NOT_FINITE: Mapping[str, Callable[[ExportedGraph], bool]] = {"onnxruntime": keeps_not_finite}

#: Engines that are tried by default, most promising first, as time may not suffice for all. `inductor` is left out: it
#: takes longer than all of them together.
DEFAULT_ENGINES = ("cuda", "onnxruntime", "openvino", "torchscript")

#: Engines that are built last, if time is left: their first calls take long, and they are rarely the fastest.
LATE_ENGINES = ("torchscript", "inductor")
