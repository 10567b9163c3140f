"""The engines by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from layergraph.execution.engines.cuda import cuda
from layergraph.execution.engines.inductor import inductor
from layergraph.execution.engines.onnx_not_finite import keeps_not_finite
from layergraph.execution.engines.onnx_runtime import onnx_runtime
from layergraph.execution.engines.open_vino import open_vino
from layergraph.execution.engines.source import Engine, Source
from layergraph.execution.engines.torchscript import torchscript

#: torch, call by call: every plan runs on it, and all others are held to its numbers.
EAGER = "eager"

ENGINES: Mapping[str, Callable[[Source], Engine]] = {
    "cuda": cuda,
    "onnxruntime": onnx_runtime,
    "torchscript": torchscript,
    "openvino": open_vino,
    "inductor": inductor,
}

#: Engine -> whether it makes of NaN and infinities what eager torch does. To others only finite inputs are given.
KEEPS_NOT_FINITE: Mapping[str, Callable[[Source], bool]] = {"onnxruntime": keeps_not_finite}

#: Those that are tried unless others are asked for, most promising first, as time may not suffice for all. `inductor`
#: takes longer than all of them together.
DEFAULT_ENGINES = ("cuda", "onnxruntime", "openvino", "torchscript")
