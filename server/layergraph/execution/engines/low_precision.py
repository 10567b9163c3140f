"""Engines that compute with fewer than 32 bits. Their outputs differ, so they are checked with wider tolerances."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from layergraph.execution.engines.cuda import cuda
from layergraph.execution.engines.exported_graph import Engine, ExportedGraph, UnfitError
from layergraph.execution.engines.onnx.quantization import DYNAMIC, STATIC
from layergraph.execution.engines.onnx.runtime import input_names, session
from layergraph.execution.engines.open_vino import open_vino, open_vino_of_onnx


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


@dataclass(frozen=True, slots=True)
class QuantizedGraphs:
    """The folder of a plan's quantized graphs (see `onnx.quantization`), and how engines run them.

    dtypes    of the plan's inputs
    threads   number of threads per engine
    shared    whether other work uses the same cores
    """

    folder: Path
    dtypes: tuple[str, ...]
    threads: int
    shared: bool

    def onnx_runtime(self, file: str) -> Engine:
        """Raises UnfitError if there is no such file, or ONNX Runtime isn't installed."""
        return session(self._read(file), len(self.dtypes), self.threads, shared=self.shared)

    def open_vino(self, file: str) -> Engine:
        """Raises UnfitError if there is no such file, or OpenVINO isn't installed."""
        return open_vino_of_onnx(self._read(file), input_names(len(self.dtypes)), self.dtypes, self.threads)

    def _read(self, file: str) -> bytes:
        try:
            return (self.folder / file).read_bytes()
        except FileNotFoundError:
            raise UnfitError("the model has no layers that it could quantize") from None


#: Engine -> function that builds it from quantized graphs.
INT8: Mapping[str, Callable[[QuantizedGraphs], Engine]] = {
    "int8-onnxruntime": lambda graphs: graphs.onnx_runtime(STATIC),
    "int8-openvino": lambda graphs: graphs.open_vino(STATIC),
    "int8-dynamic": lambda graphs: graphs.onnx_runtime(DYNAMIC),
}
